// Package rest serves a database's tables over HTTP in PostgREST's dialect.
//
// A Handler needs nothing but something that begins transactions, a pool say:
//
//	h := rest.New(pool, rest.Config{})
//	http.Handle("/rest/v1/", h) // GET /rest/v1/projects?select=id,name&status=eq.active
//
// A request is parsed, planned against the schema, written as one SQL statement and run in one transaction, whose
// JSON goes to the client as PostgreSQL wrote it. If the Beginner is also a Lender, all of that is one round trip.
//
// The Handler sets no role and knows no tenants of its own: whoever begins the transaction decides as whom it
// runs, and Config.PerRequest says what the Handler should know of it.
package rest
