package migrations_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/migrations"
)

func TestReadSet_refuses(t *testing.T) {
	t.Parallel()
	const ok = "create table t ();"
	cases := []struct {
		name  string
		files map[string]string
		want  []string // "file:line rule"
	}{
		{"a name that golang-migrate would pass over", map[string]string{"000003-x.up.sql": ok}, []string{"000003-x.up.sql:0 name"}},
		{"a name that golang-migrate would take", map[string]string{"1_a.up.sql": ok, "000001_a.up.sql.orig": ok}, []string{"000001_a.up.sql.orig:0 name", "1_a.up.sql:0 name"}},
		{
			"capitals, spaces, other letters",
			map[string]string{"000001_A.up.sql": ok, "000002_a b.up.sql": ok, "000003_ä.up.sql": ok},
			[]string{"000001_A.up.sql:0 name", "000002_a b.up.sql:0 name", "000003_ä.up.sql:0 name"},
		},
		{"a file that is no SQL", map[string]string{"notes.txt": ok}, []string{"notes.txt:0 name"}},
		{"a directory", map[string]string{"sub/000001_a.up.sql": ok}, []string{"sub:0 name"}},
		{"one number twice", map[string]string{"000001_a.up.sql": ok, "0000001_b.up.sql": ok}, []string{"000001_a.up.sql:0 number"}},
		{
			"number zero, and one too large",
			map[string]string{"000000_a.up.sql": ok, "9223372036854775807_b.up.sql": ok, "9999999999999999999_c.up.sql": ok},
			[]string{"000000_a.up.sql:0 name", "9223372036854775807_b.up.sql:0 name", "9999999999999999999_c.up.sql:0 name"},
		},
		{"a down file alone", map[string]string{"000001_a.down.sql": ok}, []string{"000001_a.down.sql:0 number"}},
		{"two names under one number", map[string]string{"000001_a.up.sql": ok, "000001_b.down.sql": ok}, []string{"000001_b.down.sql:0 name"}},
		{
			"bytes that are no text",
			map[string]string{"000001_a.up.sql": "select '\xff'", "000002_b.up.sql": "select '\x00'"},
			[]string{"000001_a.up.sql:0 text", "000002_b.up.sql:0 text"},
		},
		{"a file too large", map[string]string{"000001_a.up.sql": "--" + strings.Repeat("x", migrations.MaxFileSize)}, []string{"000001_a.up.sql:0 text"}},
		{"an empty file", map[string]string{"000001_a.up.sql": "-- nothing\n;"}, []string{"000001_a.up.sql:1 empty"}},
		{"statements that end the transaction", map[string]string{
			"000001_a.up.sql": "begin;\n" + ok + "\ncommit;",
			"000002_b.up.sql": ok + "\nSTART /* x */ TRANSACTION;\nend;\nrollback to x;\nabort;\nsavepoint s;\nrelease s;\nprepare transaction 'x';\nprepare p as select 1;",
		}, []string{
			"000001_a.up.sql:1 transaction", "000001_a.up.sql:3 transaction", "000002_b.up.sql:2 transaction", "000002_b.up.sql:3 transaction", "000002_b.up.sql:4 transaction",
			"000002_b.up.sql:5 transaction", "000002_b.up.sql:6 transaction", "000002_b.up.sql:7 transaction", "000002_b.up.sql:8 transaction",
		}},
		{
			"databases and the system",
			map[string]string{"000001_a.up.sql": "create database x;\ndrop database x;\nalter system set x = 1;\ncreate tablespace x location 'y';"},
			[]string{"000001_a.up.sql:1 database", "000001_a.up.sql:2 database", "000001_a.up.sql:3 database", "000001_a.up.sql:4 database"},
		},
		{
			"roles",
			map[string]string{"000001_a.up.sql": "set role x;\nset local role x;\nset session authorization x;\nreset role;\nset search_path = x;\ndiscard all;"},
			[]string{"000001_a.up.sql:1 role", "000001_a.up.sql:2 role", "000001_a.up.sql:3 role", "000001_a.up.sql:4 role", "000001_a.up.sql:6 discard"},
		},
		{
			"psql commands and copy from stdin",
			map[string]string{"000001_a.up.sql": "\\restrict abc\nselect 1;\ncopy t from stdin;\ncopy t (a) from program 'x';\n"},
			[]string{"000001_a.up.sql:1 psql", "000001_a.up.sql:3 copy"},
		},
		{
			"a constant tenant",
			map[string]string{"000001_a.up.sql": "set rowhouse.tenant_id = 'x';\nset local rowhouse.tenant_id to 'x';\nselect set_config('rowhouse.tenant_id', 'x', true);\n" +
				"select set_config('rowhouse.tenant_id', '', true);\nselect set_config('rowhouse.tenant_id', id::text, true) from t;\nreset rowhouse.tenant_id;"},
			[]string{"000001_a.up.sql:1 tenant", "000001_a.up.sql:2 tenant", "000001_a.up.sql:3 tenant"},
		},
		{
			"what cannot run in a transaction",
			map[string]string{"000001_a.up.sql": "vacuum t;\ncreate index concurrently i on t (a);\nCREATE UNIQUE INDEX CONCURRENTLY i ON t (a);\n" +
				"drop index concurrently i;\nreindex index concurrently i;\nreindex (concurrently) table t;\nalter table t detach partition p concurrently;\nrefresh materialized view concurrently v;"},
			[]string{
				"000001_a.up.sql:1 no-transaction", "000001_a.up.sql:2 no-transaction", "000001_a.up.sql:3 no-transaction", "000001_a.up.sql:4 no-transaction",
				"000001_a.up.sql:5 no-transaction", "000001_a.up.sql:6 no-transaction", "000001_a.up.sql:7 no-transaction",
			},
		},
		{"two statements without a transaction", map[string]string{"000001_a.up.sql": "-- rowhouse:no-transaction\nvacuum a;\nvacuum b;"}, []string{"000001_a.up.sql:3 no-transaction"}},
		{
			"directives",
			map[string]string{
				"000001_a.up.sql": "-- rowhouse:no-transactoin\n-- rowhouse:timeout 30\n-- rowhouse:allow\n-- rowhouse:verify\n-- rowhouse: contract\n" + ok,
				"000002_b.up.sql": "-- rowhouse:verify select true\n" + ok,
			},
			[]string{"000001_a.up.sql:1 directive", "000001_a.up.sql:2 directive", "000001_a.up.sql:3 directive", "000001_a.up.sql:4 directive", "000002_b.up.sql:1 directive"},
		},
		{
			"what is never ended",
			map[string]string{"000001_a.up.sql": ok + "\n/* /* */", "000002_b.up.sql": "select 'a''", "000003_c.up.sql": "select $a$ $b$", "000004_d.up.sql": `select "x`},
			[]string{"000001_a.up.sql:2 syntax", "000002_b.up.sql:1 syntax", "000003_c.up.sql:1 syntax", "000004_d.up.sql:1 syntax"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fsys := fstest.MapFS{}
			for name, text := range c.files {
				fsys[name] = file(text)
			}
			files, err := migrations.ReadSet(fsys)
			var set *migrations.SetError
			if !errors.As(err, &set) || files != nil {
				t.Fatalf("got %v, %v", files, err)
			}
			var got []string
			for _, p := range set.Problems {
				got = append(got, p.File+":"+itoa(p.Line)+" "+p.Rule)
				if p.Reason == "" || !strings.Contains(err.Error(), p.File) {
					t.Errorf("problem without words: %+v", p)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n%v", diff, err)
			}
			found, err := migrations.Lint(fsys)
			if diff := cmp.Diff(set.Problems, found); diff != "" || err != nil {
				t.Errorf("Lint differs: %s, %v", diff, err)
			}
		})
	}
	t.Run("a symbolic link", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "000001_a.up.sql"), []byte(ok), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("000001_a.up.sql", filepath.Join(dir, "000002_b.up.sql")); err != nil {
			t.Fatal(err)
		}
		_, err := migrations.ReadSet(os.DirFS(dir))
		wantText(t, err, "000002_b.up.sql: not a regular file")
	})
	t.Run("a directory that is not there", func(t *testing.T) {
		_, err := migrations.ReadSet(os.DirFS(filepath.Join(t.TempDir(), "none")))
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
		if _, err := migrations.Lint(os.DirFS(filepath.Join(t.TempDir(), "none"))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
}

func itoa(n int) string { return string(rune('0' + n)) }

func TestReadSet(t *testing.T) {
	t.Parallel()
	files, err := migrations.ReadSet(fstest.MapFS{
		"000010_second.up.sql":  file("-- rowhouse:no-transaction\n-- rowhouse:verify select true;\n-- rowhouse:timeout 30m\n-- rowhouse:contract\nvacuum"),
		"000002_first.up.sql":   file("\ufeffcreate function f() returns int language sql begin atomic; select case when true then 1 end; end;\r\nselect 'begin;' as \"commit;\", $x$ rollback; $x$, E'\\'; end;' -- begin;\n"),
		"000002_first.down.sql": file("drop function f"),
		".hidden":               file("x"),
		"README.md":             file("x"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []migrations.File{
		{
			Version: 2, Name: "first", SHA256: "-", Down: "drop function f",
			Up: "create function f() returns int language sql begin atomic; select case when true then 1 end; end;\nselect 'begin;' as \"commit;\", $x$ rollback; $x$, E'\\'; end;' -- begin;\n",
		},
		{
			Version: 10, Name: "second", SHA256: "-", NoTransaction: true, Verify: "select true", Timeout: 30 * time.Minute, Contract: true,
			Up: "-- rowhouse:no-transaction\n-- rowhouse:verify select true;\n-- rowhouse:timeout 30m\n-- rowhouse:contract\nvacuum",
		},
	}
	hashes := map[string]bool{}
	for i := range files {
		hashes[files[i].SHA256] = true
		files[i].SHA256 = "-"
	}
	if diff := cmp.Diff(want, files); diff != "" || len(hashes) != 2 {
		t.Errorf("%s\n%v", diff, hashes)
	}
	t.Run("a set survives being kept elsewhere", func(t *testing.T) {
		again, err := migrations.ReadSet(migrations.FS(files))
		if err != nil {
			t.Fatal(err)
		}
		for i := range again {
			again[i].SHA256 = "-"
		}
		if diff := cmp.Diff(files, again); diff != "" {
			t.Error(diff)
		}
		if err := fstest.TestFS(migrations.FS(files), "000002_first.up.sql", "000002_first.down.sql", "000010_second.up.sql"); err != nil {
			t.Error(err)
		}
	})
	t.Run("no file system is an empty set", func(t *testing.T) {
		if files, err := migrations.ReadSet(nil); len(files) != 0 || err != nil {
			t.Errorf("%v, %v", files, err)
		}
	})
}

func TestConfig_refuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []migrations.Config{{Ledger: "x"}, {Ledger: `a."b"`}, {Ledger: "a.b; drop"}, {LockWait: -1}} {
		if _, err := migrations.New(nil, cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
	if _, err := migrations.ForTenants(nil, migrations.Config{Ledger: "other.ledger"}); err == nil {
		t.Error("a tenant database with another ledger is taken")
	}
}
