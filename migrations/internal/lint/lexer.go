// Package lint reads migration files: it finds where statements begin and end, and what a file must not contain.
package lint

import (
	"fmt"
	"strings"
)

// Kind says what a Token is.
type Kind int

// The kinds of token that the rules tell apart. Comments and white space are no tokens.
const (
	Word    Kind = iota // a key word or an unquoted identifier, Text in lower case
	Quoted              // a quoted identifier, Text without its quotes
	String              // a string constant of any form, Text without quotes
	Number              // a number or a parameter
	Symbol              // one character of punctuation or of an operator
	Command             // a backslash command of psql, which no server understands
)

// Token is a piece of SQL.
type Token struct {
	Kind Kind
	Text string
	Pos  int // byte offset in the file
}

// Statement is one statement of a file, without the semicolon that ends it.
type Statement struct {
	Pos, End int // byte offsets: the first token's begin, the last one's end
	Tokens   []Token
}

// SyntaxError is a file that ends inside a comment, a string or a quoted identifier.
type SyntaxError struct {
	Pos  int // byte offset of what was not ended
	What string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s is never ended", e.What) }

// Line is the line of byte offset pos in text, counted from 1.
func Line(text string, pos int) int {
	return 1 + strings.Count(text[:min(max(pos, 0), len(text))], "\n")
}

// Split cuts a file into its statements the way the server would: a semicolon inside a comment, a string, a dollar-quoted body,
// parentheses or BEGIN ATOMIC ends nothing. It assumes standard_conforming_strings, which our connections pin.
func Split(text string) ([]Statement, error) {
	lex := lexer{text: text}
	var all []Statement
	var current Statement
	flush := func() {
		if len(current.Tokens) > 0 {
			current.Pos = current.Tokens[0].Pos
			all = append(all, current)
		}
		current = Statement{}
	}
	depth, atomic := 0, nesting{}
	for {
		tok, ok, err := lex.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			flush()
			return all, nil
		}
		switch {
		case tok.Kind == Symbol && tok.Text == ";" && depth == 0 && !atomic.open():
			flush()
			depth, atomic = 0, nesting{}
			continue
		case tok.Kind == Symbol && (tok.Text == "(" || tok.Text == "["):
			depth++
		case tok.Kind == Symbol && (tok.Text == ")" || tok.Text == "]"):
			depth = max(depth-1, 0)
		case tok.Kind == Word:
			atomic.see(tok.Text, current.Tokens)
		}
		current.Tokens = append(current.Tokens, tok)
		current.End = lex.pos
	}
}

// nesting follows a BEGIN ATOMIC body: its own end, and the ends of the CASE expressions inside.
type nesting struct{ levels int }

func (n *nesting) open() bool { return n.levels > 0 }

func (n *nesting) see(word string, before []Token) {
	switch {
	case word == "atomic" && len(before) > 0 && before[len(before)-1].Kind == Word && before[len(before)-1].Text == "begin" &&
		before[0].Kind == Word && before[0].Text == "create":
		n.levels++
	case word == "case" && n.levels > 0:
		n.levels++
	case word == "end" && n.levels > 0:
		n.levels--
	}
}

type lexer struct {
	text string
	pos  int
	line bool // something other than white space stands before pos on its line
}

func (l *lexer) next() (Token, bool, error) {
	for l.pos < len(l.text) {
		c, start := l.text[l.pos], l.pos
		rest := l.text[l.pos:]
		switch {
		case c == '\n':
			l.pos++
			l.line = false
			continue
		case c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v':
			l.pos++
			continue
		case strings.HasPrefix(rest, "--"):
			if end := strings.IndexByte(rest, '\n'); end >= 0 {
				l.pos += end
			} else {
				l.pos = len(l.text)
			}
			continue
		case strings.HasPrefix(rest, "/*"):
			if err := l.comment(); err != nil {
				return Token{}, false, err
			}
			continue
		}
		tok, err := l.token(c, start)
		l.line = true
		return tok, err == nil, err
	}
	return Token{}, false, nil
}

func (l *lexer) token(c byte, start int) (Token, error) {
	switch {
	case c == '\'':
		return l.quoted(String, '\'', "string", start, l.pos+1, false)
	case c == '"':
		return l.quoted(Quoted, '"', "quoted identifier", start, l.pos+1, false)
	case (c == 'e' || c == 'E') && l.peek(1) == '\'':
		return l.quoted(String, '\'', "string", start, l.pos+2, true)
	case strings.IndexByte("bBxXnN", c) >= 0 && l.peek(1) == '\'':
		return l.quoted(String, '\'', "string", start, l.pos+2, false)
	case (c == 'u' || c == 'U') && l.peek(1) == '&' && l.peek(2) == '\'':
		return l.quoted(String, '\'', "string", start, l.pos+3, false)
	case (c == 'u' || c == 'U') && l.peek(1) == '&' && l.peek(2) == '"':
		return l.quoted(Quoted, '"', "quoted identifier", start, l.pos+3, false)
	case c == '$':
		return l.dollar(start)
	case identStart(c):
		for l.pos < len(l.text) && identPart(l.text[l.pos]) {
			l.pos++
		}
		return Token{Kind: Word, Text: strings.ToLower(l.text[start:l.pos]), Pos: start}, nil
	case c >= '0' && c <= '9':
		for l.pos < len(l.text) && (identPart(l.text[l.pos]) || l.text[l.pos] == '.') {
			l.pos++
		}
		return Token{Kind: Number, Text: l.text[start:l.pos], Pos: start}, nil
	case c == '\\' && !l.line:
		l.pos++
		for l.pos < len(l.text) && identPart(l.text[l.pos]) {
			l.pos++
		}
		return Token{Kind: Command, Text: l.text[start:l.pos], Pos: start}, nil
	}
	l.pos++
	return Token{Kind: Symbol, Text: string(rune(c)), Pos: start}, nil
}

func (l *lexer) peek(n int) byte {
	if l.pos+n < len(l.text) {
		return l.text[l.pos+n]
	}
	return 0
}

// comment skips a block comment; they nest.
func (l *lexer) comment() error {
	start, depth := l.pos, 0
	for l.pos < len(l.text) {
		switch {
		case strings.HasPrefix(l.text[l.pos:], "/*"):
			depth++
			l.pos += 2
		case strings.HasPrefix(l.text[l.pos:], "*/"):
			depth--
			l.pos += 2
			if depth == 0 {
				return nil
			}
		default:
			l.pos++
		}
	}
	return &SyntaxError{Pos: start, What: "comment"}
}

// quoted reads up to the closing quote; a doubled quote stands for itself, and in E” a backslash takes the next character with it.
func (l *lexer) quoted(kind Kind, quote byte, what string, start, from int, escapes bool) (Token, error) {
	var text strings.Builder
	for i := from; i < len(l.text); i++ {
		switch c := l.text[i]; {
		case escapes && c == '\\' && i+1 < len(l.text):
			i++
			text.WriteByte(l.text[i])
		case c == quote && i+1 < len(l.text) && l.text[i+1] == quote:
			i++
			text.WriteByte(quote)
		case c == quote:
			l.pos = i + 1
			return Token{Kind: kind, Text: text.String(), Pos: start}, nil
		default:
			text.WriteByte(c)
		}
	}
	return Token{}, &SyntaxError{Pos: start, What: what}
}

// dollar reads a dollar-quoted string; $1 is a parameter, and a lone $ is punctuation.
func (l *lexer) dollar(start int) (Token, error) {
	i := l.pos + 1
	if i < len(l.text) && l.text[i] >= '0' && l.text[i] <= '9' {
		for i < len(l.text) && l.text[i] >= '0' && l.text[i] <= '9' {
			i++
		}
		l.pos = i
		return Token{Kind: Number, Text: l.text[start:i], Pos: start}, nil
	}
	for i < len(l.text) && identPart(l.text[i]) && l.text[i] != '$' {
		i++
	}
	if i >= len(l.text) || l.text[i] != '$' {
		l.pos++
		return Token{Kind: Symbol, Text: "$", Pos: start}, nil
	}
	tag := l.text[start : i+1]
	end := strings.Index(l.text[i+1:], tag)
	if end < 0 {
		return Token{}, &SyntaxError{Pos: start, What: "dollar-quoted string"}
	}
	l.pos = i + 1 + end + len(tag)
	return Token{Kind: String, Text: l.text[i+1 : i+1+end], Pos: start}, nil
}

func identStart(c byte) bool {
	return c == '_' || c >= 0x80 || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func identPart(c byte) bool { return identStart(c) || c == '$' || c >= '0' && c <= '9' }
