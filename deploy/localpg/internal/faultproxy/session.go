package faultproxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// session is one client's connection and the server's that belongs to it.
type session struct {
	proxy  *Proxy
	raw    *net.TCPConn // below client, which may be TLS
	ending sync.Once
	done   chan struct{} // closed when the session ends
	silent atomic.Bool   // nothing passes any more, in either direction

	// Of the goroutine that reads the client.
	statements, portals map[string]string

	starting bool     // guarded by the proxy's mutex
	client   net.Conn // set before the session begins

	mu      sync.Mutex // guards the fields below
	server  net.Conn
	pending []*request // what the server has not answered yet, in order
	key     *pgproto3.BackendKeyData
}

// request is a message of the client's that the server answers.
type request struct {
	kind byte // its type, 0 for the startup message
	act  action
	rows int
	done chan struct{} // closed when it is answered
}

// message is one message as it was on the wire.
type message struct {
	kind byte
	wire []byte
}

func (m message) body() []byte { return m.wire[5:] }

func receive(r *bufio.Reader) (message, error) {
	head, err := r.Peek(5)
	if err != nil {
		return message{}, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > 1<<30 {
		return message{}, errors.New("a message of impossible length")
	}
	wire := make([]byte, 1+n)
	_, err = io.ReadFull(r, wire)
	return message{wire[0], wire}, err
}

// end closes both connections, the client's with a reset if asked.
func (s *session) end(withReset bool) {
	s.ending.Do(func() {
		if withReset {
			_ = s.raw.SetLinger(0)
		}
		_ = s.raw.Close() // not TLS's Close, which would say goodbye
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.done)
		if s.server != nil {
			_ = s.server.Close()
		}
	})
}

func (s *session) run() {
	defer s.end(false)
	startup, err := s.greet()
	if err != nil || startup == nil || !s.dial() {
		return
	}
	wire, err := startup.Encode(nil)
	if err != nil {
		return
	}
	begin, ok := startup.(*pgproto3.StartupMessage)
	if !ok {
		s.proxy.cancels()
		_, _ = s.server.Write(wire)
		_, _ = io.Copy(io.Discard, s.server) // until the server has heard it
		return
	}
	s.proxy.starts(s)
	req := &request{act: s.proxy.strike(begin.Parameters["user"]+"/"+begin.Parameters["database"], Startup), done: make(chan struct{})}
	to := bufio.NewWriter(s.server)
	if !s.before(req.act, to) {
		return
	}
	s.push(req)
	var down sync.WaitGroup
	down.Go(func() { defer s.end(false); s.answers() })
	if _, err = to.Write(wire); err == nil && to.Flush() == nil {
		s.requests(to)
	}
	s.end(false)
	down.Wait()
}

// greet answers what comes before a session, and reads the message that begins it. A client says nothing more until it is
// answered, so the reader swallows nothing.
func (s *session) greet() (pgproto3.FrontendMessage, error) {
	for {
		m, err := pgproto3.NewBackend(s.client, s.client).ReceiveStartupMessage()
		if err != nil {
			return nil, err
		}
		switch m.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			s.proxy.mu.Lock()
			cfg := s.proxy.tls
			s.proxy.mu.Unlock()
			_, ssl := m.(*pgproto3.SSLRequest)
			if !ssl || cfg == nil {
				_, err = s.client.Write([]byte("N"))
			} else if _, err = s.client.Write([]byte("S")); err == nil {
				s.client = tls.Server(s.raw, cfg)
			}
			if err != nil {
				return nil, err
			}
		default:
			return m, nil
		}
	}
}

func (s *session) dial() bool {
	s.proxy.mu.Lock()
	network, target := s.proxy.network, s.proxy.target
	s.proxy.mu.Unlock()
	conn, err := net.DialTimeout(network, target, 5*time.Second)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = conn
	select {
	case <-s.done:
		_ = conn.Close()
		return false
	default:
		return true
	}
}

// requests passes the client's messages on, what has come together in one write.
func (s *session) requests(to *bufio.Writer) {
	from := bufio.NewReader(s.client)
	for {
		m, err := receive(from)
		if err != nil || s.silent.Load() && s.hang() {
			return
		}
		req := &request{kind: m.kind, done: make(chan struct{})}
		if text, kinds, err := s.read(m); err != nil {
			return
		} else if len(kinds) > 0 {
			req.act = s.proxy.strike(text, kinds...)
		}
		if !s.before(req.act, to) {
			return
		}
		if bytes.IndexByte([]byte("QPBEDCS"), m.kind) >= 0 {
			s.push(req)
		}
		if _, err = to.Write(m.wire); err != nil {
			return
		}
		if from.Buffered() == 0 && to.Flush() != nil {
			return
		}
		if req.act.name == cancel {
			s.proxy.running.Go(func() { s.cancel(req) })
		}
	}
}

// read says what a message is about, and remembers what later ones refer to.
func (s *session) read(m message) (text string, kinds []Kind, err error) {
	switch m.kind {
	case 'Q':
		var q pgproto3.Query
		err = q.Decode(m.body())
		text, kinds = q.String, []Kind{Query}
	case 'P':
		var q pgproto3.Parse
		err = q.Decode(m.body())
		s.statements[q.Name] = q.Query
		return q.Query, []Kind{Parse}, err
	case 'B':
		var q pgproto3.Bind
		err = q.Decode(m.body())
		text = s.statements[q.PreparedStatement]
		s.portals[q.DestinationPortal] = text
		return text, []Kind{Bind}, err
	case 'E':
		var q pgproto3.Execute
		err = q.Decode(m.body())
		text, kinds = s.portals[q.Portal], []Kind{Execute}
	}
	if isCommit.MatchString(text) {
		kinds = append(kinds, Commit)
	}
	return text, kinds, err
}

// before does what is to be done before a message is passed on, and says whether it is.
func (s *session) before(a action, to *bufio.Writer) bool {
	if a.name == "" || a.name == drop || a.name == mute || a.name == cut || a.name == cancel {
		return true
	}
	if to.Flush() != nil { // what came before has gone
		return false
	}
	switch a.name {
	case kill, reset:
		s.end(a.name == reset)
		return false
	case fail:
		wire, _ := (&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: a.code, Message: "said by the fault proxy"}).Encode(nil)
		_, _ = s.client.Write(wire)
		s.end(false)
		return false
	case hang:
		s.silent.Store(true)
		return !s.hang()
	}
	select { // delay
	case <-time.After(a.delay):
		return true
	case <-s.done:
		return false
	}
}

// hang swallows what the client says until it leaves.
func (s *session) hang() bool {
	_, _ = io.Copy(io.Discard, s.client)
	return true
}

// cancel has the server cancel a request until it is answered: the first try may come too early.
func (s *session) cancel(req *request) {
	for {
		s.mu.Lock()
		key := s.key
		s.mu.Unlock()
		wire, err := (&pgproto3.CancelRequest{ProcessID: key.ProcessID, SecretKey: key.SecretKey}).Encode(nil)
		s.proxy.mu.Lock()
		network, target := s.proxy.network, s.proxy.target
		s.proxy.mu.Unlock()
		if conn, dialled := net.DialTimeout(network, target, time.Second); err == nil && dialled == nil {
			_, _ = conn.Write(wire)
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
		select {
		case <-req.done:
			return
		case <-s.done:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *session) push(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, r)
}

// answers passes the server's messages on.
func (s *session) answers() {
	from, to := bufio.NewReader(s.server), bufio.NewWriter(s.client)
	for {
		m, err := receive(from)
		if err != nil {
			_ = to.Flush()
			return
		}
		req, answered := s.match(m)
		if s.silent.Load() {
			continue
		}
		switch req.act.name {
		case drop:
			if answered || req.kind == 0 {
				_ = to.Flush()
				return
			}
			continue
		case mute:
			_ = to.Flush()
			s.silent.Store(true)
			continue
		case cut:
			if m.kind == 'D' {
				req.rows++
			}
			if req.rows > req.act.rows || answered {
				_ = to.Flush()
				s.end(true)
				return
			}
		}
		if _, err := to.Write(m.wire); err != nil || from.Buffered() == 0 && to.Flush() != nil {
			return
		}
	}
}

// match finds the request that a message of the server's answers, and says whether it is the last of its answer.
func (s *session) match(m message) (req *request, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.kind == 'K' {
		s.key = new(pgproto3.BackendKeyData)
		_ = s.key.Decode(bytes.Clone(m.body()))
	}
	if len(s.pending) == 0 { // nobody asked: a notice, or the server is going down
		return &request{kind: m.kind}, false
	}
	req = s.pending[0]
	switch {
	case m.kind == 'Z' && (req.kind == 0 || req.kind == 'Q' || req.kind == 'S'):
		answered = true
		if req.kind == 0 {
			defer s.proxy.started(s)
		}
	case m.kind == 'E' && req.kind != 0 && req.kind != 'Q' && req.kind != 'S':
		for len(s.pending) > 1 && s.pending[1].kind != 'S' { // the server skips them
			close(s.pending[1].done)
			s.pending = append(s.pending[:1], s.pending[2:]...)
		}
		answered = true
	default:
		answered = bytes.IndexByte(lasts[req.kind], m.kind) >= 0
	}
	if answered {
		close(req.done)
		s.pending = s.pending[1:]
	}
	return req, answered
}

// lasts are the messages that end the answer to a message of the extended protocol.
var lasts = map[byte][]byte{'P': []byte("1"), 'B': []byte("2"), 'C': []byte("3"), 'D': []byte("nT"), 'E': []byte("CIs")}
