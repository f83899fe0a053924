// Package migrations brings one database, or a fleet of them, to a schema version.
//
//	m, err := migrations.ForTenants(os.DirFS("migrations"), migrations.Config{})
//	result, err := m.Up(ctx, migrations.Target{Name: "acme", Key: key, Connect: connect})
//
// A migration is an SQL file, NNNNNN_name.up.sql. Its body and its row in the ledger are one transaction, so a run that was killed
// anywhere leaves a database that the next run understands; there is no dirty state to force. Running Up twice, or from two places
// at once, applies each file once.
//
// A released file is never edited: the ledger keeps its hash, and a database whose history differs from the set is refused.
package migrations
