package parse

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const fieldName = "field name (* or [a..z0..9_$])"

// A Field is a column, or a place inside a JSON column.
type Field struct {
	Name string
	Path []Step
}

// A Step is one arrow of a JSON path.
type Step struct {
	Text  bool // ->> instead of ->
	Index bool // Key is a signed decimal
	Key   string
}

func nameRune(r rune) bool {
	return r == '_' || r == '$' || r == ' ' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// name reads a field name: quoted, or runs of letters, digits, "_", "$" and blanks joined by dashes.
func (s *scanner) name() (string, *Error) {
	if s.at(`"`) {
		return s.quoted()
	}
	var runs []string
	for {
		start := s.pos
		for s.pos < len(s.src) {
			r, size := utf8.DecodeRuneInString(s.src[s.pos:])
			if !nameRune(r) {
				break
			}
			s.pos += size
		}
		run := strings.TrimSpace(s.src[start:s.pos])
		if run == "" {
			return "", s.fail(fieldName)
		}
		runs = append(runs, run)
		if s.at("->") || !s.take("-") {
			return strings.Join(runs, "-"), nil
		}
	}
}

// quoted reads "…", in which a backslash stands before any character.
func (s *scanner) quoted() (string, *Error) {
	s.pos++
	var b strings.Builder
	for s.pos < len(s.src) {
		c := s.src[s.pos]
		s.pos++
		switch c {
		case '"':
			return b.String(), nil
		case '\\':
			if s.pos == len(s.src) {
				return "", s.fail()
			}
			_, size := utf8.DecodeRuneInString(s.src[s.pos:])
			b.WriteString(s.src[s.pos : s.pos+size])
			s.pos += size
		default:
			b.WriteByte(c)
		}
	}
	return "", s.fail(`"\""`)
}

// field reads a name with its JSON path.
func (s *scanner) field() (Field, *Error) {
	name, err := s.name()
	if err != nil {
		return Field{}, err
	}
	path, err := s.jsonPath()
	return Field{Name: name, Path: path}, err
}

func (s *scanner) jsonPath() ([]Step, *Error) {
	var path []Step
	for s.at("->") {
		step := Step{Text: s.at("->>")}
		s.pos += 2
		if step.Text {
			s.pos++
		}
		if index, ok := s.index(); ok {
			step.Index, step.Key = true, index
		} else {
			key, err := s.jsonKey()
			if err != nil {
				return nil, err
			}
			step.Key = key
		}
		if path = append(path, step); len(path) > maxJSONPath {
			return nil, tooDeep("a JSON path", maxJSONPath)
		}
	}
	return path, nil
}

// index reads a signed integer, but only when "->", "::", ".", "," or the end follows.
func (s *scanner) index() (string, bool) {
	end := s.pos
	if end < len(s.src) && s.src[end] == '-' {
		end++
	}
	digits := end
	for end < len(s.src) && s.src[end] >= '0' && s.src[end] <= '9' {
		end++
	}
	rest := s.src[end:]
	follows := rest == "" || rest[0] == '.' || rest[0] == ',' || strings.HasPrefix(rest, "->") || strings.HasPrefix(rest, "::")
	if end == digits || !follows {
		return "", false
	}
	index := s.src[s.pos:end]
	s.pos = end
	return index, true
}

// badIndex is the error of what begins like a negative index and is none.
func (s *scanner) badIndex() *Error {
	s.pos++
	digits := s.pos
	for s.pos < len(s.src) && s.src[s.pos] >= '0' && s.src[s.pos] <= '9' {
		s.pos++
	}
	if s.pos == digits {
		return s.fail("digit")
	}
	return s.fail("digit", `"->"`, `"::"`, `"."`, `","`, endOfInput)
}

func (s *scanner) jsonKey() (string, *Error) {
	if s.at(`"`) {
		return s.quoted()
	}
	if s.at("-") && !s.at("->") {
		return "", s.badIndex()
	}
	start := s.pos
	for s.pos < len(s.src) {
		c := s.src[s.pos]
		if c == '-' && !s.at("->") && s.pos > start {
			s.pos++
			continue
		}
		if strings.IndexByte("(-:.,>)", c) >= 0 {
			break
		}
		s.pos++
	}
	if s.pos == start {
		return "", s.fail(`"-"`, "digit", `any non reserved character different from: .,>()`)
	}
	return s.src[start:s.pos], nil
}

// cast reads the type behind "::". It is written into SQL text as it stands, so nothing passes but words of
// letters, digits, "_" and an inner "$" (a leading one would open a dollar-quoted string), and single blanks.
func (s *scanner) cast() (string, *Error) {
	start, word := s.pos, false
	for s.pos < len(s.src) {
		r, size := utf8.DecodeRuneInString(s.src[s.pos:])
		if r == '$' && !word || r != '$' && !castRune(r) {
			break
		}
		word = r != ' '
		s.pos += size
	}
	words := strings.Fields(s.src[start:s.pos])
	if len(words) == 0 || s.at("$") {
		return "", s.fail("letter", "digit", `"_"`)
	}
	return strings.Join(words, " "), nil
}

func castRune(r rune) bool {
	return r == '_' || r == ' ' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

// ValidCast says whether a type may be written into SQL text as it stands. sqlgen asks again, so that the one
// door through which input reaches SQL text does not depend on who parsed it.
func ValidCast(text string) bool {
	s := scan("", text)
	got, err := s.cast()
	return err == nil && s.done() && got == text
}

// treePath reads the key of a filter or an order: names joined by dots, all but the last being embeds.
func treePath(key string) ([]string, Field, *Error) {
	s := scan("tree path", key)
	var names []string
	for {
		name, err := s.name()
		if err != nil {
			return nil, Field{}, err
		}
		names = append(names, name)
		if len(names) > maxEmbedDepth+1 {
			return nil, Field{}, tooDeep("an embed", maxEmbedDepth)
		}
		if !s.take(".") {
			break
		}
	}
	path, err := s.jsonPath()
	if err != nil {
		return nil, Field{}, err
	}
	if !s.done() {
		return nil, Field{}, s.fail("letter", "digit", `"_"`, "delimiter (.)", endOfInput)
	}
	last := len(names) - 1
	return names[:last:last], Field{Name: names[last], Path: path}, nil
}

// nameList reads names split by commas, for columns and on_conflict.
func nameList(label, value string) ([]string, *Error) {
	s := scan(label, value)
	var names []string
	for {
		s.blanks()
		name, err := s.name()
		if err != nil {
			return nil, err
		}
		if names = append(names, name); len(names) > maxItems {
			return nil, tooMany("columns", maxItems)
		}
		s.blanks()
		if s.done() {
			return names, nil
		}
		if !s.take(",") {
			return nil, s.fail(`","`, endOfInput)
		}
	}
}
