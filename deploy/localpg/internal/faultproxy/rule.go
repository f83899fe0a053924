package faultproxy

import (
	"regexp"
	"sync"
	"time"
)

// Kind is a message of a client's that a rule can wait for.
type Kind string

// The kinds, and the text that a rule's pattern is matched with.
const (
	Startup Kind = "Startup" // "user/database"
	Query   Kind = "Query"   // the simple protocol's text
	Parse   Kind = "Parse"   // the statement's text
	Bind    Kind = "Bind"    // the text that the statement was parsed from
	Execute Kind = "Execute" // the same
	// Commit is a COMMIT or END, by a Query or an Execute of a statement prepared at any time before.
	Commit Kind = "Commit"
)

var isCommit = regexp.MustCompile(`(?i)^\s*(commit|end)\b`)

// Rule is a fault that waits for its message. It does nothing until one of its actions is chosen, and strikes once.
type Rule struct {
	kind    Kind
	pattern *regexp.Regexp
	proxy   *Proxy
	hit     chan struct{}
	once    sync.Once

	// The proxy's mutex guards the rest.
	skip   int
	always bool
	hits   int
	act    action
}

// action is what happens at a message.
type action struct {
	name  string
	delay time.Duration
	code  string
	rows  int
}

const (
	kill   = "kill"
	reset  = "reset"
	delay  = "delay"
	drop   = "drop"
	mute   = "mute"
	hang   = "hang"
	cancel = "cancel"
	fail   = "fail"
	cut    = "cut"
)

// On makes a rule for messages whose text matches a regular expression; the empty one matches every text. When several
// rules fit a message, the first one made strikes.
func (p *Proxy) On(kind Kind, pattern string) *Rule {
	return &Rule{kind: kind, pattern: regexp.MustCompile(pattern), proxy: p, hit: make(chan struct{})}
}

// After lets n matching messages pass first.
func (r *Rule) After(n int) *Rule { r.skip = n; return r }

// Always has the rule strike every time, not only once.
func (r *Rule) Always() *Rule { r.always = true; return r }

// Kill ends the session before the message reaches the server. The client sees its connection closed.
func (r *Rule) Kill() *Rule { return r.arm(action{name: kill}) }

// Reset is Kill, and the client sees its connection reset.
func (r *Rule) Reset() *Rule { return r.arm(action{name: reset}) }

// Delay holds the message, and what follows it, for a while.
func (r *Rule) Delay(d time.Duration) *Rule { return r.arm(action{name: delay, delay: d}) }

// DropReply passes the message on, waits until the server has answered it in full, throws the answer away and ends the
// session.
func (r *Rule) DropReply() *Rule { return r.arm(action{name: drop}) }

// HangReply passes the message on, and from its answer on the client hears nothing more.
func (r *Rule) HangReply() *Rule { return r.arm(action{name: mute}) }

// Hang keeps the message and everything after it, and the client hears nothing more. The connections stay open until the
// client closes its own.
func (r *Rule) Hang() *Rule { return r.arm(action{name: hang}) }

// CancelBackend passes the message on and has the server cancel it.
func (r *Rule) CancelBackend() *Rule { return r.arm(action{name: cancel}) }

// Fail answers in the server's place with a FATAL error of this SQLSTATE and ends the session. The message does not reach
// the server.
func (r *Rule) Fail(sqlstate string) *Rule { return r.arm(action{name: fail, code: sqlstate}) }

// CutReply passes the message on and resets the client's connection after so many rows of its result.
func (r *Rule) CutReply(rows int) *Rule { return r.arm(action{name: cut, rows: rows}) }

// Hit is closed when the rule has struck for the first time.
func (r *Rule) Hit() <-chan struct{} { return r.hit }

// Hits is how often the rule has struck.
func (r *Rule) Hits() int {
	r.proxy.mu.Lock()
	defer r.proxy.mu.Unlock()
	return r.hits
}

func (r *Rule) arm(a action) *Rule {
	r.proxy.mu.Lock()
	defer r.proxy.mu.Unlock()
	r.act = a
	r.proxy.rules = append(r.proxy.rules, r)
	return r
}

// strike finds what is to happen at a message that is of all these kinds.
func (p *Proxy) strike(text string, kinds ...Kind) action {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.rules {
		if !r.fits(text, kinds) || r.hits > 0 && !r.always {
			continue
		}
		if r.skip > 0 {
			r.skip--
			continue
		}
		r.hits++
		r.once.Do(func() { close(r.hit) })
		return r.act
	}
	return action{}
}

func (r *Rule) fits(text string, kinds []Kind) bool {
	for _, k := range kinds {
		if k == r.kind {
			return r.pattern.MatchString(text)
		}
	}
	return false
}
