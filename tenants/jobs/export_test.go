package jobs_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// exporting gives a house a runner that keeps exports.
func (h *house) exporting(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "exports")
	_, h.runner = h.open(t, jobs.Config{Exports: dir})
	h.service = tenants.NewService(h.catalog, h.runner)
	return dir
}

func (h *house) export(t testing.TB, name string) []byte {
	t.Helper()
	var file bytes.Buffer
	must(t, h.service.ExportTenant(t.Context(), name, tenants.ExportSpec{}, &file))
	return file.Bytes()
}

// What is exported from one placement is the same in the other, and back.
func TestExport_roundTrip(t *testing.T) {
	t.Parallel()
	h := twoShops(t, catalog.Shared)
	dir := h.exporting(t)
	h.inTenant(t, "acme", func(tx pgx.Tx) {
		_, err := tx.Exec(t.Context(), `insert into rowhouse.users (email, password_hash) values ('ann@example.com', 'canary-hash')`)
		must(t, err)
		_, err = tx.Exec(t.Context(), `insert into rowhouse.settings (key, value) values ('theme', '"dark"')`)
		must(t, err)
	})
	must(t, h.service.SetSetting(t.Context(), "acme", "rest.max_rows", []byte("77")))
	must(t, h.service.SetSetting(t.Context(), "acme", "auth.jwt_secret", []byte(`"canary-canary-canary-canary-canary-canary"`)))
	before, neighbour := h.rows(t, "acme"), h.rows(t, "globex")
	from := "acme"
	for i, placement := range []catalog.Placement{catalog.Dedicated, catalog.Shared, ""} {
		name := fmt.Sprintf("copy-%d", i)
		file := h.export(t, from)
		checkNoSecret(t, file)
		op, err := h.service.ImportTenant(t.Context(), tenants.ImportSpec{TenantSpec: tenants.TenantSpec{Name: name, Placement: placement}}, bytes.NewReader(file))
		h.done(t, op, err)
		if diff := cmp.Diff(before, h.rows(t, name)); diff != "" {
			t.Fatalf("%s, imported as %q (-exported +imported):\n%s", from, placement, diff)
		}
		tenant, db := h.tenant(t, name)
		if placement != "" && db.Kind != placement {
			t.Errorf("%s is %s, want %s", name, db.Kind, placement)
		}
		if got := string(tenant.Settings["rest.max_rows"]); got != "77" || len(tenant.Settings) != 1 {
			t.Errorf("settings of %s are %s; want rest.max_rows alone", name, tenant.Settings)
		}
		h.inTenant(t, name, func(tx pgx.Tx) { // numbers go on behind those that came, and triggers fire again
			var next, most, logged int64
			must(t, tx.QueryRow(t.Context(), `select max(id) from orders`).Scan(&most))
			must(t, tx.QueryRow(t.Context(), `insert into orders (customer, "Total") select id, 1 from customers limit 1 returning id`).Scan(&next))
			must(t, tx.QueryRow(t.Context(), `select count(*) from log where what = 'INSERT ' || $1::bigint`, next).Scan(&logged))
			if next <= most || logged != 1 {
				t.Errorf("after the import order %d was drawn behind %d, and logged %d times", next, most, logged)
			}
			_, err := tx.Exec(t.Context(), `delete from orders where id = $1`, next)
			must(t, err)
			_, err = tx.Exec(t.Context(), `delete from log where what in ('INSERT ' || $1::bigint, 'DELETE ' || $1::bigint)`, next)
			must(t, err)
		})
		from = name
	}
	if diff := cmp.Diff(neighbour, h.rows(t, "globex")); diff != "" {
		t.Errorf("the neighbour has other rows (-before +after):\n%s", diff)
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("%d files are left of the imports", len(left))
	}
}

// Tables of ours have triggers too; none of them keeps a provisioner that is no superuser from importing into a shared database.
func TestImport_plainProvisioner(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "LOGIN CREATEDB CREATEROLE")
	h.exporting(t)
	h.activate(t, sample)
	h.made(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Shared})
	file := h.export(t, "acme")
	for _, placement := range []catalog.Placement{catalog.Shared, catalog.Dedicated} {
		spec := tenants.ImportSpec{TenantSpec: tenants.TenantSpec{Name: "copy-" + string(placement), Placement: placement}}
		op, err := h.service.ImportTenant(t.Context(), spec, bytes.NewReader(file))
		h.done(t, op, err)
	}
}

func checkNoSecret(t testing.TB, file []byte) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	must(t, err)
	for _, f := range z.File {
		r, err := f.Open()
		must(t, err)
		text, err := io.ReadAll(unpacked(t, f.Name, r))
		must(t, err)
		if bytes.Contains(text, []byte("canary")) {
			t.Errorf("%s holds a secret", f.Name)
		}
	}
}

// With another file of the same schema, or the same one damaged, nothing is made.
func TestImport_refused(t *testing.T) {
	t.Parallel()
	h := twoShops(t, catalog.Shared)
	dir := h.exporting(t)
	whole := h.export(t, "acme")
	changed := bytes.Clone(whole)
	at := bytes.Index(changed, []byte{0x1f, 0x8b}) + 30 // inside the first table
	changed[at] ^= 1
	foreign := &bytes.Buffer{}
	z := zip.NewWriter(foreign)
	w, err := z.Create("manifest.json")
	must(t, err)
	_, err = w.Write([]byte(`{"format":"somebody else's"}`))
	must(t, err)
	must(t, z.Close())
	for _, c := range []struct {
		name string
		file []byte
		says string
	}{
		{"nothing", nil, "none, or was cut off"},
		{"a text", []byte("hello"), "none, or was cut off"},
		{"cut off", whole[:len(whole)-200], "none, or was cut off"},
		{"changed inside", changed, "damaged"},
		{"a foreign archive", foreign.Bytes(), "not one of rowhouse"},
		{"another schema", rewritten(t, whole, `"chain": "`, `"chain": "0`), "schema version"},
		{"a table without its file", rewritten(t, whole, "rows/0001.copy.gz", "rows/9999.copy.gz"), "missing"},
		{"a sum that does not fit", rewritten(t, whole, `"sha256": "`, `"sha256": "0`), "changed or damaged"},
	} {
		_, err := h.service.ImportTenant(t.Context(), tenants.ImportSpec{TenantSpec: tenants.TenantSpec{Name: "fresh"}}, bytes.NewReader(c.file))
		if !errors.Is(err, catalog.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s gives %v; want an ErrInvalid that says %q", c.name, err, c.says)
		}
	}
	// Whole, and refused for another reason.
	for name, want := range map[string]error{"acme": catalog.ErrExists, "Fresh": catalog.ErrInvalid} {
		_, err := h.service.ImportTenant(t.Context(), tenants.ImportSpec{TenantSpec: tenants.TenantSpec{Name: name}}, bytes.NewReader(whole))
		if !errors.Is(err, want) {
			t.Errorf("import as %q gives %v, want %v", name, err, want)
		}
	}
	_, err = h.service.ImportTenant(t.Context(), tenants.ImportSpec{TenantSpec: tenants.TenantSpec{Name: "fresh"}, KeepID: true}, bytes.NewReader(whole))
	if !errors.Is(err, catalog.ErrExists) {
		t.Errorf("the id of a tenant that is there gives %v, want ErrExists", err)
	}
	if _, err := h.catalog.Tenant(t.Context(), "fresh"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a tenant was made: %v", err)
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("%d files are left of what was refused", len(left))
	}
}

// A manifest that claims other rows than there are is found when they are loaded, and no row stays.
func TestImport_sums(t *testing.T) {
	t.Parallel()
	h := twoShops(t, catalog.Shared)
	h.exporting(t)
	lying := rewritten(t, h.export(t, "acme"), `"sum": "`, `"sum": "1`)
	op, err := h.service.ImportTenant(t.Context(), tenants.ImportSpec{TenantSpec: tenants.TenantSpec{Name: "fresh"}}, bytes.NewReader(lying))
	must(t, err)
	op, err = h.runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.State != catalog.OperationFailed || !strings.Contains(op.Error, "the export says") {
		t.Fatalf("operation is %s: %s", op.State, op.Error)
	}
	tenant, db := h.tenant(t, "fresh")
	left := h.left(t, db, tenant.ID)
	delete(left, "rowhouse.gate")
	if len(left) > 0 || tenant.State != catalog.StateFailed {
		t.Errorf("tenant is %s with rows %v", tenant.State, left)
	}
	op, err = h.service.PurgeTenant(t.Context(), "fresh")
	h.done(t, op, err)
	h.checkPurged(t, tenant, db)
}

// A deletion exports first; what it wrote makes the tenant again, under its own id.
func TestDelete_export(t *testing.T) {
	t.Parallel()
	for _, placement := range []catalog.Placement{catalog.Shared, catalog.Dedicated} {
		t.Run(string(placement), func(t *testing.T) {
			t.Parallel()
			h := twoShops(t, placement)
			if _, err := h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{}); !errors.Is(err, catalog.ErrConflict) {
				t.Fatalf("where no export can be kept a deletion gives %v, want ErrConflict", err)
			}
			dir := h.exporting(t)
			before := h.rows(t, "acme")
			tenant, db := h.tenant(t, "acme")
			op, err := h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{})
			h.done(t, op, err)
			op, err = h.service.PurgeTenant(t.Context(), "acme")
			h.done(t, op, err)
			h.checkPurged(t, tenant, db)
			kept, err := filepath.Glob(filepath.Join(dir, "acme-*.zip"))
			must(t, err)
			if len(kept) != 1 {
				t.Fatalf("exports that were kept: %v, want one", kept)
			}
			if info, err := os.Stat(kept[0]); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("its mode is %v, %v", info.Mode(), err)
			}
			file, err := os.Open(kept[0])
			must(t, err)
			defer file.Close()
			op, err = h.service.ImportTenant(t.Context(), tenants.ImportSpec{KeepID: true}, file)
			h.done(t, op, err)
			if again, _ := h.tenant(t, "acme"); again.ID != tenant.ID || again.PurgeBegan != nil {
				t.Errorf("tenant came back as %s, purged since %v; want %s", again.ID, again.PurgeBegan, tenant.ID)
			}
			if diff := cmp.Diff(before, h.rows(t, "acme")); diff != "" {
				t.Errorf("it came back with other rows (-before +after):\n%s", diff)
			}
		})
	}
}

// One moment is exported, however much is written meanwhile: two rows that are always written together are both there or
// neither is.
func TestExport_whileServing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, fstest.MapFS{"000001_pairs.up.sql": {Data: []byte(`
create table a (id uuid primary key default gen_random_uuid(), n int not null);
create table z (id uuid primary key default gen_random_uuid(), n int not null);
select rowhouse.bind('a');
select rowhouse.bind('z');`)}})
	h.made(t, tenants.TenantSpec{Name: "acme"})
	h.exporting(t)
	stop, began := make(chan struct{}), make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		h.inTenantEach(t, "acme", func(n int, tx pgx.Tx) bool {
			if _, err := tx.Exec(t.Context(), `with x as (insert into a (n) values ($1)) insert into z (n) values ($1)`, n); err != nil {
				t.Error(err)
				return false
			}
			if n == 20 {
				close(began)
			}
			select {
			case <-stop:
				return false
			default:
				return true
			}
		})
	})
	<-began
	for i := range 3 {
		file := h.export(t, "acme")
		name := filepath.Join(t.TempDir(), fmt.Sprintf("%d.zip", i))
		must(t, os.WriteFile(name, file, 0o600))
		e, err := jobs.OpenExport(name)
		must(t, err)
		must(t, e.Verify())
		rows := map[string]int64{}
		for _, table := range e.Tables {
			rows[table.Name] = table.Rows
		}
		must(t, e.Close())
		if rows["a"] != rows["z"] || rows["a"] < 20 {
			t.Errorf("export has %d and %d of rows that are written together", rows["a"], rows["z"])
		}
	}
	close(stop)
	writing.Wait()
}

// inTenantEach runs fn in one transaction after the other until it says no.
func (h *house) inTenantEach(t *testing.T, name string, fn func(n int, tx pgx.Tx) bool) {
	tenant, db := h.tenant(t, name)
	conn := h.login(t, db, db.Name)
	for n, more := 0, true; more; n++ {
		if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "set local rowhouse.tenant_id = '"+tenant.ID.String()+"'; set local role service_role", pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
			more = fn(n, tx)
			return nil
		}); err != nil {
			t.Error(err)
			return
		}
	}
}

func unpacked(t testing.TB, name string, r io.Reader) io.Reader {
	t.Helper()
	if !strings.HasSuffix(name, ".gz") {
		return r
	}
	z, err := gzip.NewReader(r)
	must(t, err)
	return z
}

// rewritten is an archive whose manifest says something else, in one place.
func rewritten(t testing.TB, file []byte, old, new string) []byte {
	t.Helper()
	from, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	must(t, err)
	var out bytes.Buffer
	to := zip.NewWriter(&out)
	for _, f := range from.File {
		r, err := f.Open()
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, err)
		if f.Name == "manifest.json" {
			if !bytes.Contains(text, []byte(old)) {
				t.Fatalf("the manifest does not say %q", old)
			}
			text = bytes.Replace(text, []byte(old), []byte(new), 1)
		}
		w, err := to.CreateHeader(&zip.FileHeader{Name: f.Name, Method: zip.Store})
		must(t, err)
		_, err = w.Write(text)
		must(t, err)
	}
	must(t, to.Close())
	return out.Bytes()
}
