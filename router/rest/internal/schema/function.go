package schema

import (
	"strconv"
	"strings"
	"time"
)

// A Function is one that requests may call.
type Function struct {
	Name
	Args     []Arg
	Unnamed  bool      // its only argument has no name: it takes the whole body
	Returns  *Relation // whose rows it gives; without columns when they are no relation's; nil for values
	Set      bool      // any number of rows or values
	Void     bool
	Volatile bool

	// What its SET clauses say of its transaction, which has begun when they take effect.
	Timeout   time.Duration // of its statement; zero says nothing
	CostLimit string        // plan_filter's; "" says nothing
	Isolation string        // "" is the default
}

// An Arg is an argument that a call gives.
type Arg struct {
	Name     string
	Type     SQL
	Optional bool
	Variadic bool
}

// Functions are those of that name, overloads included.
func (s *Schema) Functions(schema, name string) []*Function { return s.functions[Name{schema, name}] }

// FunctionNames are the names in one schema, sorted.
func (s *Schema) FunctionNames(schema string) []string { return s.functionNames[schema] }

const selectFunctions = `
select n.nspname, p.proname, p.provolatile = 'v', p.proretset, t.typname = 'void',
       coalesce(b.typtype, t.typtype) = 'c' or coalesce(p.proargmodes && '{o,b,t}'::"char"[], false),
       coalesce(b.typrelid, t.typrelid)::text, p.pronargdefaults::int, p.provariadic <> 0,
       array(select coalesce(u.name, '') from unnest(p.proargnames, p.proargmodes) with ordinality u(name, mode, i)
             where u.mode is null or u.mode in ('i', 'b', 'v') order by u.i),
       array(select format_type(u.typ, null) from unnest(p.proargtypes) with ordinality u(typ, i) order by u.i),
       coalesce(p.proconfig, '{}'),
       coalesce((select a.typrelid from pg_type a where p.pronargs = 1 and a.oid = p.proargtypes[0]), 0)::text, p.prorows = 1
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join pg_type t on t.oid = p.prorettype
left join pg_type b on b.oid = t.typbasetype and t.typtype = 'd'
where n.nspname = any($1::text[])
  and p.prokind = 'f'
  and t.typname not in ('trigger', 'event_trigger')
order by n.nspname, p.proname, p.pronargs, 11`

func (l *loader) functions() error {
	var f Function
	var composite, variadic, oneRow bool
	var relation, of string
	var defaults int
	var names, types, config []string
	dest := []any{&f.Schema, &f.Name.Name, &f.Volatile, &f.Set, &f.Void, &composite, &relation, &defaults, &variadic, &names, &types, &config, &of, &oneRow}
	return each(l.ctx, l.q, selectFunctions, []any{l.schema.names}, dest, func() {
		one := f
		one.configure(config)
		if composite {
			if one.Returns = l.byOID[relation]; one.Returns == nil {
				one.Returns = &Relation{Name: one.Name}
			}
		}
		for i, typ := range types {
			a := Arg{Type: widened(typ), Optional: i >= len(types)-defaults, Variadic: variadic && i == len(types)-1}
			if i < len(names) {
				a.Name = names[i]
			}
			one.Args = append(one.Args, a)
		}
		if from, to := l.byOID[of], l.byOID[relation]; l.exposed(from) && l.exposed(to) {
			from.Computed = append(from.Computed, &Computed{Function: one.Name, To: to, ToOne: !one.Set || oneRow})
			l.note('p', one.Schema, one.Name.Name, from.Schema, from.Name.Name, to.Schema, to.Name.Name)
			l.noteFlags(one.Set, oneRow)
		}
		if !one.callable() {
			return
		}
		if len(l.schema.functions[one.Name]) == 0 {
			l.schema.functionNames[one.Schema] = append(l.schema.functionNames[one.Schema], one.Name.Name)
		}
		l.schema.functions[one.Name] = append(l.schema.functions[one.Name], &one)
		l.note('f', append(append([]string{one.Schema, one.Name.Name, relation}, names...), types...)...)
		l.note('g', config...)
		l.noteFlags(one.Volatile, one.Set, one.Void, composite, variadic)
	})
}

// configure takes from SET clauses what has to be set for the transaction instead.
func (f *Function) configure(config []string) {
	for _, setting := range config {
		switch name, value, _ := strings.Cut(setting, "="); strings.ToLower(name) {
		case "statement_timeout":
			f.Timeout = milliseconds(value)
		case "plan_filter.statement_cost_limit":
			f.CostLimit = value
		case "default_transaction_isolation":
			switch value = strings.ToLower(value); value {
			case "serializable", "repeatable read", "read committed", "read uncommitted":
				f.Isolation = value
			}
		}
	}
}

// milliseconds reads a duration as PostgreSQL writes it: a number of milliseconds, or with a unit.
func milliseconds(s string) time.Duration {
	s = strings.TrimSpace(s)
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyz ")
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n < 0 {
		return 0
	}
	units := map[string]time.Duration{"us": time.Microsecond, "": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	return time.Duration(n * float64(units[strings.TrimSpace(s[len(digits):])]))
}

// widened is a type as arguments are read: one that cuts to a single character without its length becomes varying.
func widened(typ string) SQL {
	element, array := strings.CutSuffix(typ, "[]")
	switch element {
	case "character", "bit":
		element += " varying"
	}
	if array {
		element += "[]"
	}
	return SQL(element)
}

// callable says whether arguments can be given: all by name, or one that is the body.
func (f *Function) callable() bool {
	for _, a := range f.Args {
		if a.Name != "" {
			continue
		}
		switch a.Type {
		case "json", "jsonb", "text", "xml", "bytea":
			f.Unnamed = len(f.Args) == 1
		}
		return f.Unnamed
	}
	return true
}
