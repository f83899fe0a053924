package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Server is a PostgreSQL server that databases can be created on.
type Server struct {
	ID   ServerID `json:"id"`
	Name string   `json:"name"`
	// Hosts are "host:port" or "/socket/directory:port", the usual primary first.
	Hosts   []string `json:"hosts"`
	SSLMode string   `json:"sslmode"`
	// MaxConnections bounds the connections open to it, over all pools of all replicas.
	MaxConnections int `json:"max_connections"`
	// MaxInUse bounds the transactions running at once; 0 means a third of MaxConnections, at least 8.
	MaxInUse     int `json:"max_in_use"`
	MaxDatabases int `json:"max_databases"`
	// Spares is how many databases stand ready for tenants to come.
	Spares int `json:"spares"`
	// Labels are what tenants can ask for of a server.
	Labels    map[string]string `json:"labels"`
	State     string            `json:"state"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
}

// Ref names the server in an audit event.
func (s *Server) Ref() Ref { return Ref{Kind: "server", ID: [16]byte(s.ID), Name: s.Name} }

const selectServer = `
select id, name, hosts, sslmode, max_connections, max_in_use, max_databases, spares, labels, state, created_at, updated_at
  from rowhouse.servers`

// Server finds a server by id or name. Unknown: ErrNotFound.
func (c *Catalog) Server(ctx context.Context, ref string) (*Server, error) {
	noun := fmt.Sprintf("server %q", ref)
	if id, err := ParseID[Server](ref); err == nil {
		return one[Server](ctx, c.pool, noun, selectServer+` where id = $1`, id)
	}
	return one[Server](ctx, c.pool, noun, selectServer+` where name = $1`, ref)
}

// Servers goes through the servers by name.
func (c *Catalog) Servers(ctx context.Context) iter.Seq2[*Server, error] {
	return each[Server](ctx, c.pool, "servers", selectServer+` order by name`)
}

// CreateServer inserts a server. A name in use is ErrExists.
func (tx *Tx) CreateServer(ctx context.Context, s *Server) error {
	_, err := tx.Exec(ctx, `
		insert into rowhouse.servers (id, name, hosts, sslmode, max_connections, max_in_use, max_databases, spares, labels)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, s.ID, s.Name, s.Hosts, s.SSLMode,
		orDefault(s.MaxConnections, 80), s.MaxInUse, orDefault(s.MaxDatabases, 300), s.Spares, orNone(s.Labels))
	return refine(err, fmt.Sprintf("server %q", s.Name))
}

// SetServer changes what an operator decides of a server: its limits, spares and labels. One out of range is ErrInvalid.
func (tx *Tx) SetServer(ctx context.Context, s *Server) error {
	return tx.exactlyOne(ctx, fmt.Sprintf("server %q", s.Name), `
		update rowhouse.servers
		   set max_connections = $2, max_in_use = $3, max_databases = $4, spares = $5, labels = $6, updated_at = now()
		 where id = $1`, s.ID, s.MaxConnections, s.MaxInUse, s.MaxDatabases, s.Spares, orNone(s.Labels))
}

// SetServerState makes a server active, or drained: a drained one gets nothing new.
func (tx *Tx) SetServerState(ctx context.Context, id ServerID, state string) error {
	return tx.exactlyOne(ctx, "server "+id.String(), `
		update rowhouse.servers set state = $2, updated_at = now() where id = $1`, id, state)
}

// RemoveServer forgets a server and its credentials. One that holds databases is ErrConflict.
func (tx *Tx) RemoveServer(ctx context.Context, id ServerID) error {
	var holds bool
	err := tx.QueryRow(ctx, `select exists (select from rowhouse.databases where server = $1 and state <> 'gone')`, id).Scan(&holds)
	if err != nil {
		return refine(err, "server "+id.String())
	}
	if holds {
		return fmt.Errorf("server holds databases: %w", ErrConflict)
	}
	if _, err := tx.Exec(ctx, `delete from rowhouse.databases where server = $1`, id); err != nil {
		return refine(err, "server "+id.String())
	}
	return tx.exactlyOne(ctx, "server "+id.String(), `delete from rowhouse.servers where id = $1`, id)
}

// leastVersion is PostgreSQL 15: earlier ones lack what shared databases and provisioning rest on.
const leastVersion = 150000

// Probe connects to a server as its provisioner and says what keeps it from being one.
func (s *Server) Probe(ctx context.Context, dbname string, provisioner Credential) error {
	cfg, err := s.connConfig(dbname, provisioner)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return Invalid("server %q: its provisioner %s", s.Name, whyNot(err))
	}
	defer func() { _ = conn.Close(ctx) }()
	var version int
	var able bool
	err = conn.QueryRow(ctx, `
		select current_setting('server_version_num')::int, rolsuper or rolcreatedb and rolcreaterole
		  from pg_roles where rolname = current_user`).Scan(&version, &able)
	switch {
	case err != nil:
		return refine(err, fmt.Sprintf("server %q", s.Name))
	case version < leastVersion:
		return Invalid("server %q is PostgreSQL %d; 15 is the least", s.Name, version/10000)
	case !able:
		return Invalid("server %q: role %q may not create databases and roles (CREATEDB, CREATEROLE)", s.Name, provisioner.Role)
	}
	return nil
}

// Found is what stands in a database that may be adopted.
type Found struct {
	// Identity is the cluster's system identifier and the database's oid.
	Identity string
	// Version is PostgreSQL's, such as 150018.
	Version int
	// Roles are those that the login may become, itself included where it is fit.
	Roles []string
	// Schemas are those that are not the system's.
	Schemas []string
	// Ours says that a catalog has made or adopted it already.
	Ours bool
}

// Inspect connects to a database as a login and looks, without changing anything, what stands there. A login that is a
// superuser or not bound by row-level security is refused: nothing would fence what it does.
func (s *Server) Inspect(ctx context.Context, dbname string, login Credential) (*Found, error) {
	cfg, err := s.connConfig(dbname, login)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["default_transaction_read_only"] = "on"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, Invalid("database %q: its login %s", dbname, whyNot(err))
	}
	defer func() { _ = conn.Close(ctx) }()
	f := &Found{}
	var unbound bool
	err = conn.QueryRow(ctx, `
		select (select system_identifier::text from pg_control_system()) || '/' || d.oid, current_setting('server_version_num')::int,
		       array(select r.rolname::text from pg_roles r
		              where pg_has_role(current_user, r.oid, 'member') and not r.rolsuper and not r.rolbypassrls
		                and r.rolname !~ '^pg_' order by 1),
		       array(select n.nspname::text from pg_namespace n
		              where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1),
		       to_regclass('rowhouse.identity') is not null or to_regclass('rowhouse.catalog') is not null,
		       (select rolsuper or rolbypassrls from pg_roles where rolname = current_user)
		  from pg_database d where d.datname = current_database()`).Scan(&f.Identity, &f.Version, &f.Roles, &f.Schemas, &f.Ours, &unbound)
	switch {
	case err != nil:
		return nil, refine(err, fmt.Sprintf("database %q", dbname))
	case f.Version < leastVersion:
		return nil, Invalid("database %q is on PostgreSQL %d; 15 is the least", dbname, f.Version/10000)
	case f.Ours:
		return nil, fmt.Errorf("database %q belongs to a catalog already: %w", dbname, ErrExists)
	case unbound:
		return nil, Invalid("database %q: login %q is a superuser or bypasses row-level security", dbname, login.Role)
	}
	return f, nil
}

// whyNot says why a connection was not made, without what was tried: that holds names, and pgx's own error the password.
func whyNot(err error) string {
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused):
		return "is refused (SQLSTATE " + refused.Code + ")"
	case errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err):
		return "gets no answer"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return "finds nobody there"
	}
	return "cannot connect"
}

// SetServerHosts changes where a server is reached.
func (tx *Tx) SetServerHosts(ctx context.Context, id ServerID, hosts []string) error {
	return tx.exactlyOne(ctx, "server "+id.String(), `
		update rowhouse.servers set hosts = $2, updated_at = now() where id = $1`, id, hosts)
}

func orDefault(n, or int) int {
	if n == 0 {
		return or
	}
	return n
}

// Login is what a credential is for.
type Login string

// The logins. The first two belong to a server, the others to one database.
const (
	LoginProvisioner Login = "provisioner"
	LoginMigrator    Login = "migrator"
	LoginData        Login = "data"
	// LoginUnscoped is bound by no tenant. A database has one only where an operator has allowed it.
	LoginUnscoped Login = "unscoped"
)

// Credential is a database role that may log in, and its password.
type Credential struct {
	Server   ServerID
	Database DatabaseID // zero for the logins of a server
	Login    Login
	Version  int64
	Role     string
	Secret   Secret
}

// SetCredential stores a credential, its secret sealed and bound to its row. Storing the same row again replaces it.
func (tx *Tx) SetCredential(ctx context.Context, cr Credential) error {
	sealed, err := tx.catalog.seal(cr.Secret, boundTo(cr.Server, cr.Database, cr.Login, cr.Version))
	if err != nil {
		return fmt.Errorf("credential of role %q: %w", cr.Role, err)
	}
	_, err = tx.Exec(ctx, `
		insert into rowhouse.credentials (server, database, login, version, role, secret)
		values ($1, $2, $3, $4, $5, $6)
		on conflict (server, database, login, version) do update set role = excluded.role, secret = excluded.secret`,
		cr.Server, cr.Database, cr.Login, cr.Version, cr.Role, sealed)
	return refine(err, fmt.Sprintf("credential of role %q", cr.Role))
}

// RemoveCredentials forgets every version of a database's login. None is no error.
func (tx *Tx) RemoveCredentials(ctx context.Context, database DatabaseID, login Login) error {
	_, err := tx.Exec(ctx, `delete from rowhouse.credentials where database = $1 and login = $2`, database, login)
	return refine(err, fmt.Sprintf("%s credential", login))
}

// Credential finds the newest credential of a server's login, or the current one of a database's. Unknown: ErrNotFound.
// A secret that does not open is ErrSealed.
func (c *Catalog) Credential(ctx context.Context, server ServerID, database DatabaseID, login Login) (Credential, error) {
	return c.credential(ctx, server, database, login, nil)
}

// CredentialUpTo finds the newest credential of a database's login up to a version, whichever is the current one. Unknown:
// ErrNotFound. It is for those who change it.
func (c *Catalog) CredentialUpTo(ctx context.Context, server ServerID, database DatabaseID, login Login, version int64) (Credential, error) {
	return c.credential(ctx, server, database, login, &version)
}

func (c *Catalog) credential(ctx context.Context, server ServerID, database DatabaseID, login Login, most *int64) (Credential, error) {
	noun := fmt.Sprintf("%s credential", login)
	sealed, err := one[SealedLogin](ctx, c.pool, noun, `
		select c.server, c.database, c.login, c.version, c.role, c.secret
		  from rowhouse.credentials c
		  left join rowhouse.databases d on d.id = c.database
		 where c.server = $1 and c.database is not distinct from $2 and c.login = $3
		   and (d.id is null or c.version <= coalesce($4, d.credential_version))
		 order by c.version desc
		 limit 1`, server, database, login, most)
	if err != nil {
		return Credential{}, err
	}
	secret, err := c.unseal(sealed.Secret, boundTo(sealed.Server, sealed.Database, sealed.Login, sealed.Version))
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", noun, err)
	}
	return Credential{sealed.Server, sealed.Database, sealed.Login, sealed.Version, sealed.Role, secret}, nil
}

// ConnConfig says how to connect to a database as one of its logins. It reads the catalog and opens the secret: it is for
// the moment a pool is made, not for each request.
func (c *Catalog) ConnConfig(ctx context.Context, id DatabaseID, login Login) (*pgx.ConnConfig, error) {
	db, err := c.Database(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.ServerConnConfig(ctx, db.Server, db.ID, db.Name, login)
}

// ServerConnConfig says how to connect to any database of a server. The logins of the server take a zero id.
func (c *Catalog) ServerConnConfig(ctx context.Context, server ServerID, id DatabaseID, dbname string, login Login) (*pgx.ConnConfig, error) {
	s, err := c.Server(ctx, server.String())
	if err != nil {
		return nil, err
	}
	if login == LoginProvisioner || login == LoginMigrator {
		id = DatabaseID{}
	}
	cr, err := c.Credential(ctx, server, id, login)
	if err != nil {
		return nil, err
	}
	return s.connConfig(dbname, cr)
}

// ConnConfigFrom says how to connect to a database from rows that were read before. It opens the secret and asks nobody.
func (c *Catalog) ConnConfigFrom(s *Server, db *Database, l SealedLogin) (*pgx.ConnConfig, error) {
	secret, err := c.unseal(l.Secret, boundTo(l.Server, l.Database, l.Login, l.Version))
	if err != nil {
		return nil, fmt.Errorf("%s credential: %w", l.Login, err)
	}
	return s.connConfig(db.Name, Credential{l.Server, l.Database, l.Login, l.Version, l.Role, secret})
}

// ConnConfig says how to connect to a database of the server as somebody whose credential is in no row of the catalog.
func (s *Server) ConnConfig(dbname string, cr Credential) (*pgx.ConnConfig, error) {
	return s.connConfig(dbname, cr)
}

// CredentialConnConfig says how to connect to a database of a server with a credential that may not be the current one.
func (c *Catalog) CredentialConnConfig(ctx context.Context, dbname string, cr Credential) (*pgx.ConnConfig, error) {
	s, err := c.Server(ctx, cr.Server.String())
	if err != nil {
		return nil, err
	}
	return s.connConfig(dbname, cr)
}

// UseCredential makes the credential of a version the current one of a database.
func (tx *Tx) UseCredential(ctx context.Context, id DatabaseID, version int64) error {
	return tx.exactlyOne(ctx, "database "+id.String(), `
		update rowhouse.databases set credential_version = $2, updated_at = now() where id = $1`, id, version)
}

// DropCredential forgets a credential. One that is not there is no error.
func (tx *Tx) DropCredential(ctx context.Context, cr Credential) error {
	_, err := tx.Exec(ctx, `
		delete from rowhouse.credentials where server = $1 and database = $2 and login = $3 and version = $4`, cr.Server, cr.Database, cr.Login, cr.Version)
	return refine(err, fmt.Sprintf("credential of role %q", cr.Role))
}

// connConfig is filled from the parts of the catalog's rows. PG* variables of the process have no part in it.
func (s *Server) connConfig(dbname string, cr Credential) (*pgx.ConnConfig, error) {
	hosts, ports := make([]string, len(s.Hosts)), make([]string, len(s.Hosts))
	for i, h := range s.Hosts {
		cut := strings.LastIndexByte(h, ':')
		if cut < 0 {
			return nil, fmt.Errorf("server %q: host without a port: %w", s.Name, ErrInvalid)
		}
		hosts[i], ports[i] = strings.Trim(h[:cut], "[]"), h[cut+1:]
	}
	q := url.Values{
		"host": {strings.Join(hosts, ",")}, "port": {strings.Join(ports, ",")}, "user": {cr.Role}, "dbname": {dbname},
		"sslmode": {s.SSLMode}, "passfile": {"/dev/null"}, "connect_timeout": {"5"},
	}
	if len(hosts) > 1 {
		q.Set("target_session_attrs", "read-write")
	}
	cfg, err := pgx.ParseConfig("postgres:///?" + strings.ReplaceAll(q.Encode(), "+", "%20"))
	if err != nil {
		return nil, fmt.Errorf("server %q: unusable address: %w", s.Name, ErrInvalid)
	}
	if cfg.Password, err = cr.Secret.resolve(); err != nil {
		return nil, fmt.Errorf("server %q: role %q: %w", s.Name, cr.Role, err)
	}
	cfg.RuntimeParams = map[string]string{"application_name": "rowhouse"}
	return cfg, nil
}

// Address is where a connection string points, without its secret.
type Address struct {
	Hosts    []string
	Database string
	User     string
	SSLMode  string
}

// allowedKeys are the keys a connection string of an operator may hold. Everything else reads files, sets options of the
// session or changes who one is.
var allowedKeys = []string{"host", "port", "user", "password", "dbname", "sslmode", "connect_timeout"}

// ParseAddress takes a connection string apart. It must name user and host: nothing is taken from the environment or from
// who runs this. Errors name the key, never a value. Plain text is refused off loopback.
func ParseAddress(dsn string) (Address, Secret, error) {
	refuse := func(format string, args ...any) (Address, Secret, error) {
		return Address{}, Secret{}, Invalid("connection string: "+format, args...)
	}
	if strings.ContainsAny(dsn, "\x00\r\n") {
		return refuse("a control character")
	}
	cfg, err := pgx.ParseConfigWithOptions(dsn, pgx.ParseConfigOptions{ParseConfigOptions: pgconn.ParseConfigOptions{ConnStringAllowedKeys: allowedKeys}})
	if err != nil {
		return refuse("%s", whyRefused(dsn))
	}
	given := keysOf(dsn)
	a := Address{Database: cfg.Database, User: cfg.User, SSLMode: "verify-full"}
	switch {
	case !given["user"] || a.User == "":
		return refuse("user is missing")
	case !given["host"]:
		return refuse("host is missing")
	case !given["dbname"] || a.Database == "" || len(a.Database) > 63:
		return refuse("dbname is missing or longer than 63 bytes")
	case a.Database == "template0" || a.Database == "template1":
		return refuse("dbname is a template of the server's own")
	}
	for _, f := range append([]*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port}}, cfg.Fallbacks...) {
		if !isHost(f.Host) {
			return refuse("host is no name, no address and no absolute path")
		}
		host := fmt.Sprintf("%s:%d", f.Host, f.Port)
		if strings.Contains(f.Host, ":") {
			host = fmt.Sprintf("[%s]:%d", f.Host, f.Port)
		}
		if !slices.Contains(a.Hosts, host) { // one host stands there twice when TLS has a fallback
			a.Hosts = append(a.Hosts, host)
		}
	}
	switch {
	case allLocal(a.Hosts) && !strings.Contains(dsn, "sslmode=verify-full"):
		a.SSLMode = "disable"
	case given["sslmode"] && !strings.Contains(dsn, "sslmode=verify-full"):
		return refuse("sslmode must be verify-full off loopback")
	}
	return a, NewSecret(cfg.Password), nil
}

// isHost is the grammar of a host: letters, digits, hyphens, underscores and dots, an IP address, or a socket directory.
func isHost(host string) bool {
	if strings.HasPrefix(host, "/") {
		return !strings.ContainsAny(host, ",")
	}
	if net.ParseIP(host) != nil {
		return true
	}
	for _, r := range host {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return false
		}
	}
	return host != "" && host[0] != '.' && len(host) <= 253
}

// keysOf says which keys a connection string holds, in either form.
func keysOf(dsn string) map[string]bool {
	given := map[string]bool{}
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		for _, pair := range strings.Fields(dsn) {
			key, _, _ := strings.Cut(pair, "=")
			given[key] = true
		}
		return given
	}
	for key := range u.Query() {
		given[key] = true
	}
	given["user"] = given["user"] || u.User.Username() != ""
	given["host"] = given["host"] || u.Host != "" && !strings.HasPrefix(u.Host, ":")
	given["dbname"] = given["dbname"] || len(u.Path) > 1
	return given
}

// whyRefused names a key of dsn that is not allowed, or says that the string cannot be read at all.
func whyRefused(dsn string) string {
	for _, key := range slices.Sorted(maps.Keys(keysOf(dsn))) {
		if !slices.Contains(allowedKeys, key) && len(key) <= 40 && isWord(key) {
			return fmt.Sprintf("key %q is not allowed", key)
		}
	}
	return "cannot be read"
}

func isWord(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && r != '_' {
			return false
		}
	}
	return s != ""
}

func allLocal(hosts []string) bool {
	for _, h := range hosts {
		if strings.HasPrefix(h, "/") {
			continue
		}
		host, _, err := net.SplitHostPort(h)
		if err != nil {
			return false
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}
