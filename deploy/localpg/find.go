package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrNoBinaries is wrapped by the error that Find returns when this machine has no usable PostgreSQL.
var ErrNoBinaries = errors.New("no usable PostgreSQL on this machine")

// Binaries is a directory with postgres and initdb of one version.
type Binaries struct {
	Dir     string // absolute, symlinks resolved
	Version Version
}

func (b Binaries) postgres() string { return filepath.Join(b.Dir, "postgres") }
func (b Binaries) initdb() string   { return filepath.Join(b.Dir, "initdb") }

// FindOptions narrows a search.
type FindOptions struct {
	// Bin is a directory to take the binaries from, whatever else is there.
	//
	// Empty means the first of PATH, the places of Debian, RPM and Homebrew packages, and the npm package.
	Bin string

	// Dir is a further directory below which node_modules may hold the npm package.
	//
	// Empty means only the working directory and its parents.
	Dir string

	// Major asks for binaries of exactly this major version: those of an existing cluster. Bin is preferred, not required.
	//
	// Zero means the highest version, at least 15.
	Major int
}

// systemPlaces are where packages put their binaries. Debian leaves them off PATH.
var systemPlaces = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
}

// varLib is where root keeps what the server's user could not reach elsewhere.
var varLib = "/var/lib/rowhouse"

// Find looks for PostgreSQL binaries that the server's user can run. It installs and downloads nothing.
//
// When there are none it returns one error that wraps [ErrNoBinaries], says what was rejected and why, and names the
// ways out.
func Find(ctx context.Context, opts FindOptions) (Binaries, error) {
	acct, err := serverAccount()
	if err != nil {
		return Binaries{}, err
	}
	f := finder{ctx: ctx, account: acct}
	if opts.Bin != "" && opts.Major == 0 {
		return f.given(opts.Bin)
	}
	for _, group := range places(opts) {
		found := f.usable(group)
		if opts.Major != 0 {
			found = slices.DeleteFunc(found, func(b Binaries) bool { return b.Version.Major != opts.Major })
		}
		if len(found) > 0 {
			return slices.MaxFunc(found, func(a, b Binaries) int {
				return cmp.Or(cmp.Compare(a.Version.Major, b.Version.Major), cmp.Compare(a.Version.Minor, b.Version.Minor))
			}), nil
		}
	}
	return Binaries{}, f.notFound(opts.Major)
}

// places lists candidate directories in groups; the first group with a usable one wins.
func places(opts FindOptions) [][]string {
	var groups [][]string
	if opts.Bin != "" {
		groups = append(groups, []string{opts.Bin})
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		groups = append(groups, []string{filepath.Dir(resolve(path))})
	}
	var system []string
	for _, pattern := range systemPlaces {
		dirs, _ := filepath.Glob(pattern) // the only error is a bad pattern
		system = append(system, dirs...)
	}
	groups = append(groups, system)

	var roots []string
	if wd, err := os.Getwd(); err == nil {
		roots = ancestors(wd)
		slices.Reverse(roots)
	}
	for _, dir := range []string{opts.Dir, varLib} {
		if dir != "" {
			roots = append(roots, dir)
		}
	}
	for _, root := range roots {
		groups = append(groups, []string{filepath.Join(root, "node_modules", filepath.FromSlash(npmPackage()), "native", "bin")})
	}
	return groups
}

// finder judges candidates and remembers why it rejected them.
type finder struct {
	ctx      context.Context
	account  account
	seen     []Binaries // usable, of whatever version
	rejected []string
}

// given judges a directory that somebody named: it is that one or an error.
func (f *finder) given(dir string) (Binaries, error) {
	found := f.usable([]string{dir})
	switch {
	case len(found) > 0:
		return found[0], nil
	case len(f.rejected) > 0:
		return Binaries{}, fmt.Errorf("%w: %s", ErrNoBinaries, f.rejected[0])
	default:
		return Binaries{}, fmt.Errorf("%w: %s has no postgres and initdb", ErrNoBinaries, dir)
	}
}

func (f *finder) usable(dirs []string) []Binaries {
	var list []Binaries
	for _, dir := range dirs {
		b, err := f.judge(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing is there
		}
		if err != nil {
			f.rejected = append(f.rejected, fmt.Sprintf("%s: %v", dir, err))
			continue
		}
		f.seen = append(f.seen, b)
		list = append(list, b)
	}
	return list
}

func (f *finder) judge(dir string) (Binaries, error) {
	b := Binaries{Dir: resolve(dir)}
	for _, file := range []string{b.postgres(), b.initdb()} {
		if _, err := os.Stat(file); err != nil {
			return b, err
		}
	}
	if barred, err := f.account.closed(b.Dir); err != nil {
		return b, err
	} else if barred != "" {
		return b, fmt.Errorf("user %s cannot enter %s", f.account.name, barred)
	}
	if err := linkLibraries(b.Dir); err != nil {
		// Whoever reads %w of it must not take it for "nothing is there".
		return b, fmt.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(f.ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.postgres(), "-V")
	cmd.Env = childEnv
	out, err := cmd.CombinedOutput()
	if err != nil {
		return b, fmt.Errorf("postgres -V: %v %s", err, oneLine(out))
	}
	if b.Version, err = parseVersion(string(out)); err != nil {
		return b, err
	}
	if b.Version.Major < leastMajor {
		return b, fmt.Errorf("version %s is older than %d", b.Version, leastMajor)
	}
	return b, nil
}

func (f *finder) notFound(major int) error {
	var text strings.Builder
	if major != 0 {
		fmt.Fprintf(&text, "the cluster was made by PostgreSQL %d", major)
		for i, b := range f.seen {
			fmt.Fprintf(&text, "%s %s (%s)", [...]string{", and here is", ","}[min(i, 1)], b.Version, b.Dir)
		}
		text.WriteString("; ")
	}
	for _, r := range f.rejected {
		text.WriteString(r + "; ")
	}
	want := "postgresql"
	if major != 0 {
		want = fmt.Sprintf("postgresql-%d", major)
	}
	fmt.Fprintf(&text, "install it (apt-get install %s, or npm i %s), name its directory in ROWHOUSE_PG_BIN, or run rowhouse serve with a catalog URL", want, npmPackage())
	return fmt.Errorf("%w: %s", ErrNoBinaries, text.String())
}

// resolve makes path absolute and follows its links, as far as it exists.
func resolve(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path
}
