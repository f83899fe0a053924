package rest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// requestHeaders are what request.headers holds: a JSON object of names in lower case, the last of a repeat, no
// cookies.
func requestHeaders(r *http.Request) []byte {
	type pair struct{ name, value string }
	all := make([]pair, 1, 1+len(r.Header))
	all[0] = pair{"host", r.Host}
	for name, values := range r.Header {
		if name != "Cookie" && name != "Host" && len(values) > 0 {
			all = append(all, pair{strings.ToLower(name), values[len(values)-1]})
		}
	}
	slices.SortFunc(all, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	b := append(make([]byte, 0, 512), '{')
	for i, p := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(append(appendText(b, p.name), ':'), p.value)
	}
	return append(b, '}')
}

func requestCookies(r *http.Request) []byte {
	if r.Header["Cookie"] == nil {
		return []byte("{}")
	}
	cookies := map[string]string{}
	for _, c := range r.Cookies() {
		cookies[c.Name] = c.Value
	}
	return encode(cookies)
}

// appendText writes a JSON string. Nearly all header values need no escapes.
func appendText(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(b, encode(s)...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// withRole adds the role to claims that name none: functions written for the dialect look for it there.
func withRole(claims []byte, role string) []byte {
	if claims == nil {
		return encode(map[string]string{"role": role})
	}
	var own struct{ Role json.RawMessage }
	if err := json.Unmarshal(claims, &own); err != nil || own.Role != nil {
		return claims // what is no object has no place for it
	}
	head := bytes.TrimRight(claims, " \t\r\n")
	head = bytes.TrimRight(head[:len(head)-1], " \t\r\n") // without the brace
	with := append(make([]byte, 0, len(claims)+len(role)+16), head...)
	if head[len(head)-1] != '{' {
		with = append(with, ',')
	}
	return append(appendText(append(with, `"role":`...), role), '}')
}
