package rest

import (
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/router/rest/internal/exec"
	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// call answers GET, HEAD, POST and OPTIONS of a function.
func (x *exchange) call() (*answer, error) {
	if x.r.Method == http.MethodOptions {
		return x.callable()
	}
	page, err := x.page()
	if err != nil {
		return nil, err
	}
	body, kind, err := x.arguments()
	if err != nil {
		return nil, err
	}
	var a *answer
	err = x.withSchema(x.r.Context(), func(entry *schema.Entry) error {
		c, err := plan.CallFunction(entry.Schema, plan.CallRequest{
			Schema: x.schema, Name: x.relation, Query: x.query,
			Body: body, Raw: rawType(kind), Lines: kind == csvBody, Page: page, Limits: x.limits(entry),
		})
		if err != nil {
			return err
		}
		of := c.Function.Name
		if c.Function.Returns != nil && c.Function.Returns.Columns != nil {
			of = c.Function.Returns.Name
		}
		m, err := x.negotiate(entry.Schema, of)
		if err != nil {
			return err
		}
		if err := x.strict(); err != nil {
			return err
		}
		readOnly := !isWrite(x.r.Method) || !c.Function.Volatile
		decide, err := x.decideCall(m, c.Function)
		if err != nil {
			return err
		}
		if m.handler != nil {
			c.Read.Unwritten()
		}
		form := x.form(m, x.r.Method != http.MethodHead)
		job := exec.Job{ReadOnly: readOnly, Limits: limits(c.Function), Statement: sqlgen.Call(c, form, x.options.Tenant), Decide: decide, Dirty: c.Function.Volatile || c.Read.Volatile()}
		a, err = x.perform(job, m, func(row exec.Row) (*answer, error) {
			a, err := x.callAnswer(row, m, page, c.Function)
			if err == nil {
				a.warn(c.Read)
			}
			return a, err
		})
		return err
	})
	return a, err
}

func limits(f *schema.Function) exec.Limits {
	return exec.Limits{Timeout: f.Timeout, CostLimit: f.CostLimit, Isolation: pgx.TxIsoLevel(f.Isolation)}
}

// decideCall is what COMMIT waits for; nil when it waits for nothing. A value is always one.
func (x *exchange) decideCall(m media, f *schema.Function) (func(exec.Row) error, error) {
	if !isWrite(x.r.Method) {
		return nil, nil
	}
	if f.Set {
		return x.decide(m, plan.Update), nil
	}
	if x.prefer.Handling == "strict" && x.prefer.Max != nil {
		return nil, problem("PGRST128", "Function must return SETOF or TABLE when max-affected preference is used with handling=strict")
	}
	return nil, nil
}

// arguments reads the body of POST and says what kind it is of; an empty one is no arguments. Those of a form stand
// beside the query's.
func (x *exchange) arguments() (*parse.Body, string, error) {
	if !isWrite(x.r.Method) {
		return nil, "", nil
	}
	raw, kind, err := x.rawBody()
	if err != nil {
		return nil, "", err
	}
	switch kind {
	case formBody:
		pairs, _, err := parse.ReadForm(raw)
		x.query.Args = pairs
		return nil, kind, err
	case csvBody:
		body, err := parse.ReadCSV(raw)
		return body, kind, err
	case bytesBody:
		return &parse.Body{Raw: hex.AppendEncode([]byte(`\x`), raw)}, kind, nil
	case textBody, xmlBody:
		if !parse.Text(string(raw)) {
			return nil, "", problem("PGRST102", "the body is not valid text").with("invalid UTF-8 or a zero byte", "")
		}
		return &parse.Body{Raw: raw}, kind, nil
	}
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	body, err := parse.ReadBody(raw, true)
	return body, kind, err
}

// rawType is the type of the parameter that takes a body of that kind as one value; "" when none does.
func rawType(kind string) schema.SQL {
	switch kind {
	case textBody, xmlBody, bytesBody:
		return schema.SQL(kind)
	}
	return ""
}

// callAnswer makes the answer of a call.
func (x *exchange) callAnswer(row exec.Row, m media, page parse.Page, f *schema.Function) (*answer, error) {
	if f.Set {
		a, err := x.rowsAnswer(row, m, page)
		if err == nil {
			err = x.fromDatabase(a, row)
		}
		return a, err
	}
	a := &answer{status: http.StatusOK, header: commonHeader(), body: row[sqlgen.Body]}
	total := "*"
	if row[sqlgen.Total] != nil {
		total = "1"
	}
	a.header.Set("Content-Range", "0-0/"+total)
	if f.Void {
		a.status, a.empty = http.StatusNoContent, true
	} else {
		x.withBody(a.header, m)
	}
	x.applied(a.header)
	return a, x.fromDatabase(a, row)
}

// callable answers OPTIONS of a function.
func (x *exchange) callable() (*answer, error) {
	var a *answer
	err := x.withSchema(x.r.Context(), func(entry *schema.Entry) error {
		functions := entry.Functions(x.schema, x.relation)
		if len(functions) == 0 {
			_, err := plan.CallFunction(entry.Schema, plan.CallRequest{Schema: x.schema, Name: x.relation, Query: x.query, Limits: x.limits(entry)})
			return err
		}
		methods := []string{"OPTIONS"}
		if !functions[0].Volatile {
			methods = append(methods, "GET", "HEAD")
		}
		a = allow(strings.Join(append(methods, "POST"), ","))
		return nil
	})
	return a, err
}
