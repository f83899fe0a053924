package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

func (a *app) migrateGroup() *cobra.Command {
	return group("migrate", "The fleet's schema", a.migratePlan(), a.migrateUp(), a.migrateStatus(), a.migratePause(), a.migrateResume(),
		a.migrateRetry(), a.migrateSkip(), a.migrateCancel(), a.migrateLint(), a.migrateNew())
}

// migrationsDir is where the application's migrations stand when no directory is named.
const migrationsDir = "migrations"

// openMigrations is a directory of migrations as a file system that nothing leads out of.
func openMigrations(args []string) (fs.FS, func(), error) {
	dir := migrationsDir
	if len(args) > 0 {
		dir = args[0]
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, &coded{err: fmt.Errorf("migrations: %s is not a directory that can be read", dir), code: exitUsage}
	}
	return root.FS(), func() { _ = root.Close() }, nil
}

// atMostOne takes an optional directory.
func atMostOne(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage("%s takes one directory", c.CommandPath())
	}
	return nil
}

func (a *app) migrateLint() *cobra.Command {
	var databases []string
	var citus bool
	c := &cobra.Command{
		Use: "lint [DIR]", Short: "Say all that is wrong with the migrations of DIR, or with databases as they stand", Args: atMostOne,
		Long: "Without --database the files of DIR are read; what they do to tables is for plan. With --database the shared-schema contract\n(rules L1 to L18) is held against each that is named, by its name, its id, or a tenant in it; --citus adds what would be\notherwise on Citus (C1 to C7).",
	}
	c.RunE = a.do(func(ctx context.Context, args []string) error {
		switch {
		case len(databases) > 0 && len(args) > 0:
			return usage("lint takes a directory or --database, not both")
		case len(databases) > 0:
			return a.lintDatabases(ctx, databases, citus)
		case citus:
			return usage("--citus needs --database")
		}
		return a.lintFiles(args)
	})
	c.Flags().StringArrayVar(&databases, "database", nil, "a database, or a tenant's, to look at; may be repeated")
	c.Flags().BoolVar(&citus, "citus", false, "also what would be refused or behave otherwise on Citus")
	return c
}

func (a *app) lintFiles(args []string) error {
	fsys, closeDir, err := openMigrations(args)
	if err != nil {
		return err
	}
	defer closeDir()
	problems, err := migrations.Lint(fsys)
	if err != nil {
		return err
	}
	for _, p := range problems {
		fmt.Fprintln(a.stdout, p)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d problems", len(problems))
	}
	fmt.Fprintln(a.stderr, "the files are sound; what they do to tables that stand is for rowhouse migrate plan")
	return nil
}

type findingRow struct {
	Database string `json:"database"`
	Rule     string `json:"rule"`
	Object   string `json:"object"`
	Reason   string `json:"reason"`
	Hint     string `json:"hint"`
	Warning  bool   `json:"warning"`
}

func (findingRow) columns() []string { return []string{"database", "rule", "object", "reason", "cure"} }

func (f findingRow) row() []any {
	rule := f.Rule
	if f.Warning {
		rule += " (warning)"
	}
	return []any{f.Database, rule, f.Object, f.Reason, f.Hint}
}

// lintDatabases holds the contract against databases as they stand.
func (a *app) lintDatabases(ctx context.Context, refs []string, citus bool) error {
	r, err := a.reachCatalog(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	found, broken := []findingRow{}, 0
	for i, ref := range refs {
		id, err := jobs.Fleet{Runner: r.runner}.Database(ctx, ref)
		if err != nil {
			return err
		}
		findings, err := r.runner.LintDatabase(ctx, id, citus)
		if err != nil {
			return err
		}
		for _, f := range findings {
			found = append(found, findingRow{refs[i], f.Rule, f.Object, f.Reason, f.Hint, f.Warning})
			if !f.Warning {
				broken++
			}
		}
	}
	if len(found) > 0 || a.output != "table" {
		if err := a.print(found); err != nil {
			return err
		}
	}
	if broken > 0 {
		return fmt.Errorf("%d places break the shared-schema contract", broken)
	}
	if !a.quiet {
		fmt.Fprintln(a.stderr, "the shared-schema contract holds")
	}
	return nil
}

var migrationName = regexp.MustCompile(`^[a-z0-9_]{1,60}$`)

func (a *app) migrateNew() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "new NAME", Short: "Make the files of the next migration", Args: exactly("NAME"),
		RunE: a.do(func(_ context.Context, args []string) error {
			name := strings.ReplaceAll(args[0], "-", "_")
			if !migrationName.MatchString(name) {
				return usage("name: want lower-case letters, digits and underscores")
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("migrations: %s cannot be made", dir)
			}
			files, err := migrations.ReadSet(os.DirFS(dir))
			if err != nil {
				return err
			}
			next := int64(1)
			if len(files) > 0 {
				next = files[len(files)-1].Version + 1
			}
			for _, direction := range []string{"up", "down"} {
				file := filepath.Join(dir, fmt.Sprintf("%06d_%s.%s.sql", next, name, direction))
				if err := os.WriteFile(file, []byte("-- why this change is made\n"), 0o644); err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, file)
			}
			return nil
		}),
	}
	c.Flags().StringVar(&dir, "dir", migrationsDir, "where")
	return c
}
