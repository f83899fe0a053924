package catalog_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/catalog/keyring"
)

// A change of the key that ends half-way goes on where it ended; processes that run read what is written under either key,
// and after it the old key opens nothing.
func TestCatalog_Rekey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	first, err := keyring.New()
	check(t, err)
	check(t, first.Save(file))
	dsn := catalogtest.DSN(t)
	open := func() *catalog.Catalog {
		keys, err := keyring.Open(file)
		check(t, err)
		cat, err := catalog.Open(t.Context(), dsn, catalog.Config{Keys: keys})
		check(t, err)
		t.Cleanup(cat.Close)
		return cat
	}
	running := open()
	server := catalog.NewID[catalog.Server]()
	const secrets = 120
	check(t, running.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		if err := tx.CreateServer(t.Context(), &catalog.Server{ID: server, Name: "local", Hosts: []string{"localhost:5432"}}); err != nil {
			return err
		}
		for v := range secrets {
			if err := tx.SetCredential(t.Context(), catalog.Credential{
				Server: server, Login: catalog.LoginProvisioner, Version: int64(v + 1), Role: "p", Secret: catalog.NewSecret(fmt.Sprint("secret-", v+1)),
			}); err != nil {
				return err
			}
		}
		return tx.SetSecretSetting(t.Context(), catalog.TenantID{}, "auth.jwt_secret", catalog.NewSecret("a-secret-of-everybody"))
	}))
	check(t, running.SealAudit(t.Context()))
	report := catalog.Report{Instance: catalog.NewID[catalog.Instance](), Host: "here"}
	_, err = running.Renew(t.Context(), report)
	check(t, err)

	added, err := first.Add()
	check(t, err)
	check(t, added.Replace(file))
	if unaware, err := running.WithoutKey(t.Context(), added.Pending(), false); err != nil || len(unaware) != 1 {
		t.Errorf("before they looked, %v do not know the key: %v", unaware, err)
	}
	promoted, err := added.Promote()
	check(t, err)
	check(t, promoted.Replace(file))
	changing := open()
	enough := errors.New("killed")
	n, err := changing.Rekey(t.Context(), func(done int) error { return enough })
	if !errors.Is(err, enough) || n.Done == 0 || n.Done >= secrets {
		t.Fatalf("the first run did %+v and ended with %v", n, err)
	}
	if cr, err := running.Credential(t.Context(), server, catalog.DatabaseID{}, catalog.LoginProvisioner); err != nil || cr.Secret.Reveal() != fmt.Sprint("secret-", secrets) {
		t.Errorf("a process that has run all the time reads %v", err)
	}
	half := n.Done
	n, err = changing.Rekey(t.Context(), nil)
	if want := secrets + 3 - half; err != nil || n.Done != want || n.Current != half || n.Old != 0 {
		t.Errorf("the second run did %+v, %v; want %d, with %d done before", n, err, want, half)
	}
	for began := time.Now(); ; {
		_, err := running.Renew(t.Context(), report)
		check(t, err)
		unaware, err := running.WithoutKey(t.Context(), promoted.KeyIDs()[0], true)
		check(t, err)
		if len(unaware) == 0 {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%v still do not seal with the key", unaware)
		}
		time.Sleep(10 * time.Millisecond) // what is awaited is the next look at a file
	}
	if old, err := changing.SealedUnderOld(t.Context()); err != nil || old != 0 {
		t.Errorf("%d are sealed under an old key: %v", old, err)
	}
	retired, err := promoted.Retire()
	check(t, err)
	check(t, retired.Replace(file))
	after := open()
	if cr, err := after.Credential(t.Context(), server, catalog.DatabaseID{}, catalog.LoginProvisioner); err != nil || cr.Secret.Reveal() != fmt.Sprint("secret-", secrets) {
		t.Errorf("under the new key alone the credential gives %v", err)
	}
	if v, err := after.VerifyAudit(t.Context(), ""); err != nil || v.Broken != nil || v.Seals != 1 {
		t.Errorf("under the new key alone the trail is %+v, %v", v, err)
	}
	if _, err := catalog.Open(t.Context(), dsn, catalog.Config{Keys: first}); !errors.Is(err, catalog.ErrSealed) {
		t.Errorf("the old key alone gives %v, want ErrSealed", err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
