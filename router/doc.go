// Package router takes each request to its tenant's database.
//
// A Router keeps the most recently used databases' pools open and lends their connections out:
//
//	tx, err := rt.Begin(ctx) // sees only the tenant in ctx
//
// Begin opens a database on first use, so a quiet tenant's first request is slower than its next. A pool pushed out while
// requests hold it is closed after the last of them.
//
// The tenant is part of the transaction, not of the connection: a transaction used under another tenant's context refuses
// (tenants.ErrWrongTenant), and within it the scope stands until COMMIT or ROLLBACK. Nothing is ever set on a connection
// for longer than that.
package router
