package migrations

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rowhouse/rowhouse/migrations/internal/lint"
)

// MaxFileSize is how large one migration file may be, in bytes.
const MaxFileSize = 1 << 20

// File is one migration: a number, a name and what brings a database from the version before to this one.
type File struct {
	Version int64
	Name    string // as in 000003_add_status.up.sql: "add_status"
	SHA256  string // of Up, in hex, after line ends and byte order mark were normalised
	Up      string
	Down    string // kept for the reader; the fleet never runs it

	// NoTransaction files hold one statement that cannot run in a transaction.
	NoTransaction bool
	// Verify is a query that answers true when a NoTransaction file's effect is there. Empty: an operator decides after a broken run.
	Verify string
	// Timeout is the statement_timeout of this file. Zero means that of the Config.
	Timeout time.Duration
	// Contract marks a file that removes what code of the version before may still read.
	Contract bool
	// Allow is the rules that the file sets aside, with the reasons why.
	Allow map[string]string
}

// String is the file's name without its ending, as it stands in messages.
func (f File) String() string { return fmt.Sprintf("%06d_%s", f.Version, f.Name) }

// SetError is everything that is wrong with a set of files.
type SetError struct{ Problems []Problem }

// Problem is one thing wrong with one file.
type Problem struct {
	File   string
	Line   int    // counted from 1; 0 means the file as a whole
	Rule   string // short and stable, for "-- rowhouse:allow"
	Table  string // of Effects: the table that it is about, as SQL names it; may be empty
	Reason string
	Hint   string // may be empty
}

func (p Problem) String() string {
	place := p.File
	if p.Line > 0 {
		place += ":" + strconv.Itoa(p.Line)
	}
	text := place + ": " + p.Reason
	if p.Hint != "" {
		text += " (" + p.Hint + ")"
	}
	return text
}

// Error lists the problems, one a line.
func (e *SetError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

var fileName = regexp.MustCompile(`^([0-9]{6,19})_([a-z0-9_]{1,100})\.(up|down)\.sql$`)

// ReadSet reads the migration files of a directory, in order of their versions. Every file in it must fit: golang-migrate passes over
// names that it does not know, and then a migration is missing without a word. Names that begin with a dot and Markdown files are
// left alone. The error is a *SetError with all problems at once. A nil file system is an empty set.
func ReadSet(fsys fs.FS) ([]File, error) {
	if fsys == nil {
		return nil, nil
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	r := reader{fsys: fsys, files: map[int64]*File{}, ups: map[int64]string{}, downs: map[int64]string{}}
	for _, e := range entries {
		r.read(e)
	}
	r.judge()
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
		return nil, &SetError{Problems: r.problems}
	}
	files := make([]File, 0, len(r.files))
	for _, v := range slices.Sorted(maps.Keys(r.files)) {
		files = append(files, *r.files[v])
	}
	return files, nil
}

type reader struct {
	fsys       fs.FS
	files      map[int64]*File
	ups, downs map[int64]string // version -> file name
	problems   []Problem
}

func (r *reader) add(p Problem) { r.problems = append(r.problems, p) }

func (r *reader) read(e fs.DirEntry) {
	name := e.Name()
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".md") {
		return
	}
	version, title, down, err := parseName(name)
	if err != nil {
		r.add(Problem{File: name, Rule: "name", Reason: err.Error(), Hint: "NNNNNN_name.up.sql or NNNNNN_name.down.sql, name of a-z 0-9 _"})
		return
	}
	if !e.Type().IsRegular() {
		// A symbolic link could lead out of the tree, and would make the set depend on where it lies.
		r.add(Problem{File: name, Rule: "name", Reason: "not a regular file"})
		return
	}
	names := r.ups
	if down {
		names = r.downs
	}
	if other, taken := names[version]; taken {
		r.add(Problem{File: name, Rule: "number", Reason: fmt.Sprintf("number %d is taken by %s", version, other)})
		return
	}
	names[version] = name
	text, err := readText(r.fsys, name)
	if err != nil {
		r.add(Problem{File: name, Rule: "text", Reason: err.Error()})
		return
	}
	f := r.files[version]
	if f == nil {
		f = &File{Version: version, Name: title}
		r.files[version] = f
	}
	if f.Name != title {
		r.add(Problem{File: name, Rule: "name", Reason: "up and down file have different names"})
	}
	if down {
		f.Down = text
		return
	}
	r.problems = append(r.problems, f.setUp(name, text)...)
}

// judge looks at the set as a whole.
func (r *reader) judge() {
	for version, name := range r.downs {
		if _, ok := r.ups[version]; !ok {
			// golang-migrate would take the number for a migration that does nothing.
			r.add(Problem{File: name, Rule: "number", Reason: "down file without its up file"})
		}
	}
}

func (f *File) setUp(name, text string) []Problem {
	sum := sha256.Sum256([]byte(text))
	d, _ := lint.ReadDirectives(text)
	f.Up, f.SHA256 = text, hex.EncodeToString(sum[:])
	f.NoTransaction, f.Verify, f.Timeout, f.Contract, f.Allow = d.NoTransaction, d.Verify, d.Timeout, d.Contract, d.Allow
	return check(name, text)
}

func check(name, text string) []Problem {
	var problems []Problem
	for _, p := range lint.Check(text) {
		problems = append(problems, Problem{File: name, Line: p.Line, Rule: p.Rule, Reason: p.Reason, Hint: p.Hint})
	}
	return problems
}

func parseName(name string) (version int64, title string, down bool, err error) {
	m := fileName.FindStringSubmatch(name)
	if m == nil {
		return 0, "", false, errors.New("not the name of a migration")
	}
	version, err = strconv.ParseInt(m[1], 10, 64)
	if err != nil || version < 1 || version == math.MaxInt64 {
		return 0, "", false, errors.New("number out of range, 1 to 2^63-2")
	}
	return version, m[2], m[3] == "down", nil
}

// readText reads a file and normalises what editors do to it, so that its hash does not depend on the machine it was checked out on.
func readText(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot be read: %w", err)
	case len(data) > MaxFileSize:
		return "", fmt.Errorf("larger than %d bytes", MaxFileSize)
	case !utf8.Valid(data):
		return "", errors.New("not valid UTF-8")
	case bytes.IndexByte(data, 0) >= 0:
		return "", errors.New("holds a zero byte")
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	return strings.ReplaceAll(text, "\r\n", "\n"), nil
}
