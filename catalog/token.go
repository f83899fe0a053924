package catalog

import (
	"context"
	"time"
)

// Token is an operator's credential as the catalog keeps it: the hash of a secret that was shown once.
type Token struct {
	ID          string     `json:"id"`
	Hash        []byte     `json:"-"`
	Permissions []string   `json:"permissions"`
	Subject     string     `json:"subject"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   time.Time  `json:"expires_at"`
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`
}

const selectToken = `select id, hash, permissions, subject, created_at, expires_at, revoked_at from rowhouse.tokens`

// Token finds an operator token by its id. Unknown: ErrNotFound.
func (c *Catalog) Token(ctx context.Context, id string) (*Token, error) {
	return one[Token](ctx, c.pool, "token", selectToken+` where id = $1`, id)
}

// Tokens lists operator tokens, the newest first.
func (c *Catalog) Tokens(ctx context.Context) ([]*Token, error) {
	return all[Token](ctx, c.pool, "tokens", selectToken+` order by created_at desc`)
}

// CreateToken stores an operator token.
func (tx *Tx) CreateToken(ctx context.Context, t *Token) error {
	_, err := tx.Exec(ctx, `
		insert into rowhouse.tokens (id, hash, permissions, subject, expires_at) values ($1, $2, $3, $4, $5)`,
		t.ID, t.Hash, t.Permissions, t.Subject, t.ExpiresAt)
	return refine(err, "token")
}

// RevokeToken ends an operator token now. Unknown: ErrNotFound.
func (tx *Tx) RevokeToken(ctx context.Context, id string) error {
	return tx.exactlyOne(ctx, "token", `update rowhouse.tokens set revoked_at = coalesce(revoked_at, now()) where id = $1`, id)
}
