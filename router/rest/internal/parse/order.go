package parse

// Orders is the order of one level.
type Orders struct {
	Path  []string
	Terms []Order
}

// An Order is one term of order=.
type Order struct {
	Relation string // of rel(col): order by a to-one embed
	Field    Field
	Desc     bool
	Nulls    string // "", first, last
}

// addOrder reads order= of one level; the first of a level counts.
func (q *Query) addOrder(p Pair) *Error {
	path, _, err := treePath(p.Key)
	if err != nil {
		return err
	}
	for _, o := range q.Orders {
		if samePath(o.Path, path) {
			return nil
		}
	}
	if p.Value == "" {
		return nil
	}
	s := scan("order", p.Value)
	var terms []Order
	for {
		term, err := s.order()
		if err != nil {
			return err
		}
		if terms = append(terms, term); len(terms) > maxItems {
			return tooMany("order terms", maxItems)
		}
		if s.done() {
			break
		}
		if !s.take(",") {
			return s.fail(`","`, endOfInput)
		}
	}
	q.Orders = append(q.Orders, Orders{Path: path, Terms: terms})
	return nil
}

func (s *scanner) order() (Order, *Error) {
	var o Order
	s.blanks()
	field, err := s.field()
	if err != nil {
		return o, err
	}
	o.Field = field
	if s.at("(") && len(field.Path) == 0 {
		s.pos++
		o.Relation = field.Name
		if o.Field, err = s.field(); err != nil {
			return o, err
		}
		if !s.take(")") {
			return o, s.fail(`")"`)
		}
	}
	s.blanks()
	switch {
	case s.take(".asc"):
	case s.take(".desc"):
		o.Desc = true
	}
	switch {
	case s.take(".nullsfirst"):
		o.Nulls = "first"
	case s.take(".nullslast"):
		o.Nulls = "last"
	}
	s.blanks()
	switch {
	case s.done() || s.at(","):
	case o.Nulls != "":
		return o, s.fail(`","`, endOfInput)
	default:
		return o, s.fail("delimiter (.)", `","`, endOfInput)
	}
	return o, nil
}
