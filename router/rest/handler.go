package rest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/rest/internal/exec"
	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// An exchange is one request on its way to an answer.
type exchange struct {
	h       *Handler
	r       *http.Request
	options Options

	path     string // below the prefix, as sent
	relation string
	function bool
	schema   string
	profiled bool // the request names its schema
	query    *parse.Query
	prefer   parse.Prefer
	timing   timing

	key  string // Idempotency-Key; "" is none
	raw  []byte // the body
	held bool   // COMMIT waits for the answer
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	options, err := h.config.PerRequest(r)
	if err != nil {
		h.config.Error(w, r, err)
		return
	}
	x := &exchange{h: h, r: r, options: options.withDefaults(), prefer: parse.ReadPrefer(r.Header.Values("Prefer"))}
	x.timing.jwt, x.timing.tenant = x.options.Credential, x.options.Resolution
	x.timing.next(nil)
	a, err := x.answer()
	x.timing.next(&x.timing.response)
	if x.options.Timing || x.prefer.Timing {
		w.Header().Set("Server-Timing", x.timing.String())
	}
	if err != nil {
		h.fail(w, r, x.options, err)
		return
	}
	a.send(w, r)
}

// answer checks in the order that decides which error a doubly wrong request gets.
func (x *exchange) answer() (*answer, error) {
	if x.r.ContentLength > x.options.MaxBody {
		return nil, tooLarge()
	}
	if err := x.readPath(); err != nil {
		return nil, err
	}
	if err := x.readProfile(); err != nil {
		return nil, err
	}
	if err := x.checkMethod(); err != nil {
		return nil, err
	}
	if x.relation == "" {
		return x.root()
	}
	if err := x.readKey(); err != nil {
		return nil, err
	}
	var err error
	read := !isWrite(x.r.Method)
	if x.query, err = parse.ReadQuery(x.r.URL.RawQuery, x.function && read); err != nil {
		return nil, err
	}
	if !x.function && !read && x.query.Nameless() { // a filter that lost its column must not become a write of every row
		return nil, problem("PGRST100", "a filter names no column").with("a key of the query string is empty", "")
	}
	switch {
	case x.function:
		return x.call()
	case x.r.Method == http.MethodOptions:
		return x.allowed()
	case !read:
		return x.write()
	}
	return x.read()
}

func tooLarge() *apiError {
	return &apiError{status: http.StatusRequestEntityTooLarge, code: "payload_too_large", message: "the body is larger than accepted"}
}

// readPath splits the escaped path, then decodes each segment: a name may hold a slash.
func (x *exchange) readPath() error {
	path, ok := strings.CutPrefix(x.r.URL.EscapedPath(), x.h.config.Prefix)
	if !ok || path != "" && path[0] != '/' {
		return problem("PGRST125", "Invalid path specified in request URL")
	}
	x.path = path
	if path == "" || path == "/" {
		return nil
	}
	segments := strings.Split(path[1:], "/")
	x.function = len(segments) == 2 && segments[0] == "rpc"
	if len(segments) > 1 && !x.function || slices.Contains(segments, "") {
		return problem("PGRST125", "Invalid path specified in request URL")
	}
	name, err := url.PathUnescape(segments[len(segments)-1])
	if err != nil || !parse.Text(name) {
		return problem("PGRST100", "the path is not valid text").with("invalid UTF-8 or a zero byte", "")
	}
	x.relation = name
	return nil
}

func (x *exchange) readProfile() error {
	header := "Accept-Profile"
	switch x.r.Method {
	case http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete:
		header = "Content-Profile"
	}
	x.schema = x.r.Header.Get(header)
	x.profiled = x.schema != ""
	if !x.profiled {
		x.schema = x.options.Schemas[0]
		return nil
	}
	if !slices.Contains(x.options.Schemas, x.schema) {
		return problem("PGRST106", "Invalid schema: "+x.schema).with("", "Only the following schemas are exposed: "+strings.Join(x.options.Schemas, ", "))
	}
	return nil
}

func (x *exchange) checkMethod() error {
	method := x.r.Method
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	case http.MethodPost:
		if x.relation != "" {
			return nil
		}
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		if x.relation != "" && !x.function {
			return nil
		}
	}
	if x.function {
		return problem("PGRST101", "Cannot use the "+method+" method on RPC")
	}
	return problem("PGRST117", "Unsupported HTTP method: "+method)
}

func allow(methods string) *answer {
	return &answer{status: http.StatusOK, empty: true, header: http.Header{"Allow": {methods}, "Access-Control-Allow-Origin": {"*"}}}
}

// allowed answers OPTIONS of a relation.
func (x *exchange) allowed() (*answer, error) {
	var a *answer
	err := x.withRelation(x.r.Context(), func(_ *schema.Entry, r *schema.Relation) error {
		methods := "OPTIONS,GET,HEAD"
		if r.Insertable {
			methods += ",POST"
		}
		if r.Insertable && r.Updatable && len(r.VisibleKey()) > 0 {
			methods += ",PUT"
		}
		if r.Updatable {
			methods += ",PATCH"
		}
		if r.Deletable {
			methods += ",DELETE"
		}
		a = allow(methods)
		return nil
	})
	return a, err
}

// withRelation calls fn with the relation that the request names. When the relation is not there, or when
// PostgreSQL does not know something that the schema knows, the schema may be out of date: it is read again and,
// if it has changed, fn is called once more. Nothing of the first call was committed.
func (x *exchange) withRelation(ctx context.Context, fn func(*schema.Entry, *schema.Relation) error) error {
	return x.withSchema(ctx, func(entry *schema.Entry) error {
		relation := entry.Relation(x.schema, x.relation)
		if relation == nil {
			return x.noTable(ctx, entry)
		}
		return fn(entry, relation)
	})
}

// withSchema calls fn with the database's schema, and once more when fn's error and a second look say that the
// schema was out of date.
func (x *exchange) withSchema(ctx context.Context, fn func(*schema.Entry) error) error {
	key, load := schemaKey(x.options), x.h.loadSchema(x.options)
	x.timing.next(&x.timing.parse)
	entry, err := x.h.schemas.Get(ctx, key, load)
	if err == nil && x.options.Recheck > 0 && entry.Age() > x.options.Recheck {
		entry, _, err = x.h.schemas.Refresh(ctx, key, entry, load)
	}
	if err != nil {
		return err
	}
	err = fn(entry)
	if err == nil || !outdated(err) {
		return err
	}
	fresh, changed, loadErr := x.h.schemas.Refresh(ctx, key, entry, load)
	if loadErr != nil || !changed {
		return err
	}
	return fn(fresh)
}

// outdated says whether err may come from a schema that the database has left behind.
func outdated(err error) bool {
	var api *apiError
	if errors.As(err, &api) {
		return api.code == "PGRST205"
	}
	var planned *plan.Error
	if errors.As(err, &planned) {
		return planned.Code == "PGRST204" || planned.Code == "PGRST200" || planned.Code == "PGRST202"
	}
	var failure *exec.Failure
	var pg *pgconn.PgError
	if !errors.As(err, &failure) || failure.Outcome() != exec.RolledBack || !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "42P01", "42703", "42883", "42P10", "0A000":
		return true
	}
	return false
}

const (
	likeTable     = 0.75 // how alike a suggestion must be
	manyRelations = 500  // from so many on no suggestion is looked for
)

// noTable is the answer for an unknown relation. It suggests only what the role may see.
func (x *exchange) noTable(ctx context.Context, entry *schema.Entry) error {
	e := problem("PGRST205", fmt.Sprintf("Could not find the table '%s.%s' in the schema cache", x.schema, x.relation))
	names := entry.Relations(x.schema)
	if len(names) >= manyRelations || plan.Similar(x.relation, names, likeTable) == "" {
		return e
	}
	visible := x.seen(ctx, entry)().Relations
	var seen []string
	for _, name := range names {
		if visible[schema.Name{Schema: x.schema, Name: name}] {
			seen = append(seen, name)
		}
	}
	if like := plan.Similar(x.relation, seen, likeTable); like != "" {
		e.hint = fmt.Sprintf("Perhaps you meant the table '%s.%s'", x.schema, like)
	}
	return e
}

// seen asks the database what the role may see. Where that fails, hints name nothing.
func (x *exchange) seen(ctx context.Context, entry *schema.Entry) func() schema.Visible {
	return func() schema.Visible {
		visible, err := x.h.visible(ctx, x.options, entry)
		if err != nil {
			x.h.config.Logger.Debug("no suggestion", "error", err)
		}
		return visible
	}
}

// read answers GET and HEAD of a relation.
func (x *exchange) read() (*answer, error) {
	page, err := x.page()
	if err != nil {
		return nil, err
	}
	var a *answer
	err = x.withRelation(x.r.Context(), func(entry *schema.Entry, r *schema.Relation) error {
		read, err := plan.ReadRelation(entry.Schema, r, x.query, page, x.limits(entry))
		if err != nil {
			return err
		}
		m, err := x.negotiate(entry.Schema, r.Name)
		if err != nil {
			return err
		}
		if err := x.strict(); err != nil {
			return err
		}
		if m.handler != nil {
			read.Unwritten()
		}
		row, err := x.run(x.readJob(read, m), m)
		if err != nil {
			return err
		}
		if m.plan != nil {
			a = x.planAnswer(row, m)
			return nil
		}
		if err := x.total(row); err != nil {
			return err
		}
		if a, err = x.readAnswer(*row, m, page); err == nil {
			a.warn(read)
		}
		return err
	})
	return a, err
}

// readJob is the statement of a read with what its count takes.
func (x *exchange) readJob(read *plan.Read, m media) exec.Job {
	form := x.form(m, x.r.Method != http.MethodHead)
	job := exec.Job{ReadOnly: true, Dirty: read.Volatile()}
	switch x.prefer.Count {
	case "planned":
		form.Count = false
	case "estimated":
		if most := max(x.options.MaxRows, 0); most > 0 {
			form.CountAtMost = most + 1
		}
	}
	if x.prefer.Count == "planned" || x.prefer.Count == "estimated" {
		expected := sqlgen.Expected(read, x.options.Tenant)
		job.Expected = &expected
	}
	job.Statement = sqlgen.Read(read, form, x.options.Tenant)
	return job
}

// total puts PostgreSQL's own expectation in the place of the count: always when it was asked for, else where
// counting would have gone beyond the largest answer.
func (x *exchange) total(row *exec.Row) error {
	if row[sqlgen.Planned] == nil {
		return nil
	}
	var plans []struct {
		Plan struct {
			Rows int64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(row[sqlgen.Planned], &plans); err != nil || len(plans) != 1 {
		return fmt.Errorf("read the plan of a count: %w", err)
	}
	counted, expected := number(row[sqlgen.Total]), plans[0].Plan.Rows
	if x.prefer.Count == "planned" || counted > max(x.options.MaxRows, 0) {
		row[sqlgen.Total] = strconv.AppendInt(nil, max(counted, expected), 10)
	}
	return nil
}

func (x *exchange) limits(entry *schema.Entry) plan.Limits {
	return plan.Limits{MaxRows: max(x.options.MaxRows, 0), NoAggregates: x.options.NoAggregates, Seen: x.seen(x.r.Context(), entry)}
}

// page is what limit, offset and, on GET, the Range header leave of the rows.
func (x *exchange) page() (parse.Page, error) {
	header := ""
	if x.r.Method == http.MethodGet {
		header = x.r.Header.Get("Range")
	}
	return parse.ReadPage(x.rootRange(), header)
}

func (x *exchange) rootRange() parse.Range {
	for _, r := range x.query.Ranges {
		if len(r.Path) == 0 {
			return r
		}
	}
	return parse.Range{}
}

// strict refuses unknown preferences where the request wants that.
func (x *exchange) strict() error {
	unknown := x.prefer.Unknown
	if x.prefer.Handling != "strict" || len(unknown) == 0 {
		return nil
	}
	return problem("PGRST122", "Invalid preferences given with handling=strict").with("Invalid preferences: "+strings.Join(unknown, ", "), "")
}

// write answers POST, PUT, PATCH and DELETE of a relation.
func (x *exchange) write() (*answer, error) {
	verb, err := x.verb()
	if err != nil {
		return nil, err
	}
	body, err := x.readBody(verb)
	if err != nil {
		return nil, err
	}
	representation := x.prefer.Return == "representation"
	var a *answer
	err = x.withRelation(x.r.Context(), func(entry *schema.Entry, r *schema.Relation) error {
		write, err := plan.WriteRelation(entry.Schema, r, plan.WriteRequest{
			Verb: verb, Query: x.query, Body: body, Representation: representation,
			Location:   verb == plan.Insert && x.prefer.Return == "headers-only",
			Resolution: x.prefer.Resolution,
			Defaults:   x.prefer.Missing == "default", Limits: x.limits(entry), Put: x.put(),
		})
		if err != nil {
			return err
		}
		if err := x.strict(); err != nil {
			return err
		}
		m, err := x.negotiate(entry.Schema, r.Name)
		if err != nil {
			return err
		}
		if m.handler != nil && write.Read != nil {
			write.Read.Unwritten()
		}
		job := exec.Job{
			Statement: sqlgen.Write(write, x.form(m, representation), x.options.Tenant), Decide: x.decide(m, verb),
			Dirty: r.Triggers || write.Read != nil && write.Read.Volatile(),
		}
		a, err = x.perform(job, m, func(row exec.Row) (*answer, error) {
			a, err := x.writeAnswer(row, m, write)
			if err == nil && write.Read != nil {
				a.warn(write.Read)
			}
			return a, err
		})
		return err
	})
	return a, err
}

func (x *exchange) put() bool { return x.r.Method == http.MethodPut }

func (x *exchange) verb() (plan.Verb, error) {
	switch x.r.Method {
	case http.MethodPatch:
		return plan.Update, nil
	case http.MethodDelete:
		return plan.Delete, nil
	}
	if r := x.rootRange(); x.put() && (r.Limit != nil || r.Offset != nil) {
		return 0, problem("PGRST114", "limit/offset querystring parameters are not allowed for PUT")
	}
	return plan.Insert, nil
}

// readBody reads and looks at the body of POST, PUT and PATCH.
func (x *exchange) readBody(verb plan.Verb) (*parse.Body, error) {
	if verb == plan.Delete {
		return nil, nil
	}
	raw, kind, err := x.rawBody()
	if err != nil {
		return nil, err
	}
	switch kind {
	case jsonBody:
		return parse.ReadBody(raw, x.query.Columns != nil)
	case csvBody:
		return parse.ReadCSV(raw)
	case formBody:
		_, body, err := parse.ReadForm(raw)
		return body, err
	}
	return nil, x.badType()
}

// The kinds of bodies. Those that only functions take are called like the type of the parameter that takes them.
const (
	jsonBody  = "json"
	csvBody   = "csv"
	formBody  = "form"
	textBody  = "text"
	xmlBody   = "xml"
	bytesBody = "bytea"
)

func (x *exchange) badType() error {
	return problem("PGRST102", "Content-Type not acceptable: "+x.r.Header.Get("Content-Type"))
}

// rawBody reads a body, not beyond what is accepted.
func (x *exchange) rawBody() ([]byte, string, error) {
	kind := jsonBody
	if contentType := x.r.Header.Get("Content-Type"); contentType != "" {
		media, _, _ := strings.Cut(contentType, ";")
		switch strings.ToLower(strings.TrimSpace(media)) {
		case "application/json", "application/vnd.pgrst.object+json", "application/vnd.pgrst.array+json":
		case "text/csv":
			kind = csvBody
		case "application/x-www-form-urlencoded":
			kind = formBody
		case "text/plain":
			kind = textBody
		case "text/xml":
			kind = xmlBody
		case "application/octet-stream":
			kind = bytesBody
		default:
			return nil, "", x.badType()
		}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(nil, x.r.Body, x.options.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, "", tooLarge()
	case err != nil:
		return nil, "", problem("PGRST102", "Empty or invalid json").with("the body ended early", "")
	}
	x.raw = raw
	return raw, kind, nil
}

// decide is what COMMIT waits for; nil when it waits for nothing.
func (x *exchange) decide(m media, verb plan.Verb) func(exec.Row) error {
	limited := x.prefer.Handling == "strict" && x.prefer.Max != nil && verb != plan.Insert
	if !m.single && !limited && !x.put() {
		return nil
	}
	return func(row exec.Row) error {
		n := number(row[sqlgen.Rows])
		if x.put() && n != 1 {
			return problem("PGRST115", plan.PutMismatch)
		}
		if limited && n > *x.prefer.Max {
			return problem("PGRST124", "Query result exceeds max-affected preference constraint").with(fmt.Sprintf("The query affects %d rows", n), "")
		}
		if m.single {
			return oneRow(n)
		}
		return nil
	}
}

func oneRow(n int64) error {
	if n == 1 {
		return nil
	}
	return problem("PGRST116", "Cannot coerce the result to a single JSON object").with(fmt.Sprintf("The result contains %d rows", n), "")
}

// run runs a job with the settings that code in the database may look at; or asks for its plan, if the media type
// is one.
func (x *exchange) run(job exec.Job, m media) (*exec.Row, error) {
	if m.plan != nil {
		job.Statement = sqlgen.Plan(job.Statement, m.plan.json, m.plan.options)
		job.Lines, job.Decide, job.Expected = true, nil, nil
	}
	job.Settings = exec.Settings{
		SearchPath: searchPath(x.schema, x.options.ExtraSearchPath),
		Claims:     x.options.Claims,
		Method:     x.r.Method,
		Path:       x.path,
		Headers:    requestHeaders(x.r),
		Cookies:    requestCookies(x.r),
		Timezone:   x.prefer.Timezone,
	}
	job.PreRequest = preRequest(x.options.PreRequest)
	job.Dirty = job.Dirty || job.PreRequest != ""
	job.Scope = x.options.Role + "\x00" + x.options.Fingerprint
	job.Rollback = x.rollback()
	if decide := job.Decide; decide != nil {
		job.Decide = func(row exec.Row) error {
			if err := x.fits(row, exec.RolledBack); err != nil {
				return err
			}
			return decide(row)
		}
	}
	job.Waited = &x.timing.pool
	x.timing.next(&x.timing.plan)
	before := x.timing.pool
	row, err := x.h.runner.Run(x.r.Context(), job)
	x.timing.next(&x.timing.transaction)
	x.timing.transaction -= x.timing.pool - before
	if err == nil && m.handler != nil && m.handler.Bytes && m.plan == nil {
		row[sqlgen.Body], err = rawBytes(row[sqlgen.Body])
	}
	if err == nil {
		outcome := exec.Committed
		if job.Rollback {
			outcome = exec.RolledBack
		}
		err = x.fits(row, outcome)
	}
	return &row, err
}

// rawBytes undoes how PostgreSQL writes bytea.
func rawBytes(text []byte) ([]byte, error) {
	digits, ok := bytes.CutPrefix(text, []byte(`\x`))
	if !ok && len(text) > 0 {
		return nil, errors.New("a bytea is not written in hex")
	}
	raw := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(raw, digits); err != nil {
		return nil, fmt.Errorf("read a bytea: %w", err)
	}
	return raw, nil
}

// fits holds an answer to the largest that is sent.
func (x *exchange) fits(row exec.Row, outcome string) error {
	if len(row[sqlgen.Body]) <= x.options.MaxAnswer {
		return nil
	}
	e := (&apiError{status: http.StatusBadRequest, code: "response_too_large", message: "the answer is larger than can be sent"}).
		with(fmt.Sprintf("%d bytes, of which at most %d are sent", len(row[sqlgen.Body]), x.options.MaxAnswer), "Ask for fewer rows at a time with limit and offset, or for fewer columns with select.")
	e.outcome = outcome
	return e
}

// rollback says whether the transaction ends without leaving anything.
func (x *exchange) rollback() bool {
	end, override := strings.CutSuffix(x.options.TxEnd, "-allow-override")
	if override && x.prefer.Tx != "" {
		end = x.prefer.Tx
	}
	return end == "rollback"
}

// preRequest writes the call of a function that the configuration names.
func preRequest(name string) string {
	if name == "" {
		return ""
	}
	return "select " + pgx.Identifier(strings.SplitN(name, ".", 2)).Sanitize() + "()"
}
