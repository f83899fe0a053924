package admin_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestAPI_IdempotencyKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bearer := "Bearer " + h.all.Reveal()
	post := func(path, key, body string, more ...string) (*http.Response, string) {
		return h.request(t, "POST /admin/v1"+path, body, append([]string{"Authorization", bearer, "Idempotency-Key", key}, more...)...)
	}

	first, made := post("/tenants", "k1", `{"name":"acme"}`)
	again, replayed := post("/tenants", "k1", `{"name":"acme"}`)
	if first.StatusCode != 202 || again.StatusCode != 202 || made != replayed || again.Header.Get("Location") != first.Header.Get("Location") {
		t.Fatalf("%d, then %d:\n%s\n%s", first.StatusCode, again.StatusCode, made, replayed)
	}
	if first.Header.Get("Idempotent-Replayed") != "" || again.Header.Get("Idempotent-Replayed") != "true" {
		t.Error("the second answer does not say that it is one of before, or the first does")
	}
	if all, err := h.service.Tenants(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("tenants are %v, %v", all, err)
	}
	if answer, body := post("/tenants", "k1", `{"name":"beta"}`); answer.StatusCode != 422 || !strings.Contains(body, `"code":"key_reused"`) {
		t.Errorf("another body under the key is answered %d: %s", answer.StatusCode, body)
	}
	if answer, body := post("/tenants/acme/suspend", "k1", `{}`); answer.StatusCode != 409 || !strings.Contains(body, `"code":"conflict"`) {
		t.Errorf("another route under the key is answered %d: %s", answer.StatusCode, body)
	}
	// Somebody else's key is theirs.
	other := "Bearer " + h.token(t, "*").Reveal()
	if answer, body := h.request(t, "POST /admin/v1/tenants", `{"name":"beta"}`, "Authorization", other, "Idempotency-Key", "k1"); answer.StatusCode != 202 {
		t.Errorf("another token's key is answered %d: %s", answer.StatusCode, body)
	}

	// What failed did nothing and is tried again.
	acme, err := h.service.Tenant(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if answer, _ := post("/tenants/acme/suspend", "k2", `{}`); answer.StatusCode != 409 {
		t.Errorf("got %d", answer.StatusCode)
	}
	h.setState(t, acme.ID, catalog.StateActive)
	if answer, body := post("/tenants/acme/suspend", "k2", `{}`); answer.StatusCode != 200 {
		t.Errorf("got %d: %s", answer.StatusCode, body)
	}

	// A token is shown again to the one who asked again, and stands in the catalog in no readable form.
	_, one := post("/tokens", "k3", `{"subject":"ci","permissions":["tenants.read"],"ttl":"1h"}`)
	_, two := post("/tokens", "k3", `{"subject":"ci","permissions":["tenants.read"],"ttl":"1h"}`)
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(one), &token); err != nil || one != two || !strings.HasPrefix(token.Token, "rhop_") {
		t.Errorf("%v:\n%s\n%s", err, one, two)
	}
	var readable bool
	err = h.catalog.Pool().QueryRow(t.Context(), `
		select exists (select from rowhouse.requests_once
		                where position(convert_to($1, 'utf8') in answer) > 0 or position(convert_to('acme', 'utf8') in answer) > 0)`, token.Token).Scan(&readable)
	if err != nil || readable {
		t.Errorf("an answer can be read in the catalog: %v", err)
	}

	for _, bad := range []string{"with space", strings.Repeat("x", 256), "käse"} {
		if answer, body := post("/tenants", bad, `{"name":"gamma"}`); answer.StatusCode != 400 || !strings.Contains(body, "Idempotency-Key") {
			t.Errorf("key %q is answered %d: %s", bad, answer.StatusCode, body)
		}
	}
	if answer, _ := post("/tenants", "a", `{"name":"gamma"}`, "Idempotency-Key", "b"); answer.StatusCode != 400 {
		t.Errorf("two keys are answered %d", answer.StatusCode)
	}
}

// Sent many times at once, a request is carried out once.
func TestAPI_IdempotencyKey_AtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var done sync.WaitGroup
	var mu sync.Mutex
	counts := map[int]int{}
	for range 8 {
		done.Go(func() {
			answer, _ := h.request(t, "POST /admin/v1/tokens", `{"subject":"x","permissions":[],"ttl":"1h"}`, "Authorization", "Bearer "+h.all.Reveal(), "Idempotency-Key", "k")
			mu.Lock()
			defer mu.Unlock()
			counts[answer.StatusCode]++
		})
	}
	done.Wait()
	all, err := h.service.Tokens(t.Context())
	if err != nil || len(all) != 2 || counts[201] < 1 || counts[201]+counts[409] != 8 {
		t.Errorf("%d tokens, %v, answers %v", len(all), err, counts)
	}
}

// A process that died after the change and before the answer left a mark: the one who asks again is not served twice.
func TestAPI_IdempotencyKey_AnswerLost(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bearer := "Bearer " + h.all.Reveal()
	forget := func() {
		if _, err := h.catalog.Pool().Exec(t.Context(), `update rowhouse.requests_once set answer = null`); err != nil {
			t.Fatal(err)
		}
	}
	_, made := h.request(t, "POST /admin/v1/tenants", `{"name":"acme"}`, "Authorization", bearer, "Idempotency-Key", "k")
	h.request(t, "POST /admin/v1/tokens", `{"subject":"x","permissions":[],"ttl":"1h"}`, "Authorization", bearer, "Idempotency-Key", "k")
	forget()
	if answer, body := h.request(t, "POST /admin/v1/tenants", `{"name":"acme"}`, "Authorization", bearer, "Idempotency-Key", "k"); answer.StatusCode != 202 || body != made {
		t.Errorf("got %d: %s\nwant %s", answer.StatusCode, body, made)
	}
	if answer, body := h.request(t, "POST /admin/v1/tokens", `{"subject":"x","permissions":[],"ttl":"1h"}`, "Authorization", bearer, "Idempotency-Key", "k"); answer.StatusCode != 409 || !strings.Contains(body, `"code":"answer_lost"`) {
		t.Errorf("got %d: %s", answer.StatusCode, body)
	}
}

// Whoever is overtaken, because they stood still for longer than a request may take, changes nothing any more.
func TestOnce_Overtaken(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := t.Context()
	slow, err := h.service.BeginOnce(ctx, "p", "r", "k", []byte("request"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.service.BeginOnce(ctx, "p", "r", "k", []byte("request")); err == nil || !strings.Contains(err.Error(), "being carried out") {
		t.Errorf("got %v", err)
	}
	if _, err := h.catalog.Pool().Exec(ctx, `update rowhouse.requests_once set lease_until = now() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	quick, err := h.service.BeginOnce(ctx, "p", "r", "k", []byte("request"))
	if err != nil || quick.Answer != nil {
		t.Fatalf("got %v", err)
	}
	spec := tenants.TenantSpec{Name: "acme"}
	if _, err := h.service.CreateTenant(slow.Context(ctx), spec); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
	if err := slow.Release(ctx); err != nil { // takes nothing from the one who overtook
		t.Fatal(err)
	}
	if _, err := h.service.CreateTenant(quick.Context(ctx), spec); err != nil {
		t.Error(err)
	}
}
