package parse

import (
	"encoding/json"
	"strings"
)

// ReadCSV makes a JSON array of a CSV body: the first line names the columns, every value is a text, and the
// unquoted word NULL is null.
func ReadCSV(raw []byte) (*Body, error) {
	if !Text(string(raw)) {
		return nil, &Error{Code: "PGRST102", Message: "Empty or invalid csv"}
	}
	r := &csvReader{src: strings.TrimPrefix(string(raw), "\ufeff")}
	header := r.line()
	body := &Body{Array: true, Keys: []string{}}
	keys := make([][]byte, len(header))
	for i, field := range header {
		keys[i] = quoteJSON(field.text)
		body.Keys = append(body.Keys, field.text)
	}
	if len(keys) > 2*maxItems {
		return nil, tooMany("columns", 2*maxItems)
	}
	out := []byte{'['}
	for r.pos < len(r.src) {
		line := r.line()
		if len(line) == 1 && line[0] == (csvField{}) { // an empty line says nothing
			continue
		}
		if len(line) != len(keys) {
			return nil, &Error{Code: "PGRST102", Message: "All lines must have same number of fields"}
		}
		if body.Rows > 0 {
			out = append(out, ',')
		}
		out = append(out, '{')
		for i, field := range line {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(append(out, keys[i]...), ':')
			if field.text == "NULL" && !field.quoted {
				out = append(out, "null"...)
			} else {
				out = append(out, quoteJSON(field.text)...)
			}
		}
		out = append(out, '}')
		body.Rows++
	}
	body.Raw = append(out, ']')
	return body, nil
}

// ReadForm reads an urlencoded body: pairs, and one object of texts.
func ReadForm(raw []byte) ([]Pair, *Body, error) {
	pairs, err := split(string(raw))
	if err != nil {
		return nil, nil, err
	}
	body := &Body{Keys: []string{}, Rows: 1}
	out := []byte{'{'}
	for i, p := range pairs {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, quoteJSON(p.Key)...), ':'), quoteJSON(p.Value)...)
		if first(pairs[:i], p.Key) {
			body.Keys = append(body.Keys, p.Key)
		}
	}
	body.Raw = append(out, '}')
	return pairs, body, nil
}

func quoteJSON(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string has always a JSON form
	}
	return b
}

type csvField struct {
	text   string
	quoted bool
}

type csvReader struct {
	src string
	pos int
}

// line reads fields up to the end of a line. Quotes may hold commas, line ends and doubled quotes.
func (r *csvReader) line() []csvField {
	var line []csvField
	for {
		line = append(line, r.field())
		switch {
		case r.pos >= len(r.src):
			return line
		case r.src[r.pos] == ',':
			r.pos++
		case strings.HasPrefix(r.src[r.pos:], "\r\n"):
			r.pos += 2
			return line
		default:
			r.pos++
			return line
		}
	}
}

func (r *csvReader) field() csvField {
	if r.pos >= len(r.src) || r.src[r.pos] != '"' {
		start := r.pos
		if end := strings.IndexAny(r.src[start:], ",\r\n"); end >= 0 {
			r.pos += end
		} else {
			r.pos = len(r.src)
		}
		return csvField{text: r.src[start:r.pos]}
	}
	var b strings.Builder
	for r.pos++; r.pos < len(r.src); r.pos++ {
		if r.src[r.pos] != '"' {
			b.WriteByte(r.src[r.pos])
			continue
		}
		if r.pos++; r.pos >= len(r.src) || r.src[r.pos] != '"' {
			break
		}
		b.WriteByte('"')
	}
	// What stands between a closing quote and the next comma belongs to the value, as lenient readers have it.
	for r.pos < len(r.src) && strings.IndexByte(",\r\n", r.src[r.pos]) < 0 {
		b.WriteByte(r.src[r.pos])
		r.pos++
	}
	return csvField{text: b.String(), quoted: true}
}
