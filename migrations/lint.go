package migrations

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
)

// Lint judges a directory of migration files by their text, without a server. It finds what ReadSet would refuse; what a file would do
// to tables that exist is seen only by applying it. Nil means that nothing was found; the error is about reading the directory.
func Lint(fsys fs.FS) ([]Problem, error) {
	_, err := ReadSet(fsys)
	if set, ok := err.(*SetError); ok {
		return set.Problems, nil
	}
	return nil, err
}

// Finding is one place where a database breaks the shared-schema contract.
type Finding struct {
	Rule    string // L1 to L18, and C1 to C7 of Citus
	Object  string
	Reason  string
	Hint    string // the cure
	Warning bool   // worth knowing; closes no gate
}

// String is rule, object, reason and cure on one line.
func (f Finding) String() string {
	level := ""
	if f.Warning {
		level = " warning:"
	}
	return fmt.Sprintf("%s%s %s: %s (%s)", f.Rule, level, f.Object, f.Reason, f.Hint)
}

// LintDatabase holds a database against the shared-schema contract, whoever made what is in it, and lists what is wrong and was not allowed by
// a file ("-- rowhouse:allow RULE WHY"). It reads the system catalogs only; an empty answer means that the database is sound.
//
// The connection is one of the database's owner, of a migrator or of a superuser. A database without rowhouse's baseline, as an
// adopted one is before it was bound, answers an error.
func LintDatabase(ctx context.Context, conn *pgx.Conn) ([]Finding, error) {
	return findings(ctx, conn, "rowhouse.findings()")
}

// LintCitus says what of a database would be refused or behave otherwise if it moved to Citus: rules C1 to C7. On a Citus database LintDatabase
// holds them too. The connection is as there.
func LintCitus(ctx context.Context, conn *pgx.Conn) ([]Finding, error) {
	return findings(ctx, conn, "rowhouse.citus_findings()")
}

func findings(ctx context.Context, conn *pgx.Conn, from string) ([]Finding, error) {
	rows, err := conn.Query(ctx, "select rule, object, reason, hint, warning from "+from+
		" order by left(rule, 1) desc, substr(rule, 2)::int, object, reason")
	if err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Finding])
	if err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	return found, nil
}
