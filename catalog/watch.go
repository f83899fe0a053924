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
	// Plan is what editions give and applications ask for; nil when it did not change.
	Plan *Plan
	// Served are the schema versions that are served.
	Served ServedVersions
	// Logins are all of the databases above, their secrets sealed.
	Logins []SealedLogin
	// Older says that the catalog's revision is below the one that was asked from: an older backup was restored, and
	// nothing else is told before Confirm.
	Older bool
}

// SealedLogin is a credential of a database as it is stored: its secret opens with the catalog's keys only.
type SealedLogin struct {
	Server   ServerID
	Database DatabaseID
	Login    Login
	Version  int64
	Role     string
	Secret   []byte
}

// Revision is a number that rises with every change.
func (c *Catalog) Revision(ctx context.Context) (int64, error) {
	var rev int64
	err := c.pool.QueryRow(ctx, `select value from rowhouse.revision`).Scan(&rev)
	return rev, refine(err, "catalog revision")
}

// How long a look at the catalog may take, at one number and at all that changed: a link that is half open must not be
// waited on for ever.
const (
	glancing = 2 * time.Second
	reading  = 30 * time.Second
)

// wholeChange is the kind of a change after which everything is to be read anew.
const wholeChange = "whole"

// Changes reads what changed after the revision since, as one consistent moment. Zero means everything.
func (c *Catalog) Changes(ctx context.Context, since int64) (*Change, error) {
	if since > 0 { // a quiet catalog costs one row
		glance, cancel := context.WithTimeout(ctx, glancing)
		rev, err := c.Revision(glance)
		cancel()
		if err != nil || rev <= since {
			return &Change{Revision: rev, Older: rev < since}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, reading)
	defer cancel()
	ch := &Change{}
	err := pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `select value from rowhouse.revision`).Scan(&ch.Revision); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `select $1::bigint = 0 or exists (select from rowhouse.changes where kind = $2 and revision > $1)`, since, wholeChange).Scan(&ch.Whole)
		if err != nil {
			return err
		}
		if ch.Whole {
			since = 0
		}
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
		if ch.Logins, err = logins(ctx, tx, filter("database", "database"), since); err != nil {
			return err
		}
		served, err := one[ServedVersions](ctx, tx, "served versions", `select min_version, max_version from rowhouse.served_versions`)
		if err != nil {
			return err
		}
		ch.Served = *served
		if ch.Plan, err = plan(ctx, tx, since); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			select case when $1::bigint = 0 or exists (select from rowhouse.changes
			                                    where kind = 'tenant' and id = '00000000-0000-0000-0000-000000000000' and revision > $1)
			       then (select coalesce(jsonb_object_agg(key, value), '{}') from rowhouse.settings where tenant is null) end`,
			since).Scan(&ch.Settings)
	})
	if err != nil {
		return nil, fmt.Errorf("catalog changes: %w", err)
	}
	return ch, nil
}

func logins(ctx context.Context, q querier, filter string, since int64) ([]SealedLogin, error) {
	rows, err := q.Query(ctx, `select server, database, login, version, role, secret from rowhouse.credentials`+filter+` and database is not null`, since)
	if err != nil {
		return nil, refine(err, "credentials")
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[SealedLogin])
	return found, refine(err, "credentials")
}

// Confirm says that the catalog is the right one, though it is older than what running processes remember: they read it
// anew, and serve by it again. Its revision goes beyond all that there can have been.
func (c *Catalog) Confirm(ctx context.Context) error {
	return c.Update(ctx, Event{Action: "catalog.confirm"}, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `
			with raised as (
				update rowhouse.revision set value = greatest(value + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint) returning value),
			told as (select pg_notify('rowhouse', ''))
			insert into rowhouse.changes (kind, id, revision)
			select $1, '00000000-0000-0000-0000-000000000000', value from raised, told
			on conflict (kind, id) do update set revision = excluded.revision`, wholeChange)
		return refine(err, "catalog revision")
	})
}

// How often the catalog is looked at: the first bounds how long a change may stay unseen when every notification is lost,
// the second what a storm of notifications costs.
const (
	pollInterval = time.Second
	coalescing   = 100 * time.Millisecond
)

// Watch calls apply with what changed after since, and goes on until ctx ends. It calls apply with an empty Change too,
// whenever it asked and nothing had changed: so apply knows how fresh its view is. A notification makes it ask at once;
// the poll each second is what can be relied on. A catalog that is away is asked again and again; apply is not called meanwhile.
// One that became older than since is told as such, each time it is asked, until Confirm.
func (c *Catalog) Watch(ctx context.Context, since int64, apply func(*Change)) error {
	hints := make(chan struct{}, 1)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		c.listen(ctx, hints)
	}()
	defer func() { <-listening }()

	away, older := false, false
	for {
		soonest := time.After(coalescing)
		ch, err := c.Changes(ctx, since)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && ch.Older: // an older backup was restored: what it says may be wrong, and what we know may never have been
			if !older {
				c.log.Error("catalog is older than what is known of it: a backup was restored; rowhouse catalog confirm takes it as it is",
					"revision", ch.Revision, "known", since)
			}
			older = true
			apply(ch)
		case err != nil && !away:
			away = true
			c.log.Warn("catalog does not answer", "error", err)
		case err == nil:
			if away {
				away = false
				c.log.Info("catalog answers again", "revision", ch.Revision)
			}
			since, older = ch.Revision, false
			apply(ch)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-soonest:
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
