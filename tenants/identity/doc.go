// Package identity knows a tenant's people: it verifies their tokens, mints them, and tells them who they are.
//
//	v, err := identity.NewVerifier(ctx, identity.Config{Secret: secret})
//	resolver := &tenants.Resolver{Verifier: v, Contributors: …}
//
// Each key verifies one algorithm and no other. What a verified token says is remembered for as long as the token holds,
// but its times are judged anew with every request; a key that left the set takes all of its tokens with it at once.
package identity
