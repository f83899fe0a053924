package rest

import (
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
