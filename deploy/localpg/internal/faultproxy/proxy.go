// Package faultproxy stands between a client and a PostgreSQL server and breaks their talk at chosen messages.
//
//	p, err := faultproxy.New("unix", "/run/x/.s.PGSQL.5432")
//	p.On(faultproxy.Commit, "").DropReply() // the next COMMIT is done, and nobody hears of it
//
// It understands the protocol in both directions: it knows the text of a statement that was prepared long before it is
// executed, and which reply belongs to which message of a pipeline. A statement that a client joins with others by
// semicolons in one Query message is one message here too.
package faultproxy

import (
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// Proxy listens on a TCP port of the loopback and passes each connection on. It is safe for concurrent use.
type Proxy struct {
	address string // where it listens
	running sync.WaitGroup

	mu              sync.Mutex // guards the fields below
	network, target string
	listener        net.Listener // nil while refusing
	tls             *tls.Config
	rules           []*Rule
	sessions        map[*session]struct{}
	stat            Stat
	openHandshakes  int
	closed          bool
}

// Stat counts what a proxy has seen.
type Stat struct {
	// Accepted connections, those for cancel requests included, and Cancels alone.
	Accepted, Cancels int
	// Startups are connections that asked to begin a session.
	Startups int
	// Open sessions now, and the most there were at once.
	Open, MostOpen int
	// MostStarting is how many sessions were starting at once, at most: from their startup message until ready.
	MostStarting int
}

// New makes a proxy for a server, as net.Dial finds it.
func New(network, target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{address: l.Addr().String(), network: network, target: target, listener: l, sessions: map[*session]struct{}{}}
	p.running.Go(func() { p.accept(l) })
	return p, nil
}

// Addr is the host and port that clients dial.
func (p *Proxy) Addr() string { return p.address }

// Stat is the proxy's moment.
func (p *Proxy) Stat() Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stat
	s.Open = len(p.sessions)
	return s
}

// Target sends new connections to another server.
func (p *Proxy) Target(network, target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network, p.target = network, target
}

// TLS has the proxy speak TLS with clients that ask for it; nil, as at the start, refuses it.
func (p *Proxy) TLS(cfg *tls.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tls = cfg
}

// Clear forgets every rule.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = nil
}

// Refuse stops listening, so that the port refuses new connections. Those that are open go on.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// Accept listens again, on the same port.
func (p *Proxy) Accept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil || p.closed {
		return nil
	}
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() { p.accept(l) })
	return nil
}

// KillAll ends every open session.
func (p *Proxy) KillAll() { p.each(func(s *session) { s.end(false) }) }

// Freeze makes every open session silent in both directions, as if the peer had vanished. New ones are not affected.
func (p *Proxy) Freeze() { p.each(func(s *session) { s.silent.Store(true) }) }

func (p *Proxy) each(fn func(*session)) {
	p.mu.Lock()
	sessions := slices.Collect(maps.Keys(p.sessions))
	p.mu.Unlock()
	for _, s := range sessions {
		fn(s)
	}
}

// Close ends every session and waits until nothing of the proxy runs any more.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Refuse()
	p.KillAll()
	p.running.Wait()
}

func (p *Proxy) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors, most likely
			time.Sleep(5 * time.Millisecond)
			continue
		}
		s := &session{proxy: p, client: conn, raw: conn.(*net.TCPConn), done: make(chan struct{}), statements: map[string]string{}, portals: map[string]string{}}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = conn.Close()
			continue
		}
		p.sessions[s] = struct{}{}
		p.stat.Accepted++
		p.stat.MostOpen = max(p.stat.MostOpen, len(p.sessions))
		p.running.Go(func() { defer p.forget(s); s.run() })
		p.mu.Unlock()
	}
}

func (p *Proxy) forget(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, s)
	if s.starting {
		p.openHandshakes--
	}
}

func (p *Proxy) starts(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.starting = true
	p.stat.Startups++
	p.openHandshakes++
	p.stat.MostStarting = max(p.stat.MostStarting, p.openHandshakes)
}

func (p *Proxy) started(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.starting {
		s.starting = false
		p.openHandshakes--
	}
}

func (p *Proxy) cancels() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stat.Cancels++
}
