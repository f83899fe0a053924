package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/lestrrat-go/httprc/v3"
	"github.com/lestrrat-go/httprc/v3/errsink"

	"github.com/rowhouse/rowhouse/tenants"
)

// How often keys are read again by themselves, how often at most because a token names one that is not known, how long
// that token's request waits for it, and how long the last good set is believed while no newer one can be had.
const (
	readAgain  = 10 * time.Minute
	askAgain   = time.Minute
	askTimeout = 3 * time.Second
	believe    = 24 * time.Hour
)

// source is where keys come from besides the configuration.
type source interface {
	// keys are the keys of now. When they could never be read, or not for too long, that is tenants.ErrUnavailable.
	keys() (keySet, error)
	// refresh reads them again, unless that has just been done.
	refresh(ctx context.Context)
	close() error
}

// reading is a set of keys and when it was read.
type reading struct {
	set keySet
	at  time.Time
}

func (r *reading) keys() (keySet, error) {
	if r == nil || time.Since(r.at) > believe {
		return nil, fmt.Errorf("keys of the issuer cannot be had: %w", tenants.ErrUnavailable)
	}
	return r.set, nil
}

// turnstile lets one through at a time, and nobody for a while after that. Who comes meanwhile waits for the one inside.
type turnstile struct {
	gate  chan struct{} // of one place, which guards last
	last  time.Time
	pause time.Duration
}

func newTurnstile() *turnstile { return &turnstile{gate: make(chan struct{}, 1), pause: askAgain} }

func (t *turnstile) pass(ctx context.Context, fn func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case t.gate <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-t.gate }()
	if !t.last.IsZero() && time.Since(t.last) < t.pause {
		return
	}
	t.last = time.Now()
	fn(ctx)
}

// keyFile is a JWK set in a file.
type keyFile struct {
	path string
	log  *slog.Logger
	turn *turnstile
	last atomic.Pointer[reading]
}

func openKeyFile(path string, log *slog.Logger) (source, error) {
	f := &keyFile{path: path, log: log, turn: newTurnstile()}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *keyFile) read() error {
	keys, skipped, err := readKeyFile(f.path)
	if err != nil {
		return err
	}
	tellSkipped(f.log, skipped)
	f.last.Store(&reading{keys, time.Now()})
	return nil
}

func (f *keyFile) keys() (keySet, error) {
	if last := f.last.Load(); time.Since(last.at) > readAgain {
		f.refresh(context.Background())
	}
	return f.last.Load().keys()
}

func (f *keyFile) refresh(ctx context.Context) {
	f.turn.pass(ctx, func(context.Context) {
		if err := f.read(); err != nil {
			f.log.Warn("keys cannot be read again", "error", err)
		}
	})
}

func (f *keyFile) close() error { return nil }

// keyURL is a JWK set that an issuer publishes. It stands on what jwk.Cache stands on, without jwk.Cache, which would give
// the set as it was sent: here a set that cannot be taken whole is no new set, and each knows when it was fetched.
type keyURL struct {
	url      string
	log      *slog.Logger
	turn     *turnstile
	fetcher  httprc.Controller
	resource *httprc.ResourceBase[*reading]
	client   *http.Client
}

func openKeyURL(ctx context.Context, cfg Config) (source, error) {
	k := &keyURL{url: cfg.JWKSURL, log: cfg.Logger, turn: newTurnstile(), client: fetchClient(cfg.AllowHTTP)}
	var err error
	k.resource, err = httprc.NewResource[*reading](k.url, k, httprc.WithHTTPClient(k.client),
		httprc.WithConstantInterval(readAgain), httprc.WithMinInterval(askAgain), httprc.WithMaxInterval(readAgain))
	if err != nil {
		return nil, errors.New("key set url cannot be used")
	}
	told := errsink.NewFunc(func(_ context.Context, err error) { k.log.Warn("keys cannot be fetched", "error", err) })
	// The fetching outlives the call; close ends it.
	k.fetcher, err = httprc.NewClient(httprc.WithWorkers(1), httprc.WithErrorSink(told)).Start(context.WithoutCancel(ctx))
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if err := k.fetcher.Add(ctx, k.resource, httprc.WithWaitReady(false)); err != nil {
		return nil, errors.Join(fmt.Errorf("key set: %w", err), k.close())
	}
	k.refresh(ctx)
	k.turn.last = time.Time{} // the first unknown key may look at once
	return k, nil
}

// fetchClient follows few redirects, and none out of https.
func fetchClient(allowHTTP bool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = 64 << 10
	return &http.Client{
		Transport: transport,
		Timeout:   10 * time.Second,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 || r.URL.Scheme != "https" && !allowHTTP {
				return errors.New("redirect is not followed")
			}
			return nil
		},
	}
}

// Transform reads an answer of the issuer. It is httprc's to call.
func (k *keyURL) Transform(_ context.Context, answer *http.Response) (*reading, error) {
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxKeysText+1))
	if err != nil {
		return nil, err
	}
	keys, skipped, err := parseKeys(text, false)
	if err != nil {
		return nil, err
	}
	tellSkipped(k.log, skipped)
	return &reading{keys, time.Now()}, nil
}

func (k *keyURL) keys() (keySet, error) { return k.resource.Resource().keys() }

func (k *keyURL) refresh(ctx context.Context) {
	k.turn.pass(ctx, func(ctx context.Context) {
		if err := k.fetcher.Refresh(ctx, k.url); err != nil {
			k.log.Warn("keys cannot be fetched", "error", err)
		}
	})
}

func (k *keyURL) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	defer k.client.CloseIdleConnections()
	return k.fetcher.ShutdownContext(ctx)
}

func tellSkipped(log *slog.Logger, n int) {
	if n > 0 {
		log.Warn("keys are left out: they are not for HS, RS or ES signatures, or too short", "keys", n)
	}
}
