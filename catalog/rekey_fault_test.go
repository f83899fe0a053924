package catalog_test

import (
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/catalog/keyring"
)

// Processes whose keysets are one stage of a rotation apart read what either of them writes.
func TestFault_F49_neighbouring_stages_of_key_rotation(t *testing.T) {
	t.Parallel()
	first, err := keyring.New()
	check(t, err)
	added, err := first.Add()
	check(t, err)
	promoted, err := added.Promote()
	check(t, err)
	retired, err := promoted.Retire()
	check(t, err)
	dsn := catalogtest.DSN(t)
	server := catalog.NewID[catalog.Server]()
	open := func(keys *keyring.Keyset) *catalog.Catalog {
		t.Helper()
		cat, err := catalog.Open(t.Context(), dsn, catalog.Config{Keys: keys})
		check(t, err)
		t.Cleanup(cat.Close)
		return cat
	}
	version := int64(0)
	write := func(cat *catalog.Catalog) {
		t.Helper()
		version++
		check(t, cat.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
			return tx.SetCredential(t.Context(), catalog.Credential{
				Server: server, Login: catalog.LoginProvisioner, Version: version, Role: "p", Secret: catalog.NewSecret("RHCANARY"),
			})
		}))
	}
	reads := func(stage string, cat *catalog.Catalog) {
		t.Helper()
		cr, err := cat.Credential(t.Context(), server, catalog.DatabaseID{}, catalog.LoginProvisioner)
		if err != nil || cr.Version != version || cr.Secret.Reveal() != "RHCANARY" {
			t.Errorf("%s: version %d, want %d, %v", stage, cr.Version, version, err)
		}
	}
	check(t, open(first).Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		return tx.CreateServer(t.Context(), &catalog.Server{ID: server, Name: "local", Hosts: []string{"localhost:5432"}})
	}))
	stages := []*keyring.Keyset{first, added, promoted, retired}
	for i := range len(stages) - 1 {
		if stages[i+1] == retired { // only when nothing is left under the old key
			_, err := open(promoted).Rekey(t.Context(), nil)
			check(t, err)
		}
		before, after := open(stages[i]), open(stages[i+1])
		write(before)
		reads("the later reads the earlier's", after)
		write(after)
		reads("the earlier reads the later's", before)
	}
	if _, err := catalog.Open(t.Context(), dsn, catalog.Config{Keys: first}); err == nil {
		t.Error("the old key opens the catalog after its time")
	}
}
