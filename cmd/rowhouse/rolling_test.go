package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var rolling = flag.Int("rolling", 1, "how often each replica is replaced under load")

// balancer sends requests to the backends that say that they are ready, by turns. It tries nothing again.
type balancer struct {
	mu       sync.Mutex // guards backends
	backends []*backend
	turn     atomic.Int64
	proxy    httputil.ReverseProxy
}

type backend struct {
	url   *url.URL
	ready atomic.Bool
	stop  chan struct{}
	ended sync.WaitGroup
}

func newBalancer(t *testing.T) *balancer {
	b := &balancer{}
	b.proxy.Rewrite = func(r *httputil.ProxyRequest) {
		if to := b.next(); to != nil {
			r.SetURL(to.url)
		}
	}
	b.proxy.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
		t.Errorf("the balancer could not send on %s %s: %v", r.Method, r.URL, err)
		w.WriteHeader(http.StatusBadGateway)
	}
	return b
}

// next is whose turn it is among those that are ready.
func (b *balancer) next() *backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	turn := int(b.turn.Add(1))
	for i := range b.backends {
		if to := b.backends[(turn+i)%len(b.backends)]; to.ready.Load() {
			return to
		}
	}
	return nil
}

// add has a backend asked again and again whether it is ready, and waits until it is.
func (b *balancer) add(t *testing.T, address string) *backend {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	be := &backend{url: to, stop: make(chan struct{})}
	first := make(chan struct{})
	be.ended.Go(func() {
		for {
			resp, err := http.Get(address + "/readyz")
			ready := err == nil && resp.StatusCode == http.StatusOK
			if err == nil {
				_ = resp.Body.Close()
			}
			if ready && !be.ready.Load() {
				close(first)
			}
			if be.ready.Store(ready); !ready {
				select {
				case <-first:
					return // it is on its way out
				default:
				}
			}
			select {
			case <-be.stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	select {
	case <-first:
	case <-time.After(60 * time.Second):
		t.Fatalf("%s never was ready", address)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append(b.backends, be)
	return be
}

func (b *balancer) remove(be *backend) {
	close(be.stop)
	be.ended.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.backends {
		if b.backends[i] == be {
			b.backends = append(b.backends[:i:i], b.backends[i+1:]...)
			return
		}
	}
}

// freeAddress is one that nobody listens at, a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// F35: two replicas are replaced one after the other, while readers and writers go on behind a balancer that looks at /readyz
// only: no request fails, and every write that was answered is there once. The flag -rolling says how many times.
func TestServe_rolling_restarts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for drains")
	}
	data := devData(t)
	ground := startDev(t, data)
	acme := ground.tenant(t, "acme")
	catalogDB, err := pgx.Connect(t.Context(), ground.CatalogURL)
	if err != nil {
		t.Fatal(err)
	}
	defer catalogDB.Close(t.Context())
	env := []string{
		"ROWHOUSE_CATALOG_URL=" + ground.CatalogURL, "ROWHOUSE_CATALOG_KEYS=" + devFile(data, keysFile), "ROWHOUSE_ADMIN_LISTEN=127.0.0.1:0",
		"ROWHOUSE_AUTH_JWT_SECRET_FILE=" + devFile(data, jwtSecretFile), "ROWHOUSE_JOBS_ENABLED=false",
	}
	dir := t.TempDir()
	b := newBalancer(t)
	front := httptest.NewServer(&b.proxy)
	defer front.Close()
	type replica struct {
		*process
		*backend
	}
	start := func(address string) *replica {
		p := startServe(t, dir, append(env, "ROWHOUSE_LISTEN="+address))
		return &replica{p, b.add(t, p.DataURL)}
	}
	replicas := []*replica{start(freeAddress(t)), start(freeAddress(t))}

	done := make(chan struct{})
	var served, written atomic.Int64
	var asking sync.WaitGroup
	ask := func(method, body string, want int) bool {
		req, err := http.NewRequest(method, front.URL+"/rest/v1/projects?select=id&limit=3", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return false
		}
		req.Header.Set("Authorization", "Bearer "+acme.Token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: %d %s %v", method, resp.StatusCode, text, err)
			return false
		}
		served.Add(1)
		return true
	}
	for worker := range 4 {
		asking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if worker%2 == 0 {
					ask(http.MethodGet, "", http.StatusOK)
				} else if ask(http.MethodPost, fmt.Sprintf(`{"name":"rolling %d %d"}`, worker, i), http.StatusCreated) {
					written.Add(1)
				}
			}
		})
	}
	for range *rolling {
		for i, old := range replicas {
			if code := old.process.stop(t); code != 0 {
				t.Errorf("exit code %d: %s", code, old.stderr)
			}
			b.remove(old.backend)
			replicas[i] = start(strings.TrimPrefix(old.DataURL, "http://"))
		}
	}
	close(done)
	asking.Wait()
	got := ground.do(t, request{method: http.MethodGet, path: "/rest/v1/projects?select=count()&name=like.rolling*", host: "acme.localhost", header: as(acme.Token)})
	if want := fmt.Sprintf(`[{"count":%d}]`, written.Load()); got.body != want {
		t.Errorf("rows: %s, want %s", got.body, want)
	}
	t.Logf("%d restarts, %d requests, %d of them writes", 2**rolling, served.Load(), written.Load())

	t.Run("F34: one that was killed is replaced at its address at once", func(t *testing.T) {
		place := strings.TrimPrefix(replicas[0].DataURL, "http://")
		replicas[0].kill()
		b.remove(replicas[0].backend)
		start(place)
		var n int
		if err := catalogDB.QueryRow(t.Context(), "select count(*) from rowhouse.instances where place like '%/' || $1", place).Scan(&n); err != nil || n != 1 {
			t.Errorf("%d processes are said to be at %s (%v)", n, place, err)
		}
	})
}
