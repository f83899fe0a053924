package parse

import "strings"

// Logic is an and/or at one level of the request.
type Logic struct {
	Path []string
	Tree Tree
}

// A Tree is a condition, or and/or over other trees.
type Tree struct {
	Cond    *Cond // nil: Or, Not and Members count
	Or, Not bool
	Members []Tree
}

// addLogic reads and=(…), or=(…), not.and=, rel.or=. A parenthesis too many does
// no harm. The tree is read as operator and value together, because
// that is how its error positions count.
func (q *Query) addLogic(p Pair, filters *int) *Error {
	s := scan("logic path", p.Key)
	var names []string
	for {
		name, err := s.name()
		if err != nil {
			return err
		}
		if names = append(names, name); len(names) > maxEmbedDepth+2 {
			return tooDeep("an embed", maxEmbedDepth)
		}
		if !s.take(".") {
			break
		}
	}
	if !s.done() {
		return s.fail("delimiter (.)", endOfInput)
	}
	op := names[len(names)-1]
	var path []string
	for _, name := range names[:len(names)-1] {
		if name == "not" {
			op = "not." + names[len(names)-1]
			continue
		}
		path = append(path, name)
	}
	t := scan("logic tree", op+p.Value)
	t.shown = p.Value
	tree, err := t.tree(0, filters)
	if err != nil {
		return err
	}
	if strings.Trim(t.rest(), ")") != "" {
		return t.fail(endOfInput)
	}
	q.Logic = append(q.Logic, Logic{Path: path, Tree: tree})
	return nil
}

func (s *scanner) tree(depth int, filters *int) (Tree, *Error) {
	if depth > maxLogicDepth {
		return Tree{}, tooDeep("a logic tree", maxLogicDepth)
	}
	if tree, ok, err := s.group(depth, filters); ok || err != nil {
		return tree, err
	}
	if *filters++; *filters > maxFilters {
		return Tree{}, tooMany("filters", maxFilters)
	}
	if s.done() || strings.IndexByte("(),", s.src[s.pos]) >= 0 {
		return Tree{}, s.fail(fieldName, "negation operator (not)", "logic operator (and, or)")
	}
	field, err := s.field()
	if err != nil {
		return Tree{}, err
	}
	if !s.take(".") {
		return Tree{}, s.fail("delimiter (.)")
	}
	cond, err := s.operation(true)
	if err != nil {
		return Tree{}, err
	}
	cond.Field = field
	return Tree{Cond: &cond}, nil
}

// group reads [not.]and(…) or [not.]or(…); ok is false when something else stands here, a column named "order" say.
func (s *scanner) group(depth int, filters *int) (tree Tree, ok bool, err *Error) {
	start := s.pos
	tree.Not = s.take("not.")
	switch {
	case s.take("and"):
	case s.take("or"):
		tree.Or = true
	default:
		s.pos = start
		return tree, false, nil
	}
	s.blanks()
	if !s.take("(") {
		if depth == 0 {
			return tree, false, s.fail(`"("`)
		}
		s.pos = start
		return tree, false, nil
	}
	for {
		s.blanks()
		member, err := s.tree(depth+1, filters)
		if err != nil {
			return tree, false, err
		}
		tree.Members = append(tree.Members, member)
		s.blanks()
		if s.take(",") {
			continue
		}
		if !s.take(")") {
			return tree, false, s.fail(`","`, `")"`)
		}
		s.blanks()
		return tree, true, nil
	}
}
