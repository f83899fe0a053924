package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// Change is what became of the catalog between two revisions: the rows as they are now.
type Change struct {
	// Whole says that this is everything, not a difference.
	Whole    bool
	Revision int64
	Tenants  []*Tenant
	// Databases and Servers that are gone keep their rows, with a state that says so.
	Databases []*Database
	Servers   []*Server
	// Settings are the global ones; nil when they did not change.
	Settings map[string]json.RawMessage
	// Served are the schema versions that are served.
	Served ServedVersions
}

// Revision is a number that rises with every change.
func (c *Catalog) Revision(ctx context.Context) (int64, error) {
	var rev int64
	err := c.pool.QueryRow(ctx, `select value from rowhouse.revision`).Scan(&rev)
	return rev, refine(err, "catalog revision")
}

// Changes reads what changed after the revision since, as one consistent moment. Zero means everything.
func (c *Catalog) Changes(ctx context.Context, since int64) (*Change, error) {
	if since > 0 { // a quiet catalog costs one row
		if rev, err := c.Revision(ctx); err != nil || rev == since {
			return &Change{Revision: since}, err
		}
	}
	ch := &Change{Whole: since == 0}
	err := pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select value from rowhouse.revision`).Scan(&ch.Revision); err != nil {
			return err
		}
		if ch.Revision < since {
			return fmt.Errorf("catalog revision went back from %d to %d: %w", since, ch.Revision, ErrConflict)
		}
		var err error
		changed := `(select c.id from rowhouse.changes c where c.kind = '%s' and c.revision > $1)`
		filter := func(kind, column string) string {
			if ch.Whole {
				return " where $1::bigint = 0"
			}
			return " where " + column + " in " + fmt.Sprintf(changed, kind)
		}
		if ch.Tenants, err = all[Tenant](ctx, tx, "tenants", selectTenant+filter("tenant", "t.id"), since); err != nil {
			return err
		}
		if ch.Databases, err = all[Database](ctx, tx, "databases", selectDatabase+filter("database", "id"), since); err != nil {
			return err
		}
		if ch.Servers, err = all[Server](ctx, tx, "servers", selectServer+filter("server", "id"), since); err != nil {
			return err
		}
		served, err := one[ServedVersions](ctx, tx, "served versions", `select min_version, max_version from rowhouse.served_versions`)
		if err != nil {
			return err
		}
		ch.Served = *served
		return tx.QueryRow(ctx, `
			select case when $1 = 0 or exists (select from rowhouse.changes
			                                    where kind = 'tenant' and id = '00000000-0000-0000-0000-000000000000' and revision > $1)
			       then (select coalesce(jsonb_object_agg(key, value), '{}') from rowhouse.settings where tenant is null) end`,
			since).Scan(&ch.Settings)
	})
	if err != nil {
		return nil, fmt.Errorf("catalog changes: %w", err)
	}
	return ch, nil
}

// pollInterval bounds how long a change may stay unseen when every notification is lost.
const pollInterval = time.Second

// Watch calls apply with what changed after since, and goes on until ctx ends. It calls apply with an empty Change too,
// whenever it asked and nothing had changed: so apply knows how fresh its view is. A notification makes it ask at once;
// the poll each second is what can be relied on. A catalog that is away is asked again and again; apply is not called meanwhile.
func (c *Catalog) Watch(ctx context.Context, since int64, apply func(*Change)) error {
	hints := make(chan struct{}, 1)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		c.listen(ctx, hints)
	}()
	defer func() { <-listening }()

	away := false
	for {
		ch, err := c.Changes(ctx, since)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrConflict): // an older backup was restored: what we know may never have been
			c.log.Error("catalog revision went back: reading everything anew", "revision", since)
			since = 0
			continue
		case err != nil && !away:
			away = true
			c.log.Warn("catalog does not answer", "error", err)
		case err == nil:
			if away {
				away = false
				c.log.Info("catalog answers again", "revision", ch.Revision)
			}
			since = ch.Revision
			apply(ch)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hints:
		case <-time.After(pollInterval - time.Duration(rand.Int64N(int64(pollInterval/5)))):
		}
	}
}

// listen turns notifications into hints. It owns a connection outside the pool, and makes a new one when that breaks.
func (c *Catalog) listen(ctx context.Context, hints chan<- struct{}) {
	for ctx.Err() == nil {
		err := c.listenOnce(ctx, hints)
		if ctx.Err() == nil {
			c.log.Debug("catalog notifications interrupted", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(pollInterval):
			}
		}
	}
}

func (c *Catalog) listenOnce(ctx context.Context, hints chan<- struct{}) error {
	conn, err := pgx.ConnectConfig(ctx, c.pool.Config().ConnConfig)
	if err != nil {
		return cannotConnect(err)
	}
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(leaving)
	}()
	if _, err := conn.Exec(ctx, `listen rowhouse`); err != nil {
		return err
	}
	for {
		select {
		case hints <- struct{}{}:
		default:
		}
		// The link is asked for a sign of life every five seconds: a peer that vanished sends none by itself.
		wait, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := conn.WaitForNotification(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
		if err != nil {
			ping, cancel := context.WithTimeout(ctx, 5*time.Second)
			err = conn.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		}
	}
}
