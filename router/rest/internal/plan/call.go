package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// A Call is a function's result, read like a relation.
type Call struct {
	Function *schema.Function
	Args     []Given
	Body     *parse.Body // arguments by JSON; nil when they have their own values
	Read     *Read       // over the result; of a single column pgrst_scalar when the result is values
	Computed []string    // fields of its rows that functions make: where the rows come from is the last place where they resolve
}

// A Given is an argument of a call.
type Given struct {
	schema.Arg
	Value  string
	Values []string // of a variadic one
}

// A CallRequest is what CallFunction needs besides the schema.
type CallRequest struct {
	Schema, Name string
	Query        *parse.Query
	Body         *parse.Body // nil for GET, HEAD and forms
	Raw          schema.SQL  // the type of a body that is one value, and no JSON: text, xml, bytea
	Lines        bool        // the body came as lines, which are no value
	Page         parse.Page
	Limits       Limits
}

// CallFunction plans a call: the function is the one whose arguments fit the names that are given.
func CallFunction(s *schema.Schema, req CallRequest) (*Call, error) {
	names := req.names()
	f, err := choose(s, req, names)
	if err != nil {
		return nil, err
	}
	c := &Call{Function: f, Body: req.Body}
	for _, a := range f.Args {
		if slices.Contains(names, a.Name) {
			c.Args = append(c.Args, req.given(a))
		}
	}
	p := planner{schema: s, query: req.Query, limits: req.Limits}
	if f.Returns != nil {
		if c.Read, err = p.level(f.Returns, f.Name.Name, req.Query.Select, nil); err == nil {
			c.Read.group()
			err = p.attach(c.Read, true)
		}
	} else {
		c.Read = &Read{Relation: &schema.Relation{Name: f.Name}, Alias: f.Name.Name, Columns: []Column{{Operand: Operand{Of: f.Name.Name, Name: "pgrst_scalar"}}}}
	}
	if err != nil {
		return nil, err
	}
	c.computed()
	c.Read.Source = true
	c.Read.Limit, c.Read.Offset = p.capped(req.Page.Limit), req.Page.Offset
	return c, nil
}

// computed notes what is asked of the rows that is no column. What "*" stands for is then said, or it would be shown
// once more.
func (c *Call) computed() {
	if c.Function.Returns == nil || c.Function.Returns.Columns == nil {
		return
	}
	names, all := c.Read.Needs()
	for _, cond := range c.Read.Where {
		names = cond.names(names)
	}
	for _, name := range names {
		if c.Function.Returns.Column(name) == nil && !slices.Contains(c.Computed, name) {
			c.Computed = append(c.Computed, name)
		}
	}
	if all && len(c.Computed) > 0 {
		c.Read.expand()
	}
}

// names adds the columns that a condition speaks of.
func (c Cond) names(names []string) []string {
	if c.Group {
		for _, m := range c.Members {
			names = m.names(names)
		}
		return names
	}
	if c.Embed != nil {
		return names
	}
	return append(names, c.Left.Name)
}

// names are those of the arguments given, each once.
func (r CallRequest) names() []string {
	var names []string
	switch {
	case r.Body == nil:
		for _, a := range r.Query.Args {
			if !slices.Contains(names, a.Key) {
				names = append(names, a.Key)
			}
		}
	case r.Query.Columns != nil:
		names = r.Query.Columns
	default:
		names = r.Body.Keys
	}
	return names
}

func (r CallRequest) given(a schema.Arg) Given {
	g := Given{Arg: a}
	for _, pair := range r.Query.Args {
		if pair.Key == a.Name {
			g.Value = pair.Value
			g.Values = append(g.Values, pair.Value)
		}
	}
	return g
}

// choose finds the function: what it requires is given, what is given it takes. A POST that fits none goes whole to
// one that takes a JSON document.
func choose(s *schema.Schema, req CallRequest, names []string) (*schema.Function, error) {
	var fit []*schema.Function
	all := s.Functions(req.Schema, req.Name)
	for _, f := range all {
		if req.Raw == "" && !f.Unnamed && takes(f, names) {
			fit = append(fit, f)
		}
	}
	if len(fit) == 0 && req.Body != nil && !req.Lines {
		for _, f := range all {
			if f.Unnamed && req.fills(f.Args[0].Type) {
				fit = append(fit, f)
			}
		}
	}
	switch len(fit) {
	case 1:
		return fit[0], nil
	case 0:
		return nil, noFunction(s, req, names)
	}
	var list []string
	for _, f := range fit {
		var args []string
		for _, a := range f.Args {
			args = append(args, a.Name+" => "+string(a.Type))
		}
		list = append(list, fmt.Sprintf("%s.%s(%s)", req.Schema, req.Name, strings.Join(args, ", ")))
	}
	return nil, &Error{
		Code: "PGRST203", Message: "Could not choose the best candidate function between: " + strings.Join(list, ", "),
		Hint: "Try renaming the parameters or the function itself in the database so function overloading can be resolved",
	}
}

// fills says whether the body as a whole is a value of that type.
func (r CallRequest) fills(t schema.SQL) bool {
	if r.Raw != "" {
		return t == r.Raw
	}
	return t == "json" || t == "jsonb"
}

func takes(f *schema.Function, names []string) bool {
	matched := 0
	for _, a := range f.Args {
		if slices.Contains(names, a.Name) {
			matched++
		} else if !a.Optional && !a.Variadic {
			return false
		}
	}
	return matched == len(names)
}

const likeFunction = 0.75

func noFunction(s *schema.Schema, req CallRequest, names []string) error {
	qualified := req.Schema + "." + req.Name
	sorted := slices.Sorted(slices.Values(names))
	list := strings.Join(sorted, ", ")
	message, with := qualified+"("+list+")", "with parameters "+list
	switch len(sorted) {
	case 0:
		message, with = qualified+" without parameters", "without parameters"
	case 1:
		with = "with parameter " + list
	}
	switch {
	case req.Raw != "":
		message, with = qualified, "with a single unnamed "+string(req.Raw)+" parameter"
	case req.Body != nil && !req.Lines:
		with += " or with a single unnamed json/jsonb parameter"
	}
	e := &Error{
		Code: "PGRST202", Message: "Could not find the function " + message + " in the schema cache",
		Details: "Searched for the function " + qualified + " " + with + ", but no matches were found in the schema cache.",
	}
	if req.Raw != "" {
		return e
	}
	if overloads := s.Functions(req.Schema, req.Name); len(overloads) > 0 {
		if len(req.Limits.functions(req.Schema, []string{req.Name})) == 0 {
			return e
		}
		var lists []string
		for _, f := range overloads {
			var args []string
			for _, a := range f.Args {
				args = append(args, a.Name)
			}
			slices.Sort(args)
			lists = append(lists, "("+strings.Join(args, ", ")+")")
		}
		if like := Similar("("+list+")", lists, likeRelation); like != "" {
			e.Hint = "Perhaps you meant to call the function " + qualified + like
		}
		return e
	}
	all := s.FunctionNames(req.Schema)
	if Similar(req.Name, all, likeFunction) == "" {
		return e
	}
	if like := Similar(req.Name, req.Limits.functions(req.Schema, all), likeFunction); like != "" {
		e.Hint = "Perhaps you meant to call the function " + req.Schema + "." + like
	}
	return e
}
