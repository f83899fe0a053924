package tenants_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestDirectory_Origins(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	id := addTenant(t, cat, "acme")
	addTenant(t, cat, "globex")
	d := tenants.NewDirectory(cat)
	set := func(tenant catalog.TenantID, origins string) {
		t.Helper()
		err := cat.Update(t.Context(), catalog.Event{Action: "setting.set"}, func(tx *catalog.Tx) error {
			return tx.SetSetting(t.Context(), tenant, tenants.SettingOrigins, json.RawMessage(origins))
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	byHost := []tenants.Contributor{tenants.FromDomain("{tenant}.example.com"), tenants.FromCustomDomain(d)}
	wants := func(host string, want []string) {
		t.Helper()
		r := newRequest()
		r.Host = host
		if got := d.Origins(r, byHost); !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: %v, want %v", host, got, want)
		}
	}
	set(id, `["https://app.example.com"]`)
	wants("acme.example.com", []string{"https://app.example.com"})
	wants("globex.example.com", nil)
	wants("nosuch.example.com", nil)
	wants("a,b", []string{})
	set(catalog.TenantID{}, `[]`)
	wants("acme.example.com", []string{"https://app.example.com"})
	wants("globex.example.com", []string{})
	wants("localhost", []string{})
}

func TestCheckSetting_origins(t *testing.T) {
	t.Parallel()
	for value, fits := range map[string]bool{
		`[]`: true, `["https://app.example.com"]`: true, `["http://localhost:3000", "https://[::1]:8443"]`: true,
		`null`: false, `"https://app.example.com"`: false, `["*"]`: false, `["null"]`: false, `["https://app.example.com/"]`: false, `["app.example.com"]`: false,
		`["https://APP.example.com"]`: false, `["https://app.example.com:443"]`: false, `["https://u@app.example.com"]`: false, `["ftp://app.example.com"]`: false,
		`["https://"]`: false, `["https://app.example.com:"]`: false, `["https://*.example.com"]`: false, `["https://app.example.com."]`: false,
	} {
		if err := tenants.CheckSetting(tenants.SettingOrigins, json.RawMessage(value)); (err == nil) != fits {
			t.Errorf("%s: %v", value, err)
		}
	}
}
