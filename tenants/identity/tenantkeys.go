package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/maypok86/otter/v2"
)

// maxSources is of how many tenants with key sets of their own the keys are kept in memory. Who is left out is read again.
const maxSources = 10_000

// sources are the key sets of tenants that have their own, by where they come from.
type sources struct {
	log    *slog.Logger
	client *http.Client
	byRef  *otter.Cache[string, *tenantKeys]

	life context.Context // ends with close
	end  context.CancelFunc
	busy sync.WaitGroup
}

func newSources(cfg Config) (*sources, error) {
	byRef, err := otter.New(&otter.Options[string, *tenantKeys]{MaximumSize: maxSources})
	if err != nil {
		return nil, fmt.Errorf("key sets of tenants: %w", err)
	}
	s := &sources{log: cfg.Logger, client: fetchClient(cfg.AllowHTTP), byRef: byRef}
	if !cfg.AllowHTTP {
		dialer := &net.Dialer{Timeout: askTimeout, Control: outwards}
		s.client.Transport.(*http.Transport).DialContext = dialer.DialContext
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// outwards refuses to dial what is no issuer of anybody's but may answer secrets: this machine, and the networks where
// clouds keep the credentials of their machines. It sees the address that is dialled, whatever a name said before.
func outwards(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("address of the issuer cannot be read")
	}
	if ip := at.Addr().Unmap(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return errors.New("address of the issuer is not allowed")
	}
	return nil
}

// of is where a tenant's keys come from, which it has looked at; nil if the tenant has but a secret.
func (s *sources) of(ctx context.Context, c Config) source {
	ref, read := "file "+c.JWKSFile, func(context.Context) (keySet, int, error) { return readKeyFile(c.JWKSFile) }
	if c.JWKSURL != "" {
		ref, read = "url "+c.JWKSURL, func(ctx context.Context) (keySet, int, error) { return s.fetch(ctx, c.JWKSURL) }
	} else if c.JWKSFile == "" {
		return nil
	}
	k, _ := s.byRef.ComputeIfAbsent(ref, func() (*tenantKeys, bool) {
		return &tenantKeys{sources: s, read: read, turn: newTurnstile()}, false
	})
	if k.last.Load() == nil {
		k.refresh(ctx)
	}
	return k
}

func (s *sources) fetch(ctx context.Context, url string) (keySet, int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, errors.New("key set url cannot be used")
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("issuer answers %d", answer.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxKeysText+1))
	if err != nil {
		return nil, 0, err
	}
	return parseKeys(text, false)
}

func (s *sources) close() {
	s.end()
	s.busy.Wait()
	s.byRef.StopAllGoroutines()
	s.client.CloseIdleConnections()
}

// tenantKeys are the keys of one tenant's own issuer. They are read when a token needs them, and not for tenants that
// nobody asks for.
type tenantKeys struct {
	sources *sources
	read    func(ctx context.Context) (keySet, int, error)
	turn    *turnstile
	last    atomic.Pointer[reading]
	behind  atomic.Bool // somebody reads them again meanwhile
}

// keys that are old are read again while they still serve.
func (k *tenantKeys) keys() (keySet, error) {
	last := k.last.Load()
	if last != nil && time.Since(last.at) > readAgain && k.sources.life.Err() == nil && k.behind.CompareAndSwap(false, true) {
		k.sources.busy.Go(func() {
			defer k.behind.Store(false)
			k.refresh(k.sources.life)
		})
	}
	return last.keys()
}

func (k *tenantKeys) refresh(ctx context.Context) {
	k.turn.pass(ctx, func(ctx context.Context) {
		keys, skipped, err := k.read(ctx)
		if err != nil {
			k.sources.log.Warn("keys of a tenant cannot be read", "error", err)
			return
		}
		tellSkipped(k.sources.log, skipped)
		k.last.Store(&reading{keys, time.Now()})
	})
}

func (k *tenantKeys) close() error { return nil }

func readKeyFile(path string) (keySet, int, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("key set: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKeysText+1))
	if err != nil {
		return nil, 0, fmt.Errorf("key set: %w", err)
	}
	keys, skipped, err := parseKeys(text, true)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return keys, skipped, nil
}
