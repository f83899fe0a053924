package admin

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// Client is an Operator over HTTP. Its errors are those of the near one, and *Problem where the API told more.
type Client struct {
	base  string
	token catalog.Secret
	http  *http.Client
}

var _ tenants.Operator = (*Client)(nil)

// How long an answer may take and how large it may be.
const (
	answerTime = 30 * time.Second
	answerSize = 64 << 20
)

// NewClient makes a client of the API at an address such as http://127.0.0.1:8081. It connects to nothing yet.
func NewClient(address string, token catalog.Secret) (*Client, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("admin url must be http://host:port or https://host: %w", catalog.ErrInvalid)
	case token.IsZero() || strings.ContainsAny(token.Reveal(), " \t\r\n"):
		return nil, fmt.Errorf("operator token is missing or has spaces in it: %w", catalog.ErrInvalid)
	}
	return &Client{
		base:  strings.TrimSuffix(u.Scheme+"://"+u.Host+u.EscapedPath(), "/") + basePath,
		token: token,
		http: &http.Client{Timeout: answerTime, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // the token is for this host
		}},
	}, nil
}

// do sends a request and reads its answer into out, if there is one to read into. A POST carries a key of its own, so that
// one whose answer is lost on the way can be sent again without being carried out twice.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var text []byte
	if in != nil {
		var err error
		if text, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%w: %w", catalog.ErrInvalid, err)
		}
	}
	if method != http.MethodPost {
		return c.send(ctx, method, path, query, "", text, out)
	}
	key := rand.Text()
	for attempt := 1; ; attempt++ {
		err := c.send(ctx, method, path, query, key, text, out)
		if attempt == attempts || ctx.Err() != nil || !isLost(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(attempt) * 300 * time.Millisecond):
		}
	}
}

// attempts is how often a POST is sent at most.
const attempts = 3

// isLost says that the answer to a request did not arrive: nobody knows whether it was carried out.
func isLost(err error) bool {
	var broken *url.Error
	var dialed *net.OpError
	if errors.As(err, &dialed) && dialed.Op == "dial" {
		return false // it was never sent
	}
	return errors.As(err, &broken) && !broken.Timeout() || errors.Is(err, catalog.ErrInFlight)
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, key string, text []byte, out any) error {
	var body io.Reader
	if text != nil {
		body = bytes.NewReader(text)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return fmt.Errorf("%w: request cannot be made", catalog.ErrInvalid)
	}
	r.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	r.Header.Set("Accept", "application/json")
	if text != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("admin api: %w", err)
	}
	defer answer.Body.Close()
	return read(answer, out)
}

func read(answer *http.Response, out any) error {
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerSize))
	switch {
	case err != nil:
		return fmt.Errorf("admin api: %w", err)
	case answer.StatusCode >= 300:
		return refusal(answer, text)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return errors.New("admin api: its answer cannot be read; is it a rowhouse?")
	}
	return nil
}

// refusal is the problem that the API answered with. What is none comes from something in between.
func refusal(answer *http.Response, text []byte) error {
	p := new(Problem)
	if strings.HasPrefix(answer.Header.Get("Content-Type"), "application/problem+json") && json.Unmarshal(text, p) == nil && p.Code != "" {
		return p
	}
	return fmt.Errorf("admin api answered %d, and not as a rowhouse does", answer.StatusCode)
}

// about says what an error is about, where the API was not told to repeat it.
func about(noun, ref string, err error) error {
	if errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("%s %q: %w", noun, ref, catalog.ErrNotFound)
	}
	return err
}

// every reads all pages of a list.
func every[Item any](ctx context.Context, c *Client, path string, query url.Values) ([]Item, error) {
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", "1000")
	all := []Item{}
	for {
		var one list[Item]
		if err := c.do(ctx, http.MethodGet, path, query, nil, &one); err != nil {
			return nil, err
		}
		all = append(all, one.Items...)
		if one.NextCursor == nil || len(one.Items) == 0 {
			return all, nil
		}
		query.Set("cursor", *one.NextCursor)
	}
}

// one reads a row.
func one[Row any](ctx context.Context, c *Client, method, path string, in any) (*Row, error) {
	row := new(Row)
	if err := c.do(ctx, method, path, nil, in, row); err != nil {
		return nil, err
	}
	return row, nil
}

func tenantQuery(tenant string) url.Values {
	if tenant == "" {
		return nil
	}
	return url.Values{"tenant": {tenant}}
}

// CreateTenant begins to provision a tenant.
func (c *Client) CreateTenant(ctx context.Context, spec tenants.TenantSpec) (*catalog.Operation, error) {
	return one[catalog.Operation](ctx, c, http.MethodPost, "/tenants", spec)
}

// AdoptTenant takes an existing database as a dedicated tenant.
func (c *Client) AdoptTenant(ctx context.Context, spec tenants.AdoptSpec) (*catalog.Tenant, error) {
	in := map[string]any{"name": spec.Name, "dsn": spec.DSN.Reveal()}
	return one[catalog.Tenant](ctx, c, http.MethodPost, "/adoptions", in)
}

// Tenant finds a tenant by id, name or alias.
func (c *Client) Tenant(ctx context.Context, ref string) (*catalog.Tenant, error) {
	t, err := one[catalog.Tenant](ctx, c, http.MethodGet, "/tenants/"+url.PathEscape(ref), nil)
	return t, about("tenant", ref, err)
}

// Tenants lists tenants by name.
func (c *Client) Tenants(ctx context.Context) ([]*catalog.Tenant, error) {
	return every[*catalog.Tenant](ctx, c, "/tenants", nil)
}

// SuspendTenant stops serving a tenant.
func (c *Client) SuspendTenant(ctx context.Context, ref, reason string) error {
	in := map[string]string{"reason": reason}
	return about("tenant", ref, c.do(ctx, http.MethodPost, "/tenants/"+url.PathEscape(ref)+"/suspend", nil, in, nil))
}

// ResumeTenant serves a tenant again.
func (c *Client) ResumeTenant(ctx context.Context, ref string) error {
	return about("tenant", ref, c.do(ctx, http.MethodPost, "/tenants/"+url.PathEscape(ref)+"/resume", nil, nil, nil))
}

// Operation finds an operation.
func (c *Client) Operation(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error) {
	op, err := one[catalog.Operation](ctx, c, http.MethodGet, "/operations/"+id.String(), nil)
	return op, about("operation", id.String(), err)
}

// Operations lists the newest hundred.
func (c *Client) Operations(ctx context.Context, tenant string) ([]*catalog.Operation, error) {
	newest := new(list[*catalog.Operation])
	err := c.do(ctx, http.MethodGet, "/operations", tenantQuery(tenant), nil, newest)
	return newest.Items, about("tenant", tenant, err)
}

// OperationEvents lists what happened to an operation.
func (c *Client) OperationEvents(ctx context.Context, id catalog.OperationID, after int64) ([]*catalog.OperationEvent, error) {
	query := url.Values{"after": {strconv.FormatInt(after, 10)}}
	found := new(list[*catalog.OperationEvent])
	err := c.do(ctx, http.MethodGet, "/operations/"+id.String()+"/events", query, nil, found)
	return found.Items, about("operation", id.String(), err)
}

// RetryOperation makes a failed operation go on at its step.
func (c *Client) RetryOperation(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error) {
	op, err := one[catalog.Operation](ctx, c, http.MethodPost, "/operations/"+id.String()+":retry", nil)
	return op, about("operation", id.String(), err)
}

// CancelOperation asks for an operation to end early.
func (c *Client) CancelOperation(ctx context.Context, id catalog.OperationID, undo bool) (*catalog.Operation, error) {
	path := "/operations/" + id.String() + ":cancel"
	if undo {
		path += "?undo=true"
	}
	op, err := one[catalog.Operation](ctx, c, http.MethodPost, path, nil)
	return op, about("operation", id.String(), err)
}

// RenameTenant gives a tenant another name.
func (c *Client) RenameTenant(ctx context.Context, ref, name string) error {
	in := map[string]string{"name": name}
	return about("tenant", ref, c.do(ctx, http.MethodPost, "/tenants/"+url.PathEscape(ref)+"/rename", nil, in, nil))
}

// AddDomain gives a tenant a host name of its own.
func (c *Client) AddDomain(ctx context.Context, ref, host string) error {
	return about("tenant", ref, c.do(ctx, http.MethodPut, domainPath(ref, host), nil, nil, nil))
}

// RemoveDomain takes a host name back.
func (c *Client) RemoveDomain(ctx context.Context, ref, host string) error {
	return about("tenant", ref, c.do(ctx, http.MethodDelete, domainPath(ref, host), nil, nil, nil))
}

func domainPath(ref, host string) string {
	return "/tenants/" + url.PathEscape(ref) + "/domains/" + url.PathEscape(host)
}

// AddServer registers a server and how its provisioner connects.
func (c *Client) AddServer(ctx context.Context, spec tenants.ServerSpec) (*catalog.Server, error) {
	in := struct {
		Name string `json:"name"`
		DSN  string `json:"dsn"`
		tenants.ServerLimits
	}{spec.Name, spec.DSN.Reveal(), spec.ServerLimits}
	return one[catalog.Server](ctx, c, http.MethodPost, "/servers", in)
}

// SetServer changes what an operator decides of a server.
func (c *Client) SetServer(ctx context.Context, ref string, limits tenants.ServerLimits) (*catalog.Server, error) {
	server, err := one[catalog.Server](ctx, c, http.MethodPatch, "/servers/"+url.PathEscape(ref), limits)
	return server, about("server", ref, err)
}

// DrainServer places nothing new on a server.
func (c *Client) DrainServer(ctx context.Context, ref string) error {
	return about("server", ref, c.do(ctx, http.MethodPost, "/servers/"+url.PathEscape(ref)+"/drain", nil, nil, nil))
}

// ResumeServer places on a server again.
func (c *Client) ResumeServer(ctx context.Context, ref string) error {
	return about("server", ref, c.do(ctx, http.MethodPost, "/servers/"+url.PathEscape(ref)+"/resume", nil, nil, nil))
}

// RemoveServer forgets a server that holds no databases.
func (c *Client) RemoveServer(ctx context.Context, ref string) error {
	return about("server", ref, c.do(ctx, http.MethodDelete, "/servers/"+url.PathEscape(ref), nil, nil, nil))
}

// Server finds a server by id or name.
func (c *Client) Server(ctx context.Context, ref string) (*catalog.Server, error) {
	server, err := one[catalog.Server](ctx, c, http.MethodGet, "/servers/"+url.PathEscape(ref), nil)
	return server, about("server", ref, err)
}

// Servers lists servers by name.
func (c *Client) Servers(ctx context.Context) ([]*catalog.Server, error) {
	return every[*catalog.Server](ctx, c, "/servers", nil)
}

// SetSetting stores what the host decides.
func (c *Client) SetSetting(ctx context.Context, tenant, key string, value json.RawMessage) error {
	in := map[string]json.RawMessage{"value": value}
	return about("tenant", tenant, c.do(ctx, http.MethodPut, "/settings/"+url.PathEscape(key), tenantQuery(tenant), in, nil))
}

// UnsetSetting takes back what SetSetting stored.
func (c *Client) UnsetSetting(ctx context.Context, tenant, key string) error {
	return about("tenant", tenant, c.do(ctx, http.MethodDelete, "/settings/"+url.PathEscape(key), tenantQuery(tenant), nil, nil))
}

// Settings are what the host decided.
func (c *Client) Settings(ctx context.Context, tenant string) (map[string]json.RawMessage, error) {
	all, err := every[*catalog.Setting](ctx, c, "/settings", tenantQuery(tenant))
	if err != nil {
		return nil, about("tenant", tenant, err)
	}
	values := make(map[string]json.RawMessage, len(all))
	for _, s := range all {
		values[s.Key] = s.Value
	}
	return values, nil
}

// CreateToken makes an operator's token.
func (c *Client) CreateToken(ctx context.Context, spec tenants.TokenSpec) (catalog.Secret, *catalog.Token, error) {
	if spec.Permissions == nil {
		spec.Permissions = []string{}
	}
	in := map[string]any{"subject": spec.Subject, "permissions": spec.Permissions, "ttl": spec.TTL.String()}
	made, err := one[newToken](ctx, c, http.MethodPost, "/tokens", in)
	if err != nil {
		return catalog.Secret{}, nil, err
	}
	return catalog.NewSecret(made.Text), &made.Token, nil
}

// Token finds an operator's token by its id.
func (c *Client) Token(ctx context.Context, id string) (*catalog.Token, error) {
	t, err := one[catalog.Token](ctx, c, http.MethodGet, "/tokens/"+url.PathEscape(id), nil)
	return t, about("token", id, err)
}

// Tokens lists operators' tokens.
func (c *Client) Tokens(ctx context.Context) ([]*catalog.Token, error) {
	return every[*catalog.Token](ctx, c, "/tokens", nil)
}

// RevokeToken ends an operator's token.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return about("token", id, c.do(ctx, http.MethodDelete, "/tokens/"+url.PathEscape(id), nil, nil, nil))
}

// Database finds a database by its id, or by the name that rowhouse gave it.
func (c *Client) Database(ctx context.Context, ref string) (*catalog.Database, error) {
	d, err := one[catalog.Database](ctx, c, http.MethodGet, "/databases/"+url.PathEscape(ref), nil)
	return d, about("database", ref, err)
}

// RotateDatabase changes the login and the password that requests to a database use.
func (c *Client) RotateDatabase(ctx context.Context, ref string) (*catalog.Operation, error) {
	op, err := one[catalog.Operation](ctx, c, http.MethodPost, "/databases/"+url.PathEscape(ref)+"/rotate", nil)
	return op, about("database", ref, err)
}

// Databases lists the databases of a server, or of all.
func (c *Client) Databases(ctx context.Context, server string) ([]*catalog.Database, error) {
	all, err := every[*catalog.Database](ctx, c, "/databases", filters("server", server))
	return all, about("server", server, err)
}

// Events lists what was done.
func (c *Client) Events(ctx context.Context, q tenants.AuditQuery) ([]catalog.Event, error) {
	query := filters("tenant", q.Tenant)
	if !q.Since.IsZero() {
		query.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Oldest {
		query.Set("order", "oldest")
		query.Set("after", strconv.FormatInt(q.After, 10))
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	// As many as are wanted, however few a page holds.
	all := []catalog.Event{}
	for len(all) < q.Limit {
		query.Set("limit", strconv.Itoa(min(q.Limit-len(all), 1000)))
		page := new(list[catalog.Event])
		if err := c.do(ctx, http.MethodGet, "/audit", query, nil, page); err != nil {
			return nil, about("tenant", q.Tenant, err)
		}
		all = append(all, page.Items...)
		if page.NextCursor == nil {
			break
		}
		query.Set("cursor", *page.NextCursor)
	}
	return all, nil
}

// Stats counts what there is.
func (c *Client) Stats(ctx context.Context) (*catalog.Stats, error) {
	return one[catalog.Stats](ctx, c, http.MethodGet, "/stats", nil)
}
