package parse

import "strings"

// A Filter is a condition at one level of the request.
type Filter struct {
	Path []string // embeds from the root
	Cond Cond
}

// A Cond compares a field with a value.
type Cond struct {
	Field Field
	Not   bool
	Op    string // as the dialect writes it: eq, like, in, …
	Quant string // "", any, all
	Lang  string // of a full text search; "" is the database's
	Value string
	List  []string // of in
}

const operators = "operator (eq, gt, ...)"

// quantified operators may carry (any) or (all).
var (
	quantified = words("eq gt gte lt lte like ilike match imatch")
	plain      = words("neq cs cd ov sl sr nxr nxl adj isdistinct")
	search     = words("fts plfts phfts wfts")
)

func words(list string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(list) {
		m[w] = true
	}
	return m
}

func (q *Query) addFilter(p Pair, function bool) *Error {
	s := scan("filter", p.Value)
	cond, err := s.operation(false)
	if err != nil && function {
		q.Args = append(q.Args, p)
		return nil
	}
	if err != nil {
		return err
	}
	path, field, err := treePath(p.Key)
	if err != nil {
		return err
	}
	cond.Field = field
	q.Filters = append(q.Filters, Filter{Path: path, Cond: cond})
	return nil
}

// operation reads [not.]operator[(modifier)].value. Inside and/or a value ends at a comma or parenthesis.
func (s *scanner) operation(inLogic bool) (Cond, *Error) {
	var c Cond
	c.Not = s.take("not.")
	start := s.pos
	for s.pos < len(s.src) && (s.src[s.pos] >= 'a' && s.src[s.pos] <= 'z') {
		s.pos++
	}
	c.Op = s.src[start:s.pos]
	known := c.Op == "in" || c.Op == "is" || quantified[c.Op] || plain[c.Op] || search[c.Op]
	if !known {
		s.pos = start
		if c.Not {
			return c, s.fail(operators)
		}
		return c, s.fail(`"not"`, operators)
	}
	if err := s.modifier(&c); err != nil {
		return c, err
	}
	if !s.take(".") {
		return c, s.fail("delimiter (.)")
	}
	var err *Error
	switch {
	case c.Op == "in":
		c.List, err = s.list()
	case c.Op == "is":
		c.Value, err = s.isValue(inLogic)
	case inLogic:
		c.Value = s.logicValue()
	default:
		c.Value = s.rest()
		s.pos = len(s.src)
	}
	if err == nil && !inLogic && !s.done() {
		err = s.fail(endOfInput)
	}
	return c, err
}

func (s *scanner) modifier(c *Cond) *Error {
	if !s.at("(") {
		return nil
	}
	switch {
	case quantified[c.Op]:
		s.pos++
		if c.Quant = s.until(")."); c.Quant != "any" && c.Quant != "all" {
			s.pos -= len(c.Quant)
			return s.fail(`"any"`, `"all"`)
		}
	case search[c.Op]:
		s.pos++
		if c.Lang = s.until(")"); strings.TrimSpace(c.Lang) == "" {
			return s.fail("letter", "digit", `"_"`)
		}
	default:
		return s.fail("delimiter (.)")
	}
	if !s.take(")") {
		return s.fail(`")"`)
	}
	return nil
}

func (s *scanner) isValue(inLogic bool) (string, *Error) {
	start := s.pos
	value := s.until(",)")
	if !inLogic {
		s.pos = len(s.src)
		value = s.src[start:]
	}
	switch word := strings.ToLower(value); word {
	case "null", "not_null", "true", "false", "unknown":
		return word, nil
	}
	s.pos = start
	return "", s.fail("isVal: (null, not_null, true, false, unknown)")
}

// list reads the elements of in.(…), blanks included.
func (s *scanner) list() ([]string, *Error) {
	s.blanks()
	if !s.take("(") {
		return nil, s.fail(`"("`)
	}
	s.blanks()
	if s.take(")") {
		s.blanks()
		return []string{}, nil
	}
	list := []string{}
	for {
		list = append(list, s.element())
		if s.take(",") {
			continue
		}
		if !s.take(")") {
			return nil, s.fail(`","`, `")"`)
		}
		s.blanks()
		break
	}
	return list, nil
}

// element reads a quoted value directly followed by "," or ")", else the raw run up to one of them.
func (s *scanner) element() string {
	if s.at(`"`) {
		start := s.pos
		if value, err := s.quoted(); err == nil && (s.at(",") || s.at(")")) {
			return value
		}
		s.pos = start
	}
	return s.until(",)")
}

func (s *scanner) logicValue() string {
	if s.at("{") {
		if end := strings.IndexAny(s.src[s.pos+1:], "{}"); end >= 0 && s.src[s.pos+1+end] == '}' {
			value := s.src[s.pos : s.pos+end+2]
			s.pos += len(value)
			return value
		}
	}
	return s.element()
}
