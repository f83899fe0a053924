package schema

import "slices"

// A Handler makes answers of a media type that a domain is named after.
type Handler struct {
	Function Name      // an aggregate over rows; not used for functions, whose value is the answer
	Rows     *Relation // of the type that the aggregate takes; nil takes any rows
	Value    bool      // the answer is the value of a function
	Bytes    bool      // not a text
}

type handlerKey struct {
	of    Name // a relation, or a function that returns no relation's rows; empty is all
	media string
}

// Handler is what makes answers of a media type of one relation or function, or of all where of is empty; nil when
// there is none.
func (s *Schema) Handler(of Name, media string) *Handler { return s.handlers[handlerKey{of, media}] }

// A domain over text or bytea named like a media type is one.
const selectHandlers = `
select n.nspname, p.proname, p.prokind = 'a', t.typname, b.typname = 'bytea',
       coalesce((select a.typrelid from pg_type a where p.pronargs = 1 and a.oid = p.proargtypes[0]), 0)::text,
       p.pronargs = 1 and p.proargtypes[0] = 'anyelement'::regtype
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join pg_type t on t.oid = p.prorettype and t.typtype = 'd' and position('/' in t.typname) > 0
join pg_type b on b.oid = t.typbasetype
where n.nspname = any($1::text[])
  and p.prokind in ('a', 'f')
  and not p.proretset
order by n.nspname, p.proname, p.oid`

func (l *loader) mediaHandlers() error {
	l.schema.handlers = map[handlerKey]*Handler{}
	var name Name
	var aggregate, bytes, anyRow bool
	var media, of string
	schemas := slices.Concat(l.schema.names, l.extra)
	return each(l.ctx, l.q, selectHandlers, []any{schemas}, []any{&name.Schema, &name.Name, &aggregate, &media, &bytes, &of, &anyRow}, func() {
		h := &Handler{Function: name, Bytes: bytes}
		rows := l.byOID[of]
		switch {
		case !aggregate:
			h.Value = true
			l.schema.handlers[handlerKey{name, media}] = h
		case anyRow:
			l.schema.handlers[handlerKey{media: media}] = h
		case l.exposed(rows):
			h.Rows = rows
			l.schema.handlers[handlerKey{rows.Name, media}] = h
		}
		l.note('h', name.Schema, name.Name, media)
		l.noteFlags(aggregate, bytes, anyRow, rows != nil)
	})
}
