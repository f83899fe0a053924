package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// exportRow is an export as it is printed.
type exportRow struct {
	Tenant    string            `json:"tenant"`
	ID        catalog.TenantID  `json:"id"`
	Placement catalog.Placement `json:"placement"`
	Version   int64             `json:"schema_version"`
	Tables    int               `json:"tables"`
	Rows      int64             `json:"rows"`
	Bytes     int64             `json:"bytes"`
	File      string            `json:"file"`
}

func (exportRow) columns() []string {
	return []string{"tenant", "schema", "tables", "rows", "bytes", "file"}
}

func (e exportRow) row() []any   { return []any{e.Tenant, e.Version, e.Tables, e.Rows, e.Bytes, e.File} }
func (e exportRow) name() string { return e.File }

func (a *app) tenantExport() *cobra.Command {
	var out string
	var spec tenants.ExportSpec
	c := &cobra.Command{
		Use: "export NAME", Short: "Write a tenant's rows, as they are at one moment, to a file", Args: exactly("NAME"), ValidArgsFunction: a.completeTenants,
		Long:    "The tenant is served meanwhile. The file is a zip of COPY text with a manifest of sums; it holds no secrets, and no\nhashes of passwords unless --with-credentials. `rowhouse tenant import` makes a tenant of it, in either placement.",
		Example: "  rowhouse tenant export acme\n  rowhouse tenant export acme --out /backup/\n  rowhouse tenant export acme --out - | ssh elsewhere rowhouse tenant import -",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if out == "-" {
				return r.ExportTenant(ctx, args[0], spec, a.stdout)
			}
			file := out
			if info, err := os.Stat(out); out == "" || err == nil && info.IsDir() {
				file = filepath.Join(out, fmt.Sprintf("%s-%s.zip", args[0], time.Now().UTC().Format("20060102T150405Z")))
			}
			row, err := writeExport(file, func(w io.Writer) error { return r.ExportTenant(ctx, args[0], spec, w) })
			if err != nil {
				return err
			}
			return a.print(row)
		}),
	}
	c.Flags().StringVar(&out, "out", "", "file or directory to write to, - for standard output (default: NAME and the time, here)")
	c.Flags().BoolVar(&spec.WithCredentials, "with-credentials", false, "add the hashes of passwords")
	return c
}

// writeExport writes a file whole or not at all, and never over another. It is read again before it has its name.
func writeExport(file string, fn func(io.Writer) error) (exportRow, error) {
	if _, err := os.Stat(file); err == nil {
		return exportRow{}, fmt.Errorf("%s is there already", file)
	}
	part, err := os.CreateTemp(filepath.Dir(file), ".export-*")
	if err != nil {
		return exportRow{}, err
	}
	defer func() { _ = os.Remove(part.Name()) }()
	if err := fn(part); err != nil {
		return exportRow{}, errors.Join(err, part.Close())
	}
	if err := errors.Join(part.Sync(), part.Close()); err != nil {
		return exportRow{}, err
	}
	row, err := describeExport(part.Name())
	if err != nil {
		return exportRow{}, err
	}
	row.File = file
	return row, os.Link(part.Name(), file) // unlike a rename it fails where something is
}

func describeExport(file string) (exportRow, error) {
	e, err := jobs.OpenExport(file)
	if err != nil {
		return exportRow{}, err
	}
	defer e.Close()
	if err := e.Verify(); err != nil {
		return exportRow{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return exportRow{}, err
	}
	row := exportRow{
		Tenant: e.Tenant.Name, ID: e.Tenant.ID, Placement: e.Tenant.Placement, Version: e.Schema.Version, Tables: len(e.Tables), Bytes: info.Size(), File: file,
	}
	for _, t := range e.Tables {
		row.Rows += t.Rows
	}
	return row, nil
}

func (a *app) tenantImport() *cobra.Command {
	var spec tenants.ImportSpec
	var placement string
	var wait waitFlag
	c := &cobra.Command{
		Use: "import FILE", Short: "Make a tenant of an export", Args: exactly("FILE"),
		Long:    "FILE is what `rowhouse tenant export` wrote, - for standard input. It must be whole and of the schema that tenants are born\nwith here; else nothing is made. The tenant gets an id of its own, or with --keep-id the one it had.",
		Example: "  rowhouse tenant import acme-20270101T060000Z.zip --name acme-copy --placement dedicated --wait",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			spec.Placement = catalog.Placement(placement)
			source := a.stdin
			if args[0] != "-" {
				if _, err := describeExport(args[0]); err != nil { // before a large file is sent
					return err
				}
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				source = f
			}
			op, err := r.ImportTenant(ctx, spec, source)
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, wait)
		}),
	}
	c.Flags().StringVar(&spec.Name, "name", "", "name of the tenant (default: the one that was exported)")
	c.Flags().StringVar(&placement, "placement", "", "shared or dedicated (default: as it was)")
	c.Flags().StringVar(&spec.Server, "server", "", "server to place it on")
	c.Flags().StringVar(&spec.Database, "database", "", "shared database to place it in, by id")
	c.Flags().StringVar(&spec.Edition, "edition", "", "edition it is sold")
	c.Flags().BoolVar(&spec.KeepID, "keep-id", false, "give it the id that it had")
	wait.add(c)
	return c
}
