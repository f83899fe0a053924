package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// How old the directory's view of the catalog may be: fresh enough to say that something does not exist, to do without a
// look when nothing runs in the background, and to serve at all. And how long anybody who asks the directory waits for the
// catalog.
const (
	knowledge = 2 * time.Second
	glance    = time.Second
	serving   = 15 * time.Minute
	patience  = 500 * time.Millisecond
)

// Directory holds the whole catalog in memory and answers from there.
//
// With Run in the background it follows the catalog by itself. Without, it asks for the catalog's revision on access, when
// it has not for a second.
type Directory struct {
	catalog *catalog.Catalog

	refreshing sync.Mutex // one look at the catalog at a time; guards the two fields below
	lookedAt   time.Time
	loadedAt   time.Time // when the last load began that succeeded

	mu        sync.RWMutex // guards the fields below
	revision  int64
	asOf      time.Time // of the last answer of the catalog
	running   bool
	tenants   map[catalog.TenantID]*catalog.Tenant
	byName    map[string]*catalog.Tenant // names and aliases
	byDomain  map[string]*catalog.Tenant
	databases map[catalog.DatabaseID]*catalog.Database
	logins    map[catalog.DatabaseID][]catalog.SealedLogin
	servers   map[catalog.ServerID]*catalog.Server
	settings  map[string]json.RawMessage
	plan      *catalog.Plan
	served    catalog.ServedVersions
	moving    int           // tenants that are about to change their database
	changed   chan struct{} // closed with the next change; nil until somebody waits for one
	older     bool          // the catalog went back, and nobody has said that it is right
}

// NewDirectory makes a directory over a catalog. It reads nothing yet.
func NewDirectory(cat *catalog.Catalog) *Directory {
	return &Directory{catalog: cat}
}

// Load reads what changed since the last look; the first time, everything.
func (d *Directory) Load(ctx context.Context) error {
	d.refreshing.Lock()
	defer d.refreshing.Unlock()
	return d.load(ctx)
}

// Refresh is Load for many who ask at once: a look at the catalog that began after the call answers all of them.
func (d *Directory) Refresh(ctx context.Context) error {
	asked := time.Now()
	d.refreshing.Lock()
	defer d.refreshing.Unlock()
	if d.loadedAt.After(asked) {
		return nil
	}
	return d.load(ctx)
}

// Changed is closed when the view changes the next time, for those who wait for what the catalog will say.
func (d *Directory) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.changed
}

func (d *Directory) load(ctx context.Context) error {
	began := time.Now()
	ch, err := d.catalog.Changes(ctx, d.Revision())
	if err != nil {
		return err
	}
	d.apply(ch)
	d.loadedAt = began
	return nil
}

// Run follows the catalog until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	defer func() {
		d.mu.Lock()
		d.running = false
		d.mu.Unlock()
	}()
	return d.catalog.Watch(ctx, d.Revision(), func(ch *catalog.Change) {
		d.apply(ch)
		d.mu.Lock()
		d.running = true
		d.mu.Unlock()
	})
}

func (d *Directory) apply(ch *catalog.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.older = ch.Older; d.older { // what is known is as old as the last answer before
		return
	}
	d.asOf = time.Now()
	if !ch.Whole && ch.Revision <= d.revision {
		return
	}
	if ch.Whole || d.tenants == nil {
		d.tenants = make(map[catalog.TenantID]*catalog.Tenant, len(ch.Tenants))
		d.byName = make(map[string]*catalog.Tenant, len(ch.Tenants))
		d.byDomain = map[string]*catalog.Tenant{}
		d.moving = 0
		d.databases = make(map[catalog.DatabaseID]*catalog.Database, len(ch.Databases))
		d.servers = make(map[catalog.ServerID]*catalog.Server, len(ch.Servers))
		d.logins = make(map[catalog.DatabaseID][]catalog.SealedLogin, len(ch.Databases))
	}
	d.revision = ch.Revision
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
	// All that left their names first: one of them may have been taken by the next.
	for _, t := range ch.Tenants {
		d.forget(d.tenants[t.ID])
	}
	for _, t := range ch.Tenants {
		d.remember(t)
	}
	for _, db := range ch.Databases {
		d.databases[db.ID] = db
		delete(d.logins, db.ID)
		if db.State == catalog.DatabaseGone {
			delete(d.databases, db.ID)
		}
	}
	for _, l := range ch.Logins {
		d.logins[l.Database] = append(d.logins[l.Database], l)
	}
	for _, s := range ch.Servers {
		d.servers[s.ID] = s
	}
	if ch.Plan != nil {
		d.plan = ch.Plan
	}
	if ch.Settings != nil {
		d.settings = ch.Settings
	}
	d.served = ch.Served
}

func (d *Directory) forget(t *catalog.Tenant) {
	if t == nil {
		return
	}
	for _, name := range append([]string{t.Name}, t.Aliases...) {
		if d.byName[name] == t {
			delete(d.byName, name)
		}
	}
	for _, host := range t.Domains {
		if d.byDomain[host] == t {
			delete(d.byDomain, host)
		}
	}
	delete(d.tenants, t.ID)
	if t.Moving {
		d.moving--
	}
}

func (d *Directory) remember(t *catalog.Tenant) {
	if t.State == catalog.StateDeleted {
		return
	}
	d.tenants[t.ID] = t
	if t.Moving {
		d.moving++
	}
	d.byName[t.Name] = t
	for _, name := range t.Aliases {
		if d.byName[name] == nil {
			d.byName[name] = t
		}
	}
	for _, host := range t.Domains {
		d.byDomain[host] = t
	}
}

// look makes sure that the view is fresh enough to be asked: while Run follows the catalog that costs nothing. When the
// catalog is away, one caller a second finds out and the others go on with what is known.
func (d *Directory) look(ctx context.Context) {
	if d.isFresh() {
		return
	}
	if !d.Loaded() {
		d.refreshing.Lock()
	} else if !d.refreshing.TryLock() {
		return
	}
	defer d.refreshing.Unlock()
	if d.isFresh() || d.Loaded() && time.Since(d.lookedAt) < glance {
		return
	}
	d.lookedAt = time.Now()
	if d.Loaded() { // else there is nothing to go on with
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	_ = d.load(ctx) // a catalog that is away shows in asOf
}

func (d *Directory) isFresh() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.running || time.Since(d.asOf) < glance
}

// Tenant finds a tenant by id, name or alias. Unknown: ErrNotFound, said only from a view that is fresh; else, and when
// the view is too old to serve at all, ErrUnavailable.
func (d *Directory) Tenant(ctx context.Context, ref string) (*catalog.Tenant, error) {
	d.look(ctx)
	d.mu.RLock()
	defer d.mu.RUnlock()
	age := time.Since(d.asOf)
	if age > serving {
		return nil, fmt.Errorf("directory is %v old: %w", age.Round(time.Second), ErrUnavailable)
	}
	t := d.byName[ref]
	if t == nil {
		if id, err := catalog.ParseID[catalog.Tenant](ref); err == nil {
			t = d.tenants[id]
		}
	}
	switch {
	case t != nil:
		return t, nil
	case age > knowledge:
		return nil, fmt.Errorf("tenant is not known and the catalog is away: %w", ErrUnavailable)
	}
	return nil, fmt.Errorf("tenant: %w", ErrNotFound)
}

// Database finds a database by id, in memory.
func (d *Directory) Database(ctx context.Context, id catalog.DatabaseID) (*catalog.Database, error) {
	d.look(ctx)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if db := d.databases[id]; db != nil {
		return db, nil
	}
	return nil, fmt.Errorf("database: %w", ErrNotFound)
}

// Serves says whether a database's schema is one that is served now: a database before or behind is being upgraded. Of an
// adopted one the schema is its owner's.
func (d *Directory) Serves(db *catalog.Database) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return db.Adopted || d.served.Min <= db.SchemaVersion && db.SchemaVersion <= d.served.Max
}

// Server finds a server by id, in memory.
func (d *Directory) Server(ctx context.Context, id catalog.ServerID) (*catalog.Server, error) {
	d.look(ctx)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if s := d.servers[id]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("server: %w", ErrNotFound)
}

// ConnConfig says how to connect to a database. While Run follows the catalog, and while that is away, it opens what it
// remembers, which is as sealed as in the catalog; else it asks the catalog. Load looks past what is remembered.
func (d *Directory) ConnConfig(ctx context.Context, id catalog.DatabaseID, login catalog.Login) (*pgx.ConnConfig, error) {
	follows, away := d.view()
	if follows {
		if cfg, err := d.remembered(id, login); err == nil {
			return cfg, nil
		}
	}
	if away {
		return d.remembered(id, login)
	}
	ask, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cfg, err := d.catalog.ConnConfig(ask, id, login)
	if err != nil && ctx.Err() == nil && (ask.Err() != nil || errors.Is(err, ErrUnavailable)) {
		return d.remembered(id, login)
	}
	return cfg, err
}

// view says whether Run follows the catalog, and whether that is known not to answer.
func (d *Directory) view() (follows, away bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	fresh := time.Since(d.asOf) <= knowledge
	return d.running && fresh, d.running && !fresh
}

// remembered is how to connect by what was read last.
func (d *Directory) remembered(id catalog.DatabaseID, login catalog.Login) (*pgx.ConnConfig, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	db := d.databases[id]
	if db == nil || d.servers[db.Server] == nil {
		return nil, fmt.Errorf("database: %w", ErrUnavailable)
	}
	var newest *catalog.SealedLogin
	for i, l := range d.logins[id] {
		if l.Login == login && l.Version <= db.CredentialVersion && (newest == nil || l.Version > newest.Version) {
			newest = &d.logins[id][i]
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("%s credential: %w", login, ErrUnavailable)
	}
	return d.catalog.ConnConfigFrom(d.servers[db.Server], db, *newest)
}

// SecretSetting is a secret that the host decided under key for a tenant itself; none is the zero Secret.
func (d *Directory) SecretSetting(t *catalog.Tenant, key string) (catalog.Secret, error) {
	value, ok := t.Settings[key]
	if !ok {
		return catalog.Secret{}, nil
	}
	return d.catalog.UnsealSetting(t.ID, key, value)
}

// Setting is what the host decided under key for a tenant: its own value, else its edition's, else everybody's, else nil.
func (d *Directory) Setting(t *catalog.Tenant, key string) json.RawMessage {
	if t != nil {
		if value, ok := t.Settings[key]; ok {
			return value
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if value := d.sold(t, key); value != nil {
		return value
	}
	return d.settings[key]
}

// Hosts says whether a host name is a tenant's own domain and that tenant is served: what a TLS proxy asks before it gets
// a certificate for it.
func (d *Directory) Hosts(host string) bool {
	folded, err := CheckHost(host)
	if err != nil {
		return false
	}
	t := d.owner(folded)
	return t != nil && Served(t) == nil
}

// owner is the tenant that has host as its own domain, or nil.
func (d *Directory) owner(host string) *catalog.Tenant {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byDomain[host]
}

// Revision is the catalog's revision that the view shows; 0 before the first look.
func (d *Directory) Revision() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.revision
}

// Age is the time since the catalog last answered.
func (d *Directory) Age() time.Duration {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return time.Since(d.asOf)
}

// Moving says that some tenant is about to change its database, and that whoever moves it waits to hear who knows that.
func (d *Directory) Moving() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.moving > 0
}

// Loaded says that the catalog has been read at least once.
func (d *Directory) Loaded() bool { return d.Revision() > 0 }

// ErrNotReady means that the directory cannot answer yet, or no longer.
var ErrNotReady = errors.New("directory is not ready")

// Ready says why the directory cannot serve: it has read nothing yet, or the catalog has been away too long.
func (d *Directory) Ready() error {
	st := d.Stat()
	switch {
	case st.Revision == 0:
		return fmt.Errorf("catalog has not been read: %w", ErrNotReady)
	case st.Older:
		return fmt.Errorf("catalog is older than what is known of it and nobody has confirmed it: %w", ErrNotReady)
	case st.Age > serving:
		return fmt.Errorf("catalog has been away for %v: %w", st.Age.Round(time.Second), ErrNotReady)
	}
	return nil
}

// DirectoryStat is a moment of a Directory.
type DirectoryStat struct {
	Tenants, Databases, Servers int
	Revision                    int64
	// Age is the time since the catalog last answered.
	Age time.Duration
	// Older says that the catalog is older than what is known of it, and not confirmed.
	Older bool
}

// Stat is the directory's moment.
func (d *Directory) Stat() DirectoryStat {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return DirectoryStat{len(d.tenants), len(d.databases), len(d.servers), d.revision, time.Since(d.asOf), d.older}
}
