package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

func (a *app) migrateGroup() *cobra.Command {
	return group("migrate", "The fleet's schema", a.migrateUp(), a.migrateStatus(), a.migrateLint(), a.migrateNew())
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

func (a *app) migrateUp() *cobra.Command {
	var workers int
	c := &cobra.Command{
		Use: "up [DIR]", Short: "Bring every database to the migrations of DIR (default ./migrations)", Args: atMostOne,
		RunE: a.do(func(ctx context.Context, args []string) error {
			fsys, closeDir, err := openMigrations(args)
			if err != nil {
				return err
			}
			defer closeDir()
			files, err := migrations.ReadSet(fsys)
			if err != nil {
				return err
			}
			r, err := a.reachCatalog(ctx)
			if err != nil {
				return err
			}
			defer r.close()
			summary, err := a.migrateFleet(ctx, r.runner, files, workers)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "%d migrated, %d current, %d failed\n", summary.Done, summary.Noop, summary.Failed)
			if summary.Failed > 0 {
				return &coded{err: errors.New("some databases are not at the new version"), code: exitSomeFailed, hint: "rowhouse migrate status"}
			}
			return nil
		}),
	}
	c.Flags().IntVar(&workers, "workers", 4, "databases migrated at once")
	return c
}

// migrateFleet reports each database as it ends: a bar on a terminal, else a line each.
func (a *app) migrateFleet(ctx context.Context, runner *jobs.Runner, files []migrations.File, workers int) (jobs.Summary, error) {
	report := func(result migrations.Result) {
		if result.Err != nil {
			fmt.Fprintf(a.stderr, "%s failed: %v\n", result.Target, result.Err)
		} else if !a.quiet {
			fmt.Fprintf(a.stderr, "%s at version %d\n", result.Target, result.To.Number)
		}
	}
	if a.isTerminal(a.stderr) && !a.quiet {
		bars := mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40))
		bar := bars.AddSpinner(0, mpb.PrependDecorators(decor.Name("migrating ")), mpb.AppendDecorators(decor.CurrentNoUnit("%d databases")))
		defer func() { bar.Abort(false); bars.Wait() }()
		report = func(result migrations.Result) {
			bar.Increment()
			if result.Err != nil {
				_, _ = fmt.Fprintf(bars, "%s failed: %v\n", result.Target, result.Err)
			}
		}
	}
	return runner.MigrateFleet(ctx, files, jobs.FleetConfig{Workers: workers}, report)
}

type versionRow struct {
	Database string                `json:"database"`
	ID       catalog.DatabaseID    `json:"id"`
	Kind     catalog.Placement     `json:"kind"`
	State    catalog.DatabaseState `json:"state"`
	Version  int64                 `json:"version"`
	Current  bool                  `json:"current"`
	Error    string                `json:"error,omitempty"`
}

func (versionRow) columns() []string {
	return []string{"database", "kind", "state", "version", "current", "error"}
}

func (v versionRow) row() []any {
	return []any{v.Database, v.Kind, v.State, v.Version, v.Current, v.Error}
}

func (v versionRow) name() string { return v.Database }

func (a *app) migrateStatus() *cobra.Command {
	var exitCode bool
	c := &cobra.Command{
		Use: "status", Short: "Say which version each database has", Args: exactly(),
		RunE: a.show(func(ctx context.Context, _ []string) (any, error) {
			r, err := a.reachCatalog(ctx)
			if err != nil {
				return nil, err
			}
			defer r.close()
			set, err := r.catalog.ActiveSet(ctx)
			if errors.Is(err, catalog.ErrNotFound) {
				set, err = &catalog.MigrationSet{}, nil
			}
			if err != nil {
				return nil, err
			}
			found, behind := []versionRow{}, 0
			for d, err := range r.catalog.Databases(ctx) {
				if err != nil {
					return nil, err
				}
				row := versionRow{d.Name, d.ID, d.Kind, d.State, d.SchemaVersion, d.SchemaChain == set.Chain, d.MigrateError}
				if !row.Current {
					behind++
				}
				found = append(found, row)
			}
			if exitCode && behind > 0 {
				return found, &coded{err: fmt.Errorf("%d databases are not at version %d", behind, set.Version), code: exitPending}
			}
			return found, nil
		}),
	}
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit 5 when a database is behind")
	return c
}

func (a *app) migrateLint() *cobra.Command {
	return &cobra.Command{
		Use: "lint [DIR]", Short: "Say all that is wrong with the migrations of DIR", Args: atMostOne,
		RunE: a.do(func(_ context.Context, args []string) error {
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
			fmt.Fprintln(a.stderr, "the files are sound; what they do was not looked at, which needs a server")
			return nil
		}),
	}
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
