package tenants

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// Service carries out an operator's wishes on the catalog itself.
type Service struct {
	catalog *catalog.Catalog
	queue   Queue

	// Grace is how long a deleted tenant can be taken back.
	//
	// Zero means 30 days.
	Grace time.Duration

	// MaxPause is how long writes may have to wait for their tenant to be moved, where a move does not say.
	//
	// Zero means two seconds.
	MaxPause time.Duration
}

var _ Operator = (*Service)(nil)

// NewService makes a service that hands durable work to queue.
func NewService(cat *catalog.Catalog, queue Queue) *Service {
	return &Service{catalog: cat, queue: queue}
}

// DefaultTenant is the only tenant of a house whose tenancy is switched off. Nobody can take its name.
const DefaultTenant = "default"

// EnsureDefault provisions DefaultTenant where it is not there yet. The operation is nil when it is.
func (s *Service) EnsureDefault(ctx context.Context) (*catalog.Operation, error) {
	_, err := s.catalog.Tenant(ctx, DefaultTenant)
	if !errors.Is(err, catalog.ErrNotFound) {
		return nil, err
	}
	op, err := s.createTenant(ctx, TenantSpec{Name: DefaultTenant})
	if errors.Is(err, catalog.ErrExists) { // another process was first
		return nil, nil
	}
	return op, err
}

// CreateTenant records the tenant, its operation, the audit event and the job in one transaction.
func (s *Service) CreateTenant(ctx context.Context, spec TenantSpec) (*catalog.Operation, error) {
	if err := CheckName(spec.Name); err != nil {
		return nil, err
	}
	return s.createTenant(ctx, spec)
}

func (s *Service) createTenant(ctx context.Context, spec TenantSpec) (*catalog.Operation, error) {
	args, err := s.provisionArgs(ctx, spec)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	t := catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: spec.Name, Edition: spec.Edition, Gated: true}
	op := &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: KindProvision, Tenant: t.ID, Args: text, Steps: ProvisionSteps}
	if session, err := FromContext(ctx); err == nil {
		op.CreatedBy = session.Subject()
	}
	event := catalog.Event{
		Action: "tenant.create", Operation: op.ID, Target: catalog.Ref{Kind: "tenant", ID: [16]byte(t.ID), Name: t.Name},
		Actor: actorOf(ctx), Detail: map[string]any{"placement": args.Placement},
	}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.CreateTenant(ctx, t); err != nil {
			return err
		}
		if err := tx.CreateOperation(ctx, op); err != nil {
			return err
		}
		return s.queue.Enqueue(ctx, tx, op)
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Operation(ctx, op.ID)
}

// provisionArgs checks what the spec asks for while there is still somebody to tell.
func (s *Service) provisionArgs(ctx context.Context, spec TenantSpec) (ProvisionArgs, error) {
	args := ProvisionArgs{Placement: spec.Placement, Labels: spec.Labels}
	switch spec.Placement {
	case "":
		args.Placement = catalog.Shared
	case catalog.Shared, catalog.Dedicated:
	default:
		return args, catalog.Invalid("placement must be shared or dedicated")
	}
	if spec.Server != "" {
		server, err := s.catalog.Server(ctx, spec.Server)
		if err != nil {
			return args, err
		}
		if server.State != "active" {
			return args, fmt.Errorf("server %q is drained: %w", server.Name, catalog.ErrConflict)
		}
		args.Server = server.ID
	}
	if spec.Database != "" {
		id, err := catalog.ParseID[catalog.Database](spec.Database)
		if err != nil {
			return args, fmt.Errorf("database: %w", err)
		}
		db, err := s.catalog.Database(ctx, id)
		if err != nil {
			return args, err
		}
		if args.Placement != catalog.Shared || db.Kind != catalog.Shared || db.State != catalog.DatabaseActive {
			return args, catalog.Invalid("database %s is not an active shared one for a shared tenant", id)
		}
		args.Server, args.Database = db.Server, db.ID
	}
	if args.Placement == catalog.Dedicated {
		return args, s.catalog.RoomFor(ctx, args.Server, args.Labels)
	}
	return args, nil
}

func actorOf(ctx context.Context) catalog.Actor {
	if session, err := FromContext(ctx); err == nil {
		return session.Actor()
	}
	return catalog.Actor{}
}

// AdoptTenant takes an existing database as a dedicated tenant, as it stands: it is looked at and nothing in it is changed.
// Its server becomes one of ours without a provisioner, so that nothing else is placed there.
func (s *Service) AdoptTenant(ctx context.Context, spec AdoptSpec) (*catalog.Tenant, error) {
	if err := CheckName(spec.Name); err != nil {
		return nil, err
	}
	address, secret, err := catalog.ParseAddress(spec.DSN.Reveal())
	if err != nil {
		return nil, err
	}
	server, isNew, err := s.serverAt(ctx, address)
	if err != nil {
		return nil, err
	}
	t := catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: spec.Name, Database: catalog.NewID[catalog.Database]()}
	login := catalog.Credential{Server: server.ID, Database: t.Database, Login: catalog.LoginData, Version: 1, Role: address.User, Secret: secret}
	found, err := server.Inspect(ctx, address.Database, login)
	if err != nil {
		return nil, err
	}
	event := catalog.Event{
		Action: "tenant.adopt", Target: catalog.Ref{Kind: "tenant", ID: [16]byte(t.ID), Name: t.Name}, Actor: actorOf(ctx),
		Detail: map[string]any{"database": address.Database, "hosts": server.Hosts, "roles": found.Roles, "schemas": found.Schemas},
	}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if isNew {
			if err := tx.CreateServer(ctx, server); err != nil {
				return err
			}
			if err := tx.SetServerState(ctx, server.ID, "drained"); err != nil {
				return err
			}
		}
		if err := tx.CreateDatabase(ctx, catalog.NewDatabase{
			ID: t.Database, Server: server.ID, Name: address.Database, Kind: catalog.Dedicated, State: catalog.DatabaseActive,
			Adopted: true, Identity: found.Identity, Roles: found.Roles,
		}); err != nil {
			return err
		}
		if err := tx.SetCredential(ctx, login); err != nil {
			return err
		}
		if err := tx.CreateTenant(ctx, t); err != nil {
			return err
		}
		return tx.SetTenantState(ctx, t.ID, catalog.StateActive, "")
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Tenant(ctx, t.ID.String())
}

// serverAt finds the server that is reached at an address, or says what it would be.
func (s *Service) serverAt(ctx context.Context, a catalog.Address) (server *catalog.Server, isNew bool, err error) {
	for server, err := range s.catalog.Servers(ctx) {
		if err != nil {
			return nil, false, err
		}
		if slices.Equal(server.Hosts, a.Hosts) && server.SSLMode == a.SSLMode {
			return server, false, nil
		}
	}
	id := catalog.NewID[catalog.Server]()
	return &catalog.Server{ID: id, Name: "adopted-" + id.Compact()[20:], Hosts: a.Hosts, SSLMode: a.SSLMode}, true, nil
}

// Tenant finds a tenant by id, name or alias.
func (s *Service) Tenant(ctx context.Context, ref string) (*catalog.Tenant, error) {
	return s.catalog.Tenant(ctx, ref)
}

// Tenants lists tenants by name.
func (s *Service) Tenants(ctx context.Context) ([]*catalog.Tenant, error) {
	return collect(s.catalog.Tenants(ctx))
}

// RenameTenant gives a tenant another name. What runs goes on: everything is keyed by the id.
func (s *Service) RenameTenant(ctx context.Context, ref, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return s.change(ctx, ref, "tenant.rename", map[string]any{"to": name}, func(tx *catalog.Tx, t *catalog.Tenant) error {
		if t.Name == name {
			return nil
		}
		return tx.RenameTenant(ctx, t, name)
	})
}

// AddDomain gives a tenant a host name of its own.
func (s *Service) AddDomain(ctx context.Context, ref, host string) error {
	folded, err := CheckHost(host)
	if err != nil {
		return err
	}
	return s.change(ctx, ref, "domain.add", map[string]any{"host": folded}, func(tx *catalog.Tx, t *catalog.Tenant) error {
		return tx.AddDomain(ctx, t.ID, folded)
	})
}

// RemoveDomain takes a host name back.
func (s *Service) RemoveDomain(ctx context.Context, ref, host string) error {
	folded, err := CheckHost(host)
	if err != nil {
		return err
	}
	return s.change(ctx, ref, "domain.remove", map[string]any{"host": folded}, func(tx *catalog.Tx, t *catalog.Tenant) error {
		return tx.RemoveDomain(ctx, t.ID, folded)
	})
}

// change runs fn on a tenant, with its audit event.
func (s *Service) change(ctx context.Context, ref, action string, detail map[string]any, fn func(*catalog.Tx, *catalog.Tenant) error) error {
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return err
	}
	event := catalog.Event{Action: action, Target: t.Ref(), Actor: actorOf(ctx), Detail: detail}
	return s.catalog.Update(ctx, event, func(tx *catalog.Tx) error { return fn(tx, t) })
}

// Operation finds an operation.
func (s *Service) Operation(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error) {
	return s.catalog.Operation(ctx, id)
}

// Operations lists the newest hundred.
func (s *Service) Operations(ctx context.Context, tenant string) ([]*catalog.Operation, error) {
	var id catalog.TenantID
	if tenant != "" {
		t, err := s.catalog.Tenant(ctx, tenant)
		if err != nil {
			return nil, err
		}
		id = t.ID
	}
	return s.catalog.Operations(ctx, id, 100)
}

// OperationEvents lists what happened to an operation.
func (s *Service) OperationEvents(ctx context.Context, id catalog.OperationID, after int64) ([]*catalog.OperationEvent, error) {
	return s.catalog.OperationEvents(ctx, id, after)
}

// RetryOperation makes a failed operation go on at its step.
func (s *Service) RetryOperation(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error) {
	op, err := s.catalog.Operation(ctx, id)
	if err != nil {
		return nil, err
	}
	event := catalog.Event{Action: "operation.retry", Target: op.Ref(), Operation: id, Actor: actorOf(ctx)}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if op.State != catalog.OperationFailed && op.State != catalog.OperationCancelled {
			return fmt.Errorf("operation %s is %s: %w", id, op.State, catalog.ErrConflict)
		}
		if op.Effects == catalog.EffectsUndone {
			return fmt.Errorf("operation %s was undone; ask for it anew: %w", id, catalog.ErrConflict)
		}
		if err := tx.RetryOperation(ctx, id); err != nil {
			return err
		}
		if op.Kind == KindProvision || op.Kind == KindImport {
			if err := tx.SetTenantState(ctx, op.Tenant, catalog.StateProvisioning, "", catalog.StateFailed, catalog.StateProvisioning, catalog.StateActive); err != nil {
				return err
			}
		}
		return s.queue.Enqueue(ctx, tx, op)
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Operation(ctx, id)
}

// AddServer registers a server after its provisioner has been let in. What the provisioner needs there is made by the
// first operation that uses the server.
func (s *Service) AddServer(ctx context.Context, spec ServerSpec) (*catalog.Server, error) {
	if !isName(spec.Name) {
		return nil, catalog.Invalid("server name must be lower-case letters, digits and single hyphens, 40 at most")
	}
	address, secret, err := catalog.ParseAddress(spec.DSN.Reveal())
	if err != nil {
		return nil, err
	}
	server := &catalog.Server{
		ID: catalog.NewID[catalog.Server](), Name: spec.Name, Hosts: address.Hosts, SSLMode: address.SSLMode,
	}
	if err := spec.ServerLimits.apply(server); err != nil {
		return nil, err
	}
	provisioner := catalog.Credential{Server: server.ID, Login: catalog.LoginProvisioner, Version: 1, Role: address.User, Secret: secret}
	if err := server.Probe(ctx, address.Database, provisioner); err != nil {
		return nil, err
	}
	event := catalog.Event{Action: "server.add", Target: server.Ref(), Actor: actorOf(ctx), Detail: map[string]any{"hosts": address.Hosts}}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.CreateServer(ctx, server); err != nil {
			return err
		}
		return tx.SetCredential(ctx, provisioner)
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Server(ctx, server.Name)
}

// DrainServer places nothing new on a server; what is there stays.
func (s *Service) DrainServer(ctx context.Context, ref string) error {
	return s.changeServer(ctx, ref, "server.drain", func(tx *catalog.Tx, server *catalog.Server) error {
		return tx.SetServerState(ctx, server.ID, "drained")
	})
}

// ResumeServer places on a server again.
func (s *Service) ResumeServer(ctx context.Context, ref string) error {
	return s.changeServer(ctx, ref, "server.resume", func(tx *catalog.Tx, server *catalog.Server) error {
		return tx.SetServerState(ctx, server.ID, "active")
	})
}

// RemoveServer forgets a server that holds no databases.
func (s *Service) RemoveServer(ctx context.Context, ref string) error {
	return s.changeServer(ctx, ref, "server.remove", func(tx *catalog.Tx, server *catalog.Server) error {
		return tx.RemoveServer(ctx, server.ID)
	})
}

func (s *Service) changeServer(ctx context.Context, ref, action string, fn func(*catalog.Tx, *catalog.Server) error) error {
	server, err := s.catalog.Server(ctx, ref)
	if err != nil {
		return err
	}
	event := catalog.Event{Action: action, Target: server.Ref(), Actor: actorOf(ctx)}
	return s.catalog.Update(ctx, event, func(tx *catalog.Tx) error { return fn(tx, server) })
}

// Server finds a server by id or name.
func (s *Service) Server(ctx context.Context, ref string) (*catalog.Server, error) {
	return s.catalog.Server(ctx, ref)
}

// Servers lists servers by name.
func (s *Service) Servers(ctx context.Context) ([]*catalog.Server, error) {
	return collect(s.catalog.Servers(ctx))
}

// SetSetting stores what the host decides. An unknown key or a value that does not fit it is catalog.ErrInvalid.
func (s *Service) SetSetting(ctx context.Context, tenant, key string, value json.RawMessage) error {
	if err := CheckSetting(key, value); err != nil {
		return err
	}
	return s.changeSetting(ctx, "setting.set", tenant, key, value)
}

// UnsetSetting takes back what SetSetting stored.
func (s *Service) UnsetSetting(ctx context.Context, tenant, key string) error {
	return s.changeSetting(ctx, "setting.unset", tenant, key, nil)
}

func (s *Service) changeSetting(ctx context.Context, action, tenant, key string, value json.RawMessage) error {
	target, id := catalog.Ref{Kind: "setting", Name: key}, catalog.TenantID{}
	if tenant != "" {
		t, err := s.catalog.Tenant(ctx, tenant)
		if err != nil {
			return err
		}
		target, id = t.Ref(), t.ID
	}
	event := catalog.Event{Action: action, Target: target, Actor: actorOf(ctx), Detail: map[string]any{"key": key}}
	return s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if value == nil || !settings[key].secret {
			return tx.SetSetting(ctx, id, key, value)
		}
		var secret string
		if err := json.Unmarshal(value, &secret); err != nil {
			return catalog.Invalid("setting %q: want %s", key, settings[key].want)
		}
		return tx.SetSecretSetting(ctx, id, key, catalog.NewSecret(secret))
	})
}

// Settings are what the host decided for one tenant, or with an empty tenant for everybody. Secrets are left out.
func (s *Service) Settings(ctx context.Context, tenant string) (map[string]json.RawMessage, error) {
	var values map[string]json.RawMessage
	if tenant == "" {
		var err error
		if values, err = s.catalog.GlobalSettings(ctx); err != nil {
			return nil, err
		}
	} else {
		t, err := s.catalog.Tenant(ctx, tenant)
		if err != nil {
			return nil, err
		}
		values = t.Settings
	}
	readable := make(map[string]json.RawMessage, len(values))
	for key, value := range values {
		readable[key] = shown(key, value)
	}
	return readable, nil
}

// maxTokenTTL is the longest an operator's token may live.
const maxTokenTTL = 365 * 24 * time.Hour

// tokenPrefix is what scanners for leaked secrets know an operator's token by.
const tokenPrefix = "rhop"

// CreateToken makes an operator's token, rhop_<id>_<secret>_<checksum>. The catalog keeps its hash only.
func (s *Service) CreateToken(ctx context.Context, spec TokenSpec) (catalog.Secret, *catalog.Token, error) {
	if spec.TTL <= 0 || spec.TTL > maxTokenTTL {
		return catalog.Secret{}, nil, catalog.Invalid("ttl must be between a moment and a year")
	}
	for _, p := range spec.Permissions {
		if p != "*" && !slices.Contains(Permissions, p) {
			return catalog.Secret{}, nil, catalog.Invalid("permission %.60q is not known; there are * and %s", p, strings.Join(Permissions, ", "))
		}
	}
	body := strings.Join([]string{tokenPrefix, base62(9), base62(32)}, "_")
	text := fmt.Sprintf("%s_%08x", body, crc32.ChecksumIEEE([]byte(body)))
	hash := sha256.Sum256([]byte(text))
	t := &catalog.Token{
		ID: strings.Split(text, "_")[1], Hash: hash[:], Permissions: spec.Permissions, Subject: spec.Subject, ExpiresAt: time.Now().Add(spec.TTL),
	}
	if t.Permissions == nil {
		t.Permissions = []string{}
	}
	event := catalog.Event{Action: "token.create", Target: catalog.Ref{Kind: "token", Name: t.ID}, Actor: actorOf(ctx), Detail: map[string]any{"subject": t.Subject, "permissions": t.Permissions}}
	if err := s.catalog.Update(ctx, event, func(tx *catalog.Tx) error { return tx.CreateToken(ctx, t) }); err != nil {
		return catalog.Secret{}, nil, err
	}
	t, err := s.catalog.Token(ctx, t.ID)
	return catalog.NewSecret(text), t, err
}

// Tokens lists operators' tokens.
func (s *Service) Tokens(ctx context.Context) ([]*catalog.Token, error) { return s.catalog.Tokens(ctx) }

// RevokeToken ends an operator's token.
func (s *Service) RevokeToken(ctx context.Context, id string) error {
	event := catalog.Event{Action: "token.revoke", Target: catalog.Ref{Kind: "token", Name: id}, Actor: actorOf(ctx)}
	return s.catalog.Update(ctx, event, func(tx *catalog.Tx) error { return tx.RevokeToken(ctx, id) })
}

// Authenticate finds the operator's session and permissions that a token's text stands for. Whatever is wrong with it is
// the same ErrCredential; a catalog that cannot be asked is ErrUnavailable.
func (s *Service) Authenticate(ctx context.Context, text string) (Session, *catalog.Token, error) {
	refused := fmt.Errorf("operator token: %w", ErrCredential)
	parts := strings.Split(text, "_")
	if len(parts) != 4 || len(text) > 200 || parts[0] != tokenPrefix {
		return Session{}, nil, refused
	}
	t, err := s.catalog.Token(ctx, parts[1])
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return Session{}, nil, refused
	case err != nil:
		return Session{}, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	hash := sha256.Sum256([]byte(text))
	if subtle.ConstantTimeCompare(hash[:], t.Hash) != 1 || t.RevokedAt != nil || time.Now().After(t.ExpiresAt) {
		return Session{}, nil, refused
	}
	return Host(t.Subject, t.Permissions...), t, nil
}

// base62 is n random bytes' worth of letters and digits.
func base62(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return new(big.Int).SetBytes(append([]byte{1}, b...)).Text(62)
}

func collect[Row any](rows iter.Seq2[*Row, error]) ([]*Row, error) {
	found := []*Row{}
	for row, err := range rows {
		if err != nil {
			return nil, err
		}
		found = append(found, row)
	}
	return found, nil
}
