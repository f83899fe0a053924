package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
)

func (a *app) databaseAllowUnscoped() *cobra.Command {
	return a.databaseUnscoped("allow-unscoped ID", "Give a database the login that router.BeginUnscoped uses, which is bound by no tenant",
		"The login passes row-level security, so only a superuser can make it, or from PostgreSQL 16 on a provisioner that passes it\nitself. --dsn is the connection string of one who can; it is used once and kept nowhere. Every use of the login is audited.",
		func(ctx context.Context, r *reach, id catalog.DatabaseID, super catalog.Secret) error {
			return r.runner.AllowUnscoped(ctx, id, super)
		})
}

func (a *app) databaseDenyUnscoped() *cobra.Command {
	return a.databaseUnscoped("deny-unscoped ID", "Take that login away", "",
		func(ctx context.Context, r *reach, id catalog.DatabaseID, super catalog.Secret) error {
			return r.runner.DenyUnscoped(ctx, id, super)
		})
}

func (a *app) databaseUnscoped(use, short, long string, do func(context.Context, *reach, catalog.DatabaseID, catalog.Secret) error) *cobra.Command {
	var dsn string
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: exactly("ID"),
		RunE: a.do(func(ctx context.Context, args []string) error {
			var super catalog.Secret
			if dsn != "" {
				var err error
				if super, err = a.secretFlag("--dsn", dsn); err != nil {
					return err
				}
			}
			r, err := a.reachCatalog(ctx)
			if err != nil {
				return err
			}
			defer r.close()
			db, err := r.Database(ctx, args[0])
			if err != nil {
				return err
			}
			if err := do(byHand(ctx), r, db.ID, super); err != nil {
				return err
			}
			if !a.quiet {
				fmt.Fprintf(a.stderr, "database %s: done\n", db.ID)
			}
			return nil
		}),
	}
	c.Flags().StringVar(&dsn, "dsn", "", "a superuser's connection string, - for standard input, @FILE for a file")
	return c
}
