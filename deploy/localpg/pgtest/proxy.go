package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/faultproxy"
)

// FaultProxy stands between clients and a server and breaks their talk at chosen messages.
type FaultProxy = faultproxy.Proxy

// FaultRule is a fault that waits for its message.
type FaultRule = faultproxy.Rule

// The messages that a [FaultProxy.On] can wait for.
const (
	OnStartup = faultproxy.Startup
	OnQuery   = faultproxy.Query
	OnParse   = faultproxy.Parse
	OnBind    = faultproxy.Bind
	OnExecute = faultproxy.Execute
	OnCommit  = faultproxy.Commit
)

// Proxy starts a proxy before the server that a connection string leads to, on a TCP port of the loopback. It passes
// everything on until it is given rules. It is closed when t has ended.
func Proxy(t testing.TB, dsn string) *FaultProxy {
	t.Helper()
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatalf("pgtest: a connection string that cannot be read") // which holds a password
	}
	p, err := faultproxy.New(pgconn.NetworkAddress(cfg.Host, cfg.Port))
	if err != nil {
		t.Fatalf("pgtest: proxy: %v", err)
	}
	t.Cleanup(p.Close)
	return p
}
