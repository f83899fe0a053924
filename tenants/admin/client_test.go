package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/admin"
)

// The same verbs, near and far, end the same: what differs between the two operators is a fault of the API.
func TestClient_IsTheServiceFromFar(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]func(*testing.T, *house) tenants.Operator{
		"near": func(_ *testing.T, h *house) tenants.Operator { return h.service },
		"far":  func(t *testing.T, h *house) tenants.Operator { return h.client(t, h.all) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			walk(t, h, of(t, h))
		})
	}
}

// walk goes through all verbs, failures included.
func walk(t *testing.T, h *house, op tenants.Operator) {
	ctx := t.Context()
	check := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) || err != nil && strings.Contains(err.Error(), "RHCANARY") {
			t.Fatalf("got %v, want %v", err, want)
		}
	}

	made, err := op.CreateTenant(ctx, tenants.TenantSpec{Name: "acme", Edition: "pro"})
	check(err, nil)
	if made.Kind != tenants.KindProvision || made.State != catalog.OperationPending || made.TenantName != "acme" || len(made.Steps) != 9 {
		t.Errorf("operation is %+v", made)
	}
	var queued int
	if err := h.catalog.Pool().QueryRow(ctx, `select count(*) from rowhouse_test.queue where operation = $1`, made.ID).Scan(&queued); err != nil || queued != 1 {
		t.Errorf("%d jobs, %v", queued, err)
	}
	_, err = op.CreateTenant(ctx, tenants.TenantSpec{Name: "acme"})
	check(err, catalog.ErrExists)
	_, err = op.CreateTenant(ctx, tenants.TenantSpec{Name: "RHCANARY"})
	check(err, catalog.ErrInvalid)
	_, err = op.CreateTenant(ctx, tenants.TenantSpec{Name: "beta", Server: "nowhere"})
	check(err, catalog.ErrNotFound)

	acme, err := op.Tenant(ctx, "acme")
	check(err, nil)
	near, err := h.service.Tenant(ctx, "acme")
	check(err, nil)
	if d := cmp.Diff(near, acme, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Settings" }, cmp.Ignore()), cmp.Transformer("utc", time.Time.UTC), cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })); d != "" {
		t.Error(d)
	}
	byID, err := op.Tenant(ctx, acme.ID.String())
	check(err, nil)
	if byID.Name != "acme" || byID.Edition != "pro" {
		t.Errorf("tenant is %+v", byID)
	}
	_, err = op.Tenant(ctx, "nobody")
	check(err, catalog.ErrNotFound)
	if got := err.Error(); got != `tenant "nobody": not found` {
		t.Errorf("it says %q", got)
	}

	check(op.RenameTenant(ctx, "acme", "umbrella"), nil)
	byAlias, err := op.Tenant(ctx, "acme")
	check(err, nil)
	if byAlias.Name != "umbrella" || len(byAlias.Aliases) != 1 {
		t.Errorf("tenant is %+v", byAlias)
	}
	check(op.RenameTenant(ctx, "umbrella", "acme"), nil)
	check(op.RenameTenant(ctx, "acme", "RHCANARY"), catalog.ErrInvalid)
	check(op.RenameTenant(ctx, "nobody", "somebody"), catalog.ErrNotFound)
	check(op.AddDomain(ctx, "acme", "www.acme.example"), nil)
	check(op.AddDomain(ctx, "acme", "www.acme.example"), catalog.ErrExists)
	check(op.AddDomain(ctx, "acme", "10.0.0.1"), catalog.ErrInvalid)
	check(op.RemoveDomain(ctx, "acme", "www.acme.example"), nil)
	check(op.RemoveDomain(ctx, "acme", "www.acme.example"), catalog.ErrNotFound)
	for _, name := range []string{"globex", "beta"} {
		_, err = op.CreateTenant(ctx, tenants.TenantSpec{Name: name})
		check(err, nil)
	}
	all, err := op.Tenants(ctx)
	check(err, nil)
	if len(all) != 3 || all[0].Name != "acme" || all[2].Name != "globex" {
		t.Errorf("tenants are %v", all)
	}

	check(op.SuspendTenant(ctx, "acme", "unpaid"), catalog.ErrConflict)
	check(op.SuspendTenant(ctx, "nobody", ""), catalog.ErrNotFound)
	h.setState(t, acme.ID, catalog.StateActive)
	check(op.SuspendTenant(ctx, "acme", "unpaid"), nil)
	if acme, err = op.Tenant(ctx, "acme"); err != nil || acme.State != catalog.StateSuspended || acme.StateReason != "unpaid" {
		t.Errorf("tenant is %+v, %v", acme, err)
	}
	check(op.ResumeTenant(ctx, "acme"), nil)
	check(op.ResumeTenant(ctx, "nobody"), catalog.ErrNotFound)
	if acme, err = op.Tenant(ctx, "acme"); err != nil || acme.State != catalog.StateActive {
		t.Errorf("tenant is %+v, %v", acme, err)
	}

	operation, err := op.Operation(ctx, made.ID)
	check(err, nil)
	if operation.ID != made.ID || operation.CreatedAt.IsZero() || string(operation.Args) == "" {
		t.Errorf("operation is %+v", operation)
	}
	_, err = op.Operation(ctx, catalog.NewID[catalog.Operation]())
	check(err, catalog.ErrNotFound)
	operations, err := op.Operations(ctx, "")
	check(err, nil)
	if len(operations) != 3 || operations[2].ID != made.ID {
		t.Errorf("operations are %v", operations)
	}
	operations, err = op.Operations(ctx, "acme")
	check(err, nil)
	if len(operations) != 1 {
		t.Errorf("operations are %v", operations)
	}
	_, err = op.Operations(ctx, "nobody")
	check(err, catalog.ErrNotFound)
	events, err := op.OperationEvents(ctx, made.ID, 0)
	check(err, nil)
	if len(events) != 1 || events[0].State != catalog.OperationPending {
		t.Errorf("events are %v", events)
	}
	events, err = op.OperationEvents(ctx, made.ID, events[0].Seq)
	check(err, nil)
	if events == nil || len(events) != 0 {
		t.Errorf("events are %v", events)
	}
	_, err = op.RetryOperation(ctx, made.ID)
	check(err, catalog.ErrConflict)
	h.finish(t, operation, catalog.OperationFailed)
	if _, err := h.catalog.Pool().Exec(ctx, `delete from rowhouse_test.queue`); err != nil {
		t.Fatal(err)
	}
	operation, err = op.RetryOperation(ctx, made.ID)
	check(err, nil)
	if operation.State.Finished() {
		t.Errorf("operation is %+v", operation)
	}

	role, password := pgtest.Role(t, "LOGIN CREATEDB CREATEROLE")
	dsn := strings.Replace(pgtest.ServerDSN(t), "rowhouse@", role+":"+password+"@", 1)
	server, err := op.AddServer(ctx, tenants.ServerSpec{Name: "main", DSN: catalog.NewSecret(dsn), ServerLimits: tenants.ServerLimits{MaxConnections: new(33)}})
	check(err, nil)
	if server.Name != "main" || server.MaxConnections != 33 || server.State != "active" {
		t.Errorf("server is %+v", server)
	}
	stored, err := h.catalog.Credential(ctx, server.ID, catalog.DatabaseID{}, catalog.LoginProvisioner)
	check(err, nil)
	if stored.Secret.Reveal() != password || stored.Role != role {
		t.Errorf("another password or role arrived: %s", stored.Role)
	}
	_, err = op.AddServer(ctx, tenants.ServerSpec{Name: "main", DSN: catalog.NewSecret(dsn)})
	check(err, catalog.ErrExists)
	plain, password := pgtest.Role(t, "LOGIN")
	for _, unfit := range []string{
		"postgres://prov:RHCANARY@127.0.0.1:1/postgres", // nobody there
		strings.Replace(pgtest.ServerDSN(t), "rowhouse@", role+":RHCANARY@", 1),
		strings.Replace(pgtest.ServerDSN(t), "rowhouse@", plain+":"+password+"@", 1),
	} {
		_, err = op.AddServer(ctx, tenants.ServerSpec{Name: "other", DSN: catalog.NewSecret(unfit)})
		check(err, catalog.ErrInvalid)
	}
	check(op.DrainServer(ctx, "main"), nil)
	_, err = op.CreateTenant(ctx, tenants.TenantSpec{Name: "gamma", Server: "main"})
	check(err, catalog.ErrConflict)
	check(op.ResumeServer(ctx, "main"), nil)
	check(op.DrainServer(ctx, "nowhere"), catalog.ErrNotFound)
	_, err = op.AddServer(ctx, tenants.ServerSpec{Name: "other", DSN: catalog.NewSecret("postgres://prov:RHCANARY@127.0.0.1/postgres?service=x")})
	check(err, catalog.ErrInvalid)
	_, err = op.Server(ctx, "main")
	check(err, nil)
	_, err = op.Server(ctx, "nowhere")
	check(err, catalog.ErrNotFound)
	servers, err := op.Servers(ctx)
	check(err, nil)
	if len(servers) != 1 {
		t.Errorf("servers are %v", servers)
	}

	check(op.SetSetting(ctx, "", "rest.max_rows", json.RawMessage(`500`)), nil)
	check(op.SetSetting(ctx, "acme", "rest.schemas", json.RawMessage(`["api", "public"]`)), nil)
	check(op.SetSetting(ctx, "acme", "rest.nonsense", json.RawMessage(`1`)), catalog.ErrInvalid)
	check(op.SetSetting(ctx, "acme", "rest.max_rows", json.RawMessage(`"RHCANARY"`)), catalog.ErrInvalid)
	check(op.SetSetting(ctx, "nobody", "rest.max_rows", json.RawMessage(`1`)), catalog.ErrNotFound)
	values, err := op.Settings(ctx, "")
	check(err, nil)
	if d := cmp.Diff(map[string]json.RawMessage{"rest.max_rows": json.RawMessage("500")}, values); d != "" {
		t.Error(d)
	}
	values, err = op.Settings(ctx, "acme")
	check(err, nil)
	var schemas []string
	if err := json.Unmarshal(values["rest.schemas"], &schemas); err != nil || len(values) != 1 || len(schemas) != 2 {
		t.Errorf("settings are %s", values)
	}
	check(op.UnsetSetting(ctx, "acme", "rest.schemas"), nil)
	values, err = op.Settings(ctx, "acme")
	check(err, nil)
	if len(values) != 0 {
		t.Errorf("settings are %s", values)
	}
	_, err = op.Settings(ctx, "nobody")
	check(err, catalog.ErrNotFound)

	text, token, err := op.CreateToken(ctx, tenants.TokenSpec{Subject: "ci", Permissions: []string{"tenants.read"}, TTL: time.Hour})
	check(err, nil)
	if _, found, err := h.service.Authenticate(ctx, text.Reveal()); err != nil || found.ID != token.ID || found.Subject != "ci" {
		t.Errorf("the token does not hold: %v", err)
	}
	_, _, err = op.CreateToken(ctx, tenants.TokenSpec{Subject: "ci", TTL: -time.Hour})
	check(err, catalog.ErrInvalid)
	check(op.RevokeToken(ctx, token.ID), nil)
	check(op.RevokeToken(ctx, "nothing"), catalog.ErrNotFound)
	if _, _, err := h.service.Authenticate(ctx, text.Reveal()); !errors.Is(err, tenants.ErrCredential) {
		t.Errorf("the token still holds: %v", err)
	}
	tokens, err := op.Tokens(ctx)
	check(err, nil)
	if len(tokens) != 2 || tokens[0].RevokedAt == nil || tokens[0].Permissions[0] != "tenants.read" {
		t.Errorf("tokens are %+v", tokens)
	}
}

func (h *house) setState(t *testing.T, id catalog.TenantID, state catalog.State) {
	t.Helper()
	err := h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error { return tx.SetTenantState(t.Context(), id, state, "") })
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) finish(t *testing.T, op *catalog.Operation, state catalog.OperationState) {
	t.Helper()
	err := h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error { return tx.FinishOperation(t.Context(), op, state, "as the test has it") })
	if err != nil {
		t.Fatal(err)
	}
}

func TestClient_Who(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if _, err := h.client(t, catalog.NewSecret("rhop_x_RHCANARY_0")).Tenants(t.Context()); !errors.Is(err, tenants.ErrCredential) || strings.Contains(err.Error(), "RHCANARY") {
		t.Errorf("got %v", err)
	}
	if _, err := h.client(t, h.token(t, "servers.read")).Tenants(t.Context()); !errors.Is(err, tenants.ErrNotHost) || !strings.Contains(err.Error(), "tenants.read") {
		t.Errorf("got %v", err)
	}
	// What an operator does from far stands under their name.
	if err := h.client(t, h.all).SetSetting(t.Context(), "", "rest.max_rows", json.RawMessage(`1`)); err != nil {
		t.Fatal(err)
	}
	events, err := h.catalog.Events(t.Context(), [16]byte{}, 1)
	if err != nil || events[0].Action != "setting.set" || events[0].Actor.Subject != "ops" || events[0].Actor.Side != "host" {
		t.Errorf("got %+v, %v", events, err)
	}
	// A catalog that is away is nobody's wrong token.
	h.catalog.Close()
	if _, err := h.client(t, h.all).Tenants(t.Context()); !errors.Is(err, tenants.ErrUnavailable) || errors.Is(err, tenants.ErrCredential) {
		t.Errorf("got %v", err)
	}
}

func TestNewClient_Refuses(t *testing.T) {
	t.Parallel()
	token := catalog.NewSecret("rhop_a_b_c")
	for _, address := range []string{"", "127.0.0.1:8081", "ftp://127.0.0.1", "http://", "http://a:RHCANARY@127.0.0.1", "http://127.0.0.1?x=1", "http://127.0.0.1/#x", "http://[::1"} {
		if _, err := admin.NewClient(address, token); !errors.Is(err, catalog.ErrInvalid) || strings.Contains(err.Error(), "RHCANARY") {
			t.Errorf("%q: got %v", address, err)
		}
	}
	for _, text := range []string{"", "rhop RHCANARY", "rhop\nRHCANARY"} {
		if _, err := admin.NewClient("http://127.0.0.1", catalog.NewSecret(text)); !errors.Is(err, catalog.ErrInvalid) || strings.Contains(err.Error(), "RHCANARY") {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if _, err := admin.NewClient("http://127.0.0.1:8081/", token); err != nil {
		t.Error(err)
	}
}

func TestClient_SomethingElseAnswers(t *testing.T) {
	t.Parallel()
	elsewhere := make(chan string, 1)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { elsewhere <- r.Header.Get("Authorization") }))
	t.Cleanup(other.Close)
	for name, handler := range map[string]http.HandlerFunc{
		"a page":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>RHCANARY")) },
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "RHCANARY", http.StatusBadGateway) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(handler)
			defer server.Close()
			c, err := admin.NewClient(server.URL, catalog.NewSecret("rhop_a_b_c"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Tenants(t.Context()); err == nil || strings.Contains(err.Error(), "RHCANARY") || errors.Is(err, catalog.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	}
	select {
	case token := <-elsewhere:
		t.Errorf("the token went elsewhere: %q", token)
	default:
	}
}

func TestEvents_Stream(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	op, err := h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/admin/v1/operations/"+op.ID.String()+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.all.Reveal())
	r.Header.Set("Accept", "text/event-stream")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got := answer.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("Content-Type is %q", got)
	}
	var kinds []string
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		kind, ok := strings.CutPrefix(lines.Text(), "event: ")
		if !ok {
			continue
		}
		if kinds = append(kinds, kind); len(kinds) == 1 { // the first is there before anything more happens
			h.finish(t, op, catalog.OperationDone)
		}
	}
	if d := cmp.Diff([]string{"progress", "progress", "end"}, kinds); d != "" {
		t.Error(d)
	}
}
