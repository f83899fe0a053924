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
//
// # What a file may not do
//
// Three lints look at three things. Lint reads a file's text (transactions of its own, psql commands, the tenant set to a constant). Effects
// tries it on a scratch database and looks at what happened to tables that stood before it; its rules are rewrite, index, constraint,
// not-null, column (not null without a default), locks (strong ones on two tables) and contract (names that are gone). LintDatabase holds a database against
// the shared-schema contract, rules L1 to L18, in which the migrator refuses a set whose last file breaks it.
//
// A file says in comments what is meant:
//
//	-- rowhouse:no-transaction       its one statement cannot run in a transaction
//	-- rowhouse:verify QUERY         answers true when such a file has had its effect, so that a broken one is resumed
//	-- rowhouse:timeout 30m          for its statements
//	-- rowhouse:contract             it removes what code of the version before may use, and none such runs
//	-- rowhouse:allow RULE WHY       of the effects: all but contract; of the contract: L7 L8 L12 L13 L14 L16 L18, for what stands
//	                                 at the end of this file and for nothing later
//
// # What PostgreSQL does behind your back
//
// The owner of a bound table sees none of its rows. A migration that changes rows, or adds a foreign key between bound tables, says "alter table
// … no force row level security" before and "force" after; without that it is an error here, rather than an update of nothing.
package migrations
