package exec

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5"
)

// A name is what a statement is called on a connection. It hashes text, role and schema: PostgreSQL plans a
// statement on row-secured tables anew whenever its role differs from the last one's.
type name struct {
	text   string
	common bool // used by every request: named at first use
}

func (r *Runner) name(sql, scope string) name {
	if r.unnamed {
		return name{}
	}
	h := sha256.New()
	h.Write([]byte(scope))
	h.Write([]byte{0})
	h.Write([]byte(sql))
	var sum [sha256.Size]byte
	return name{text: "rest_" + hex.EncodeToString(h.Sum(sum[:0])[:16])}
}

// commonNames are those of the statements that every request sends: they depend on no role and no schema.
var commonNames = map[string]name{
	setSettings:        {text: "rest_settings", common: true},
	setSettingsAndZone: {text: "rest_settings_zone", common: true},
	resetZone:          {text: "rest_zone", common: true},
	"commit":           {text: "rest_commit", common: true},
	"rollback":         {text: "rest_rollback", common: true},
}

func (r *Runner) common(sql string) name {
	if r.unnamed {
		return name{}
	}
	return commonNames[sql]
}

const (
	namesPerConn = 64
	seenPerConn  = 256
	namesKey     = "rowhouse.rest.names"
)

// names are the statements prepared on one connection. Only its borrower touches them.
type names struct {
	prepared *simplelru.LRU[string, struct{}]
	seen     *simplelru.LRU[string, struct{}] // used once: a shape that never comes back leaves nothing on the server
	dropped  []string                         // to be closed in the next flight
}

func namesOf(conn *pgx.Conn) *names {
	data := conn.PgConn().CustomData()
	if n, ok := data[namesKey].(*names); ok {
		return n
	}
	n := &names{}
	n.prepared, _ = simplelru.NewLRU(namesPerConn, func(text string, _ struct{}) { n.dropped = append(n.dropped, text) })
	n.seen, _ = simplelru.NewLRU[string, struct{}](seenPerConn, nil)
	data[namesKey] = n
	return n
}

func (n *names) has(want name) bool {
	_, ok := n.prepared.Get(want.text)
	return ok
}

// wants says whether a statement goes by name: a common one always, another from its second use on.
func (n *names) wants(want name) bool {
	if want.common || n.prepared.Contains(want.text) {
		return true
	}
	if n.seen.Contains(want.text) {
		return true
	}
	n.seen.Add(want.text, struct{}{})
	return false
}

func (n *names) add(done name) {
	n.seen.Remove(done.text)
	n.prepared.Add(done.text, struct{}{})
}

func (n *names) closed(text string) {
	n.dropped = slices.DeleteFunc(n.dropped, func(s string) bool { return s == text })
}

// clear forgets every statement, and closes them in the next flight: one was out of date.
func (n *names) clear() { n.prepared.Purge() }
