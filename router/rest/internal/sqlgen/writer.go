// Package sqlgen writes plans as SQL.
//
// A statement's text is made of constants, quoted identifiers, whitelisted casts and what the database's own
// catalog wrote. Everything else is a parameter without a type, which PostgreSQL infers from where it stands.
package sqlgen

import (
	"strconv"
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// A Statement is SQL text with the values of its parameters, as text; nil is NULL.
type Statement struct {
	SQL  string
	Args [][]byte
}

// constant is text of this package: no string variable becomes one by accident.
type constant string

type writer struct {
	sql    strings.Builder
	args   [][]byte
	tenant string // of the builder's predicate; "" writes none

	unjoined bool         // embeds are not joined here
	sourced  *plan.Read   // its rows are what a write returned
	paged    []*plan.Read // their rows were taken out of their relations
}

// newWriter has room for a statement of the ordinary kind.
func newWriter(tenant string) *writer {
	w := &writer{tenant: tenant, args: make([][]byte, 0, 8)}
	w.sql.Grow(512)
	return w
}

func (w *writer) lit(text constant) { w.sql.WriteString(string(text)) }

func (w *writer) catalog(text schema.SQL) { w.sql.WriteString(string(text)) }

// ident quotes a name. PostgreSQL reads everything up to the next single quote mark as the name, whatever it is.
func (w *writer) ident(name string) {
	w.sql.WriteByte('"')
	for i := 0; i < len(name); i++ {
		if name[i] == '"' {
			w.sql.WriteByte('"')
		}
		w.sql.WriteByte(name[i])
	}
	w.sql.WriteByte('"')
}

func (w *writer) qualified(first, second string) {
	w.ident(first)
	w.lit(".")
	w.ident(second)
}

// cast writes a type that the request names. What the whitelist does not know becomes an identifier, which is
// then an unknown type and no danger.
func (w *writer) cast(typ string) {
	if parse.ValidCast(typ) {
		w.sql.WriteString(typ)
		return
	}
	w.ident(typ)
}

// quote writes a name of the schema as a string literal.
func (w *writer) quote(name string) {
	w.lit("E'")
	for i := 0; i < len(name); i++ {
		if name[i] == '\'' || name[i] == '\\' {
			w.sql.WriteByte('\\')
		}
		w.sql.WriteByte(name[i])
	}
	w.lit("'")
}

// arg writes a parameter: one of its own for every value, since a parameter in two places confuses inference.
func (w *writer) arg(value []byte) {
	w.args = append(w.args, value)
	w.sql.WriteByte('$')
	w.sql.WriteString(strconv.Itoa(len(w.args)))
}

func (w *writer) text(value string) { w.arg([]byte(value)) }

func (w *writer) number(n int64) { w.arg(strconv.AppendInt(nil, n, 10)) }

func (w *writer) statement() Statement { return Statement{SQL: w.sql.String(), Args: w.args} }

// arrayLiteral writes values as one PostgreSQL array, every element quoted.
func arrayLiteral(values []string) []byte {
	b := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		for j := 0; j < len(v); j++ {
			if v[j] == '"' || v[j] == '\\' {
				b = append(b, '\\')
			}
			b = append(b, v[j])
		}
		b = append(b, '"')
	}
	return append(b, '}')
}
