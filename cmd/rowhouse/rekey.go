package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
)

// rekeyRow is what a change of the key came to.
type rekeyRow struct {
	catalog.Rekeyed
	Key     string   `json:"key"`
	Keys    []string `json:"keys"`
	Retired bool     `json:"retired"`
}

func (rekeyRow) columns() []string { return []string{"key", "done", "current", "old", "keys"} }
func (r rekeyRow) row() []any {
	return []any{r.Key, r.Done, r.Current, r.Old, strings.Join(r.Keys, " ")}
}
func (r rekeyRow) name() string { return r.Key }

func (a *app) catalogRekey() *cobra.Command {
	var patience time.Duration
	var retire bool
	c := &cobra.Command{
		Use: "rekey", Short: "Seal every secret of the catalog under a new key, while it is used", Args: exactly(),
		Long: `A key is added to the keyset file, every live process learns of it, it becomes the one that seals, and every secret is sealed
anew. Killed anywhere, the next run goes on. The old keys stay in the file, because backups of the catalog need them:
--retire takes them out when nothing in the catalog is sealed under them any more.

The processes read the file by themselves. Where each has a copy of its own, change the copies while this waits.`,
		Example: "  rowhouse catalog rekey\n  rowhouse catalog rekey --retire",
		RunE: a.show(func(ctx context.Context, _ []string) (any, error) {
			r, err := a.reachCatalog(ctx)
			if err != nil {
				return nil, err
			}
			defer r.close()
			file := r.config.String("catalog.keys")
			if file == "" {
				return nil, &coded{err: r.config.problem("catalog.keys", "is needed: it names the keyset file"), code: exitConfig}
			}
			if retire {
				return a.retireKeys(ctx, r, file)
			}
			return a.rekey(ctx, r, file, patience)
		}),
	}
	c.Flags().DurationVar(&patience, "patience", 2*time.Minute, "how long to wait until every process knows the new key")
	c.Flags().BoolVar(&retire, "retire", false, "take the keys out of the file that nothing is sealed under")
	return c
}

// rekey takes the change from where it is to its end. Where it is stands in the file and in the catalog.
func (a *app) rekey(ctx context.Context, r *reach, file string, patience time.Duration) (any, error) {
	keys, err := keyring.Open(file)
	if err != nil {
		return nil, &coded{err: r.config.problem("catalog.keys", "%v", err), code: exitConfig}
	}
	left, err := r.catalog.SealedUnderOld(ctx)
	if err != nil {
		return nil, err
	}
	if keys.Pending() == "" && (left == 0 || len(keys.KeyIDs()) == 1) { // nothing is half done
		if keys, err = keys.Add(); err == nil {
			err = keys.Replace(file)
		}
		if err != nil {
			return nil, err
		}
	}
	if key := keys.Pending(); key != "" {
		fmt.Fprintf(a.stderr, "key %s was added; waiting until every process knows it\n", key)
		if err := await(ctx, r, key, false, patience); err != nil {
			return nil, err
		}
		if keys, err = keys.Promote(); err == nil {
			err = keys.Replace(file)
		}
		if err != nil {
			return nil, err
		}
	}
	key := keys.KeyIDs()[0]
	fmt.Fprintf(a.stderr, "key %s seals; waiting until every process uses it\n", key)
	if err := await(ctx, r, key, true, patience); err != nil {
		return nil, err
	}
	cat, err := openCatalog(ctx, r.config, a.logger("warn", "text")) // under the keys as they are now
	if err != nil {
		return nil, err
	}
	defer cat.Close()
	n, err := cat.Rekey(ctx, nil)
	if err != nil {
		return nil, err
	}
	row := rekeyRow{n, key, keys.KeyIDs(), false}
	if n.Old > 0 {
		return row, &coded{err: fmt.Errorf("%d secrets were written under an old key meanwhile", n.Old), code: exitFailure, hint: "run it again"}
	}
	return row, nil
}

// await waits until every live process knows a key, or seals with it.
func await(ctx context.Context, r *reach, key string, sealing bool, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		unaware, err := r.catalog.WithoutKey(ctx, key, sealing)
		if err != nil {
			return contextError(ctx, err)
		}
		if len(unaware) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return &coded{
				err:  fmt.Errorf("these processes do not use key %s yet: %s", key, strings.Join(unaware, ", ")),
				code: exitFailure, hint: "give them the keyset file as it is now, and run it again: it goes on",
			}
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// retireKeys leaves only the key that seals.
func (a *app) retireKeys(ctx context.Context, r *reach, file string) (any, error) {
	keys, err := keyring.Open(file)
	if err != nil {
		return nil, &coded{err: r.config.problem("catalog.keys", "%v", err), code: exitConfig}
	}
	if keys.Pending() != "" {
		return nil, &coded{err: fmt.Errorf("key %s was added and does not seal yet", keys.Pending()), code: exitFailure, hint: "rowhouse catalog rekey"}
	}
	old, err := r.catalog.SealedUnderOld(ctx)
	if err != nil {
		return nil, err
	}
	if old > 0 {
		return nil, &coded{err: fmt.Errorf("%d secrets and kept answers are sealed under an old key", old), code: exitFailure, hint: "rowhouse catalog rekey; answers are kept for a day"}
	}
	if keys, err = keys.Retire(); err == nil {
		err = keys.Replace(file)
	}
	if err != nil {
		return nil, err
	}
	return rekeyRow{Key: keys.KeyIDs()[0], Keys: keys.KeyIDs(), Retired: true}, nil
}
