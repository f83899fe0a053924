package schema

import (
	"slices"
	"strconv"
	"strings"
)

// An origin is a column by its relation's OID and its number there. OIDs do not leave the loader.
type origin struct {
	relation string
	column   int
}

const selectRules = `
select r.ev_class::text, r.ev_action::text
from pg_rewrite r
join pg_class c on c.oid = r.ev_class
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any($1::text[])
  and c.relkind in ('v', 'm')
  and r.rulename = '_RETURN'
order by n.nspname, c.relname`

// viewRules finds out where the columns of views come from, and which tables are seen through views alone.
func (l *loader) viewRules() error {
	if len(l.views) == 0 {
		return nil
	}
	var oid, action string
	schemas := slices.Concat(l.schema.names, l.extra)
	err := each(l.ctx, l.q, selectRules, []any{schemas}, []any{&oid, &action}, func() { l.rules[oid] = origins(action) })
	if err != nil {
		return err
	}
	for _, view := range l.views {
		for column := range l.rules[view] {
			from := l.source(origin{view, column + 1})
			if from.column > 0 && l.byOID[from.relation] == nil {
				l.byOID[from.relation] = &Relation{}
				l.hidden = append(l.hidden, from.relation)
			}
		}
	}
	return nil
}

// source follows a view's column down to what is no view any more. Its column is zero where that is no column, and
// where views lead back to themselves, which PostgreSQL refuses only when they are read.
func (l *loader) source(o origin) origin {
	for range len(l.rules) + 1 {
		columns, view := l.rules[o.relation]
		if !view || o.column == 0 {
			return o
		}
		if o.column > len(columns) {
			return origin{}
		}
		o = columns[o.column-1]
	}
	return origin{}
}

// origins reads the columns of a view's top SELECT from the text of its rule: for each the column that it shows
// unchanged. PostgreSQL notes that itself, through joins, subqueries and CTEs, but not through UNION.
func origins(action string) []origin {
	var list []origin
	braces, inTargets := 0, false
	var entry origin
	for pos := 0; pos < len(action); {
		switch c := action[pos]; c {
		case '\\': // an escaped character of a name
			pos += 2
		case '{':
			braces++
			pos++
			if inTargets && braces == 2 {
				entry = origin{}
			}
		case '}':
			if inTargets && braces == 2 {
				list = append(list, entry)
			}
			braces--
			pos++
		case ')':
			pos++
			if inTargets && braces == 1 {
				return list
			}
		case ':':
			word := action[pos:]
			switch {
			case braces == 1 && strings.HasPrefix(word, ":targetList ("):
				inTargets = true
				pos += len(":targetList (")
			case inTargets && braces == 2 && strings.HasPrefix(word, ":resorigtbl "):
				entry.relation = digits(word[len(":resorigtbl "):])
				pos += len(":resorigtbl ")
			case inTargets && braces == 2 && strings.HasPrefix(word, ":resorigcol "):
				entry.column, _ = strconv.Atoi(digits(word[len(":resorigcol "):])) // no digits is no column
				pos += len(":resorigcol ")
			default:
				pos++
			}
		default:
			pos++
		}
	}
	return list
}

func digits(s string) string {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	return s[:end]
}

func (l *loader) exposed(r *Relation) bool { return r != nil && l.schema.relations[r.Name] == r }

// A shown is what a view shows of one relation: the names that each column goes by there.
type shown struct {
	view    *Relation
	columns map[string][]string
}

// keys hangs foreign keys on the relations at their ends, and carries them, like primary keys, over to views.
func (l *loader) keys() error {
	over := l.over()
	for _, key := range l.foreign {
		key.Single = key.From.Unique(key.Columns)
		tenant := -1 // the pair of tenant columns, of which requests know nothing
		for i := range key.Columns {
			if key.Columns[i] == TenantColumn && key.Targets[i] == TenantColumn && (key.From.Scoped || key.To.Scoped) {
				tenant = i
			}
		}
		froms, tos := l.ends(key.From, key.Columns, tenant, over), l.ends(key.To, key.Targets, tenant, over)
		for _, from := range froms {
			for _, to := range tos {
				l.hang(key, from, to, tenant)
			}
		}
	}
	return nil
}

// An end is a relation that has all of a key's columns; "" stands for a tenant's column that it does not show.
type end struct {
	relation *Relation
	columns  []string
}

// maxTimes bounds in how many ways one view may show a key.
const maxTimes = 16

func (l *loader) ends(r *Relation, columns []string, tenant int, over map[*Relation][]shown) []end {
	var ends []end
	if l.exposed(r) {
		ends = append(ends, end{r, columns})
	}
	for _, s := range over[r] {
		ways := [][]string{nil}
		for i, column := range columns {
			names := s.columns[column]
			if len(names) == 0 && i == tenant {
				names = []string{""}
			}
			var longer [][]string
			for _, way := range ways {
				for _, name := range names {
					longer = append(longer, append(slices.Clip(way), name))
				}
			}
			ways = longer[:min(len(longer), maxTimes)]
		}
		for _, way := range ways {
			ends = append(ends, end{s.view, way})
		}
	}
	return ends
}

func (l *loader) hang(key *ForeignKey, from, to end, tenant int) {
	fk := &ForeignKey{Constraint: key.Constraint, From: from.relation, To: to.relation, Single: key.Single}
	for i := range from.columns {
		if i == tenant && (from.columns[i] == "" || to.columns[i] == "") {
			continue
		}
		fk.Columns = append(fk.Columns, from.columns[i])
		fk.Targets = append(fk.Targets, to.columns[i])
	}
	from.relation.ForeignKeys = append(from.relation.ForeignKeys, fk)
	to.relation.Referrers = append(to.relation.Referrers, fk)
	if fk.From.View || fk.To.View {
		l.note('w', append(append([]string{fk.From.Schema, fk.From.Name.Name, fk.To.Schema, fk.To.Name.Name, fk.Constraint}, fk.Columns...), fk.Targets...)...)
	}
}

// over finds which views show which relations, and gives views the primary keys that they show in full.
func (l *loader) over() map[*Relation][]shown {
	over := map[*Relation][]shown{}
	for _, oid := range l.views {
		view := l.byOID[oid]
		var bases []*Relation
		of := map[*Relation]shown{}
		for i := range l.rules[oid] {
			from := l.source(origin{oid, i + 1})
			base, name := l.byOID[from.relation], l.columnNames[origin{oid, i + 1}]
			column := l.columnNames[from]
			if base == nil || column == "" || name == "" {
				continue
			}
			if of[base].view == nil {
				bases = append(bases, base)
				of[base] = shown{view, map[string][]string{}}
			}
			of[base].columns[column] = append(of[base].columns[column], name)
		}
		for _, base := range bases {
			over[base] = append(over[base], of[base])
			view.Key = append(view.Key, of[base].key(base)...)
		}
		l.note('k', append([]string{view.Schema, view.Name.Name}, view.Key...)...)
	}
	return over
}

// key is the base's primary key as the view shows it, each column under its first name; nil unless all are there.
func (s shown) key(base *Relation) []string {
	var key []string
	for _, column := range base.Key {
		names := s.columns[column]
		switch {
		case len(names) > 0:
			key = append(key, names[0])
		case !base.Scoped || column != TenantColumn:
			return nil
		}
	}
	return key
}
