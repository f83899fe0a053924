package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/exec"
	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// An answer is ready to be sent: the transaction behind it has ended.
type answer struct {
	status int
	header http.Header
	body   []byte
	empty  bool // no body and no content type
}

func (a *answer) send(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	for name, values := range a.header {
		if name == "Vary" { // ours comes first, others' stays
			values = append(values, header["Vary"]...)
		}
		header[name] = values
	}
	head := r.Method == http.MethodHead
	if !head && a.status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	if !head && !a.empty {
		_, _ = w.Write(a.body) // a client that went away is nobody's error
	}
}

// warn tells of names that will stop working.
func (a *answer) warn(read *plan.Read) {
	for _, r := range read.ByName {
		if legalHeader("warning", r.Name+r.Alias) {
			a.header.Add("Warning", fmt.Sprintf("299 PostgRESTv16.2 \"Embedded resource was referenced by relation name even though it has an alias. "+
				"This is deprecated and will stop working in a future release. Update `%s` to `%s` in query string filters, orders or limits.\"", r.Name, r.Alias))
		}
	}
}

// commonHeader is what every answer carries.
func commonHeader() http.Header {
	return http.Header{
		"Vary":          {"Accept, Prefer, Range", "Authorization, Host, Origin"},
		"Cache-Control": {"private, no-store"},
	}
}

// withBody notes what an answer with a body carries.
func (x *exchange) withBody(header http.Header, m media) {
	header.Set("Content-Type", m.contentType)
	if x.profiled || len(x.options.Schemas) > 1 {
		header.Set("Content-Profile", x.schema)
	}
}

// readAnswer makes the answer of GET and HEAD of a relation.
func (x *exchange) readAnswer(row exec.Row, m media, page parse.Page) (*answer, error) {
	a, err := x.rowsAnswer(row, m, page)
	if err != nil {
		return nil, err
	}
	a.header.Set("Content-Location", x.location())
	return a, x.fromDatabase(a, row)
}

// rowsAnswer makes an answer of any number of rows.
func (x *exchange) rowsAnswer(row exec.Row, m media, page parse.Page) (*answer, error) {
	rows := number(row[sqlgen.Rows])
	if m.single {
		if err := oneRow(rows); err != nil {
			return nil, err
		}
	}
	a := &answer{status: http.StatusOK, header: commonHeader(), body: row[sqlgen.Body]}
	contentRange, total := "*/", "*"
	if rows > 0 {
		contentRange = fmt.Sprintf("%d-%d/", page.Offset, page.Offset+rows-1)
	}
	if row[sqlgen.Total] != nil {
		total = string(row[sqlgen.Total])
		all := number(row[sqlgen.Total])
		switch {
		case page.Offset > all:
			e := problem("PGRST103", "Requested range not satisfiable").
				with(fmt.Sprintf("An offset of %d was requested, but there are only %d rows.", page.Offset, all), "")
			e.header = commonHeader()
			e.header.Set("Content-Range", contentRange+total)
			if !x.function {
				e.header.Set("Content-Location", x.location())
			}
			return nil, e
		case rows < all:
			a.status = http.StatusPartialContent
		}
	}
	a.header.Set("Content-Range", contentRange+total)
	x.withBody(a.header, m)
	x.applied(a.header)
	return a, nil
}

// planAnswer makes the answer that tells how a statement would run.
func (x *exchange) planAnswer(row *exec.Row, m media) *answer {
	a := &answer{status: http.StatusOK, header: commonHeader(), body: row[sqlgen.Body]}
	x.withBody(a.header, m)
	return a
}

// writeAnswer makes the answer of POST, PUT, PATCH and DELETE.
func (x *exchange) writeAnswer(row exec.Row, m media, w *plan.Write) (*answer, error) {
	rows := number(row[sqlgen.Rows])
	a := &answer{header: commonHeader()}
	total := "*"
	if row[sqlgen.Total] != nil {
		total = string(row[sqlgen.Total])
	}
	switch {
	case w.Put:
	case w.Verb == plan.Update && rows > 0:
		a.header.Set("Content-Range", fmt.Sprintf("0-%d/%s", rows-1, total))
	default:
		a.header.Set("Content-Range", "*/"+total)
	}
	switch {
	case w.Put && w.Read == nil:
		a.status = http.StatusNoContent
	case w.Conflict != nil && (w.Put || x.prefer.Resolution == "merge-duplicates") && inserted(w, row) <= 0:
		a.status = http.StatusOK
	case w.Verb == plan.Insert:
		a.status = http.StatusCreated
	case w.Read != nil:
		a.status = http.StatusOK
	default:
		a.status = http.StatusNoContent
	}
	if w.Read != nil {
		a.body = row[sqlgen.Body]
		x.withBody(a.header, m)
	} else {
		a.empty = true
	}
	if rows == 1 && row[sqlgen.Location] != nil {
		location, err := x.newRow(w.Location, row[sqlgen.Location])
		if err != nil {
			return nil, err
		}
		a.header.Set("Location", location)
	}
	x.applied(a.header)
	if w.Conflict != nil && !w.Put { // comes first in the list
		applied := "resolution=" + x.prefer.Resolution
		if others := a.header.Get("Preference-Applied"); others != "" {
			applied += ", " + others
		}
		a.header.Set("Preference-Applied", applied)
	}
	return a, x.fromDatabase(a, row)
}

// inserted is how many rows an upsert added. Where nothing was to be merged, they are all.
func inserted(w *plan.Write, row exec.Row) int64 {
	if len(w.Columns) == 0 {
		return number(row[sqlgen.Rows])
	}
	return number(row[sqlgen.Inserted])
}

// newRow is the address of a single new row: a filter for each column of its key.
func (x *exchange) newRow(columns []string, values []byte) (string, error) {
	var texts []*string
	if err := json.Unmarshal(values, &texts); err != nil || len(texts) != len(columns) {
		e := &apiError{status: http.StatusInternalServerError, code: "internal_error", message: "the new row's key cannot be read"}
		if !x.held {
			e.outcome = exec.Committed
		}
		return "", e
	}
	var b strings.Builder
	b.WriteString("/" + escape(x.relation))
	for i, column := range columns {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString(escape(column))
		if texts[i] == nil {
			b.WriteString("=is.null")
		} else {
			b.WriteString("=eq." + escape(*texts[i]))
		}
	}
	return b.String(), nil
}

// location is the canonical address of what was read: pairs sorted by key, the values of one key joined.
func (x *exchange) location() string {
	pairs := slices.Clone(x.query.Pairs)
	slices.SortStableFunc(pairs, func(a, b parse.Pair) int { return strings.Compare(a.Key, b.Key) })
	var b strings.Builder
	b.WriteString("/" + escape(x.relation))
	for i, p := range pairs {
		if i > 0 && pairs[i-1].Key == p.Key {
			b.WriteByte(',')
		} else {
			b.WriteByte("?&"[min(i, 1)])
			b.WriteString(escape(p.Key))
			b.WriteByte('=')
		}
		b.WriteString(escape(p.Value))
	}
	return b.String()
}

// escape percent-encodes all but the unreserved characters.
func escape(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// applied lists the preferences that were honoured, in the dialect's order.
func (x *exchange) applied(header http.Header) {
	var list []string
	add := func(when bool, key, value string) {
		if when && value != "" {
			list = append(list, key+"="+value)
		}
	}
	p, method := x.prefer, x.r.Method
	write := isWrite(method)
	add(!x.function && (method == http.MethodPost || method == http.MethodPatch), "missing", p.Missing)
	add(!x.function && write, "return", p.Return)
	add(true, "count", p.Count)
	add(strings.HasSuffix(x.options.TxEnd, "-allow-override"), "tx", p.Tx)
	add(true, "handling", p.Handling)
	add(true, "timezone", p.Timezone)
	if p.Max != nil {
		add(p.Handling == "strict" && (method == http.MethodPatch || method == http.MethodDelete || x.function), "max-affected", strconv.FormatInt(*p.Max, 10))
	}
	if len(list) > 0 {
		header.Set("Preference-Applied", strings.Join(list, ", "))
	}
}

// fromDatabase lets response.headers and response.status, as set in the transaction, change the answer.
func (x *exchange) fromDatabase(a *answer, row exec.Row) error {
	bad := func(code, message string) error {
		e := problem(code, message)
		if isWrite(x.r.Method) && !x.rollback() && !x.held {
			e.outcome = exec.Committed
		}
		return e
	}
	if raw := row[sqlgen.Headers]; raw != nil {
		var list []map[string]string
		if json.Unmarshal(raw, &list) != nil || !singleLegal(list) {
			return bad("PGRST111", "response.headers guc must be a JSON array composed of objects with a single key and a string value")
		}
		replaced := map[string]bool{}
		for _, object := range list {
			for name, value := range object {
				name = http.CanonicalHeaderKey(name)
				if !replaced[name] && name != "Vary" {
					a.header.Del(name)
				}
				if name == "Vary" && !replaced[name] { // takes the place of the dialect's, not of what caches must know
					a.header["Vary"] = append([]string{value}, a.header["Vary"][1:]...)
				} else {
					a.header.Add(name, value)
				}
				replaced[name] = true
			}
		}
	}
	if raw := row[sqlgen.Status]; raw != nil {
		status, err := strconv.Atoi(string(raw))
		if err != nil || status < 200 || status > 599 {
			return bad("PGRST112", "response.status guc must be a valid status code")
		}
		a.status = status
	}
	return nil
}

func singleLegal(list []map[string]string) bool {
	for _, object := range list {
		if len(object) != 1 {
			return false
		}
		for name, value := range object {
			if !legalHeader(name, value) {
				return false
			}
		}
	}
	return true
}

// legalHeader says whether a header that the database wants may be sent: a token, no line breaks, and nothing that
// says where the answer or the connection ends.
func legalHeader(name, value string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Content-Length", "Transfer-Encoding", "Connection", "Trailer", "Upgrade", "Keep-Alive", "Te":
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return name != ""
}

// number reads what PostgreSQL wrote as a bigint; no text is zero.
func number(text []byte) int64 {
	n, _ := strconv.ParseInt(string(text), 10, 64) // count(*) writes nothing else
	return n
}
