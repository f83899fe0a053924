package jobs

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/rowhouse/rowhouse/catalog"
)

// ensureServerRoles makes what all databases of a server share: the request roles, the migrator's login and the owner of
// what stands in templates. The migrator's secret is in the catalog before the role is on the server. It also says which
// of the other roles that are asked for are there.
func (p *provision) ensureServerRoles(ctx context.Context, h *host, others ...string) (map[string]role, error) {
	there, err := p.serverRoles(ctx, h, others...)
	if err != nil {
		return nil, err
	}
	found := map[string]role{}
	for _, name := range others {
		if r, ok := there[name]; ok {
			found[name] = r
		}
	}
	if len(there)-len(found) == len(requestRoles)+2 {
		_, err := p.catalog.Credential(ctx, p.db.Server, catalog.DatabaseID{}, catalog.LoginMigrator)
		if !errors.Is(err, catalog.ErrNotFound) {
			return found, err
		}
	}
	return found, h.under(ctx, lockKey(p.catalog.ID(), "roles of server "+p.db.Server.String()), func() error {
		return p.makeServerRoles(ctx, h)
	})
}

// serverRoles are those of the shared roles, and of others, that are there. A shared one that is not what its name promises
// is refused.
func (p *provision) serverRoles(ctx context.Context, h *host, others ...string) (map[string]role, error) {
	own := []string{migratorOf(p.db.Server), templateOwnerOf(p.db.Server)}
	there, err := h.roles(ctx, slices.Concat(own, requestRoles, others)...)
	if err != nil {
		return nil, err
	}
	for _, name := range own {
		if r, ok := there[name]; ok && r.Comment != p.serverMark() {
			return nil, permanently("role %q is there and not this catalog's", name)
		}
	}
	for _, name := range requestRoles {
		if there[name].Exempt {
			return nil, permanently("role %q is exempt from row-level security on this server", name)
		}
	}
	return there, nil
}

func (p *provision) serverMark() string {
	return markOf(p.catalog.ID(), "server="+p.db.Server.String())
}

func (p *provision) makeServerRoles(ctx context.Context, h *host) error {
	there, err := p.serverRoles(ctx, h)
	if err != nil {
		return err
	}
	migrator, fresh, err := p.migratorCredential(ctx)
	if err != nil {
		return err
	}
	verifier, err := scramVerifier(migrator.Secret)
	if err != nil {
		return err
	}
	var sql script
	for _, name := range requestRoles {
		if _, ok := there[name]; !ok {
			sql.add("create role %s nologin noinherit", ident(name))
		}
	}
	owner := templateOwnerOf(p.db.Server)
	if _, ok := there[owner]; !ok {
		sql.add("create role %s nologin noinherit", ident(owner))
		sql.add("comment on role %s is %s", ident(owner), literal(p.serverMark()))
	}
	if _, ok := there[migrator.Role]; !ok {
		sql.add("create role %s login noinherit password %s", ident(migrator.Role), literal(verifier))
		sql.add("comment on role %s is %s", ident(migrator.Role), literal(p.serverMark()))
	} else if fresh {
		sql.add("alter role %s password %s", ident(migrator.Role), literal(verifier))
	}
	sql.add("grant %s to %s", ident(owner), ident(migrator.Role))
	if !h.super {
		sql.add("grant %s to %s", ident(owner), ident(h.role))
	}
	return h.run(ctx, sql)
}

// migratorCredential is the server's; a fresh one is stored where there is none.
func (p *provision) migratorCredential(ctx context.Context) (cr catalog.Credential, fresh bool, err error) {
	cr, err = p.catalog.Credential(ctx, p.db.Server, catalog.DatabaseID{}, catalog.LoginMigrator)
	if !errors.Is(err, catalog.ErrNotFound) {
		return cr, false, err
	}
	cr = catalog.Credential{
		Server: p.db.Server, Login: catalog.LoginMigrator, Version: 1, Role: migratorOf(p.db.Server), Secret: newPassword(),
	}
	target := catalog.Ref{Kind: "server", ID: [16]byte(p.db.Server)}
	return cr, true, p.update(ctx, "server.migrator", target, nil, func(tx *catalog.Tx) error { return tx.SetCredential(ctx, cr) })
}

// newPassword is 256 random bits.
func newPassword() catalog.Secret {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return catalog.NewSecret(base64.RawURLEncoding.EncodeToString(b))
}

const scramIterations = 4096

// scramVerifier is what the server keeps of a password. We compute it, so that the password itself is in no statement and
// thus in no log of the server.
func scramVerifier(password catalog.Secret) (string, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	return scramWithSalt(password, salt)
}

func scramWithSalt(password catalog.Secret, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password.Reveal(), salt, scramIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("scram verifier: %w", err)
	}
	stored := sha256.Sum256(keyed(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, b64(salt), b64(stored[:]), b64(keyed(salted, "Server Key"))), nil
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
