// Package localpg runs a private PostgreSQL server from the binaries that are on this machine.
//
// A server belongs to one directory and to the process that started it:
//
//	srv, err := localpg.Start(ctx, localpg.Config{Dir: ".rowhouse"})
//	defer srv.Stop(context.Background())
//	conn, err := pgx.Connect(ctx, srv.DSN("postgres"))
//
// It listens on a socket only, needs no free port and no password for its superuser, and on Linux it shuts down
// when its owner dies, however the owner dies. The first Start makes the cluster; later ones reuse it.
//
// PostgreSQL refuses to run as root. When we are root the server runs as another user, and where that user cannot
// reach the directory, its data stand in /var/lib/rowhouse.
package localpg
