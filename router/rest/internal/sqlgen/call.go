package sqlgen

import (
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
)

// Call writes the statement of a function call. The function is called once, in a source of its own, however often
// its result is looked at.
func Call(c *plan.Call, form Form, tenant string) Statement {
	w := newWriter(tenant)
	w.lit("WITH _source AS MATERIALIZED (SELECT ")
	if c.Function.Returns != nil {
		w.ident(c.Function.Name.Name)
		w.lit(".*")
		for _, name := range c.Computed {
			w.lit(", ")
			w.qualified(c.Function.Name.Name, name)
		}
		w.lit(" FROM ")
		if w.arguments(c) {
			w.lit(", LATERAL ")
		}
		w.invoke(c)
		w.lit(" AS ")
		w.ident(c.Function.Name.Name)
	} else {
		w.invoke(c)
		w.lit(" AS pgrst_scalar")
		if byBody(c) {
			w.lit(" FROM ")
			w.arguments(c)
		}
	}
	w.lit(") ")
	form.Values = c.Function.Returns == nil
	form.Body = form.Body && !c.Function.Void
	form.Single = form.Single || !c.Function.Set
	w.rows(c.Read, form)
	return w.statement()
}

// byBody says whether the arguments come out of a JSON body.
func byBody(c *plan.Call) bool { return c.Body != nil && len(c.Args) > 0 && !c.Function.Unnamed }

// arguments makes a row of the body's, if they come from there.
func (w *writer) arguments(c *plan.Call) bool {
	if !byBody(c) {
		return false
	}
	w.lit("json_to_record(")
	w.arg(c.Body.Raw)
	if c.Body.Array {
		w.lit("::json->0")
	}
	w.lit(") AS _args(")
	for i, a := range c.Args {
		if i > 0 {
			w.lit(", ")
		}
		w.ident(a.Name)
		w.lit(" ")
		w.catalog(a.Type)
	}
	w.lit(")")
	return true
}

func (w *writer) invoke(c *plan.Call) {
	w.qualified(c.Function.Schema, c.Function.Name.Name)
	w.lit("(")
	if c.Function.Unnamed {
		w.arg(c.Body.Raw)
		w.lit("::")
		w.catalog(c.Function.Args[0].Type)
	}
	for i, a := range c.Args {
		if i > 0 {
			w.lit(", ")
		}
		if a.Variadic {
			w.lit("VARIADIC ")
		}
		w.ident(a.Name)
		w.lit(" := ")
		switch {
		case byBody(c):
			w.qualified("_args", a.Name)
			continue
		case a.Variadic && (len(a.Values) > 1 || !isArray(a.Value)):
			w.arg(arrayLiteral(a.Values))
		default:
			w.text(a.Value)
		}
		w.lit("::")
		w.catalog(a.Type)
	}
	w.lit(")")
}

// isArray says whether a value is written as a whole array.
func isArray(value string) bool {
	return strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}")
}
