package router

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// primary remembers which of a server's hosts took writes last. It is tried first: another one, that is dead or has become
// a standby, would cost every new connection its time.
type primary struct {
	mu       sync.Mutex // guards the fields below
	host     string     // host:port as the catalog has it; empty while not known
	resolved map[string][]string
}

// lookup resolves a name as always, and remembers to what.
func (r *primary) lookup(ctx context.Context, host string) ([]string, error) {
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.resolved == nil {
			r.resolved = map[string][]string{}
		}
		r.resolved[host] = addresses
	}
	return addresses, err
}

// put puts the host first that took writes last.
func (r *primary) put(cc *pgx.ConnConfig) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == "" || len(cc.Fallbacks) == 0 {
		return
	}
	all := hostsOf(cc)
	slices.SortStableFunc(all, func(a, b *pgconn.FallbackConfig) int { return r.rank(a) - r.rank(b) })
	cc.Host, cc.Port, cc.TLSConfig = all[0].Host, all[0].Port, all[0].TLSConfig
	cc.Fallbacks = all[1:]
}

func (r *primary) rank(host *pgconn.FallbackConfig) int {
	if nameOf(host) == r.host {
		return 0
	}
	return 1
}

// made hears to which of the hosts a connection was made that takes writes.
func (r *primary) made(cc *pgx.ConnConfig, conn *pgx.Conn) {
	if len(cc.Fallbacks) == 0 {
		return
	}
	remote := conn.PgConn().Conn().RemoteAddr()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, host := range hostsOf(cc) {
		if r.leads(host, remote) {
			r.host = nameOf(host)
			return
		}
	}
}

// leads says whether a host is at an address.
func (r *primary) leads(host *pgconn.FallbackConfig, remote net.Addr) bool {
	network, address := pgconn.NetworkAddress(host.Host, host.Port)
	if network == "unix" {
		return remote.Network() == "unix" && remote.String() == address
	}
	at, err := netip.ParseAddrPort(remote.String())
	if err != nil || at.Port() != host.Port {
		return false
	}
	for _, text := range append([]string{host.Host}, r.resolved[host.Host]...) {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Unmap() == at.Addr().Unmap() {
			return true
		}
	}
	return false
}

func hostsOf(cc *pgx.ConnConfig) []*pgconn.FallbackConfig {
	return append([]*pgconn.FallbackConfig{{Host: cc.Host, Port: cc.Port, TLSConfig: cc.TLSConfig}}, cc.Fallbacks...)
}

func nameOf(host *pgconn.FallbackConfig) string {
	return net.JoinHostPort(host.Host, strconv.Itoa(int(host.Port)))
}
