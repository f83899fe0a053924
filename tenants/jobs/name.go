package jobs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// requestRoles are what a data login may become. They belong to the whole server.
var requestRoles = []string{"anon", "authenticated", "service_role"}

// Names come from ids, never from tenants' names, and are the same however often a step runs.
func databaseName(id catalog.DatabaseID) string { return "rh_" + id.Compact() }
func spareName(id catalog.DatabaseID) string    { return "rh_spare_" + id.Compact() }
func ownerOf(id catalog.DatabaseID) string      { return databaseName(id) + "_o" }
func loginOf(id catalog.DatabaseID) string      { return databaseName(id) + "_a" }

// otherLogin is the one of a database's two logins that does not have the name.
func otherLogin(id catalog.DatabaseID, name string) string {
	if name == loginOf(id) {
		return databaseName(id) + "_b"
	}
	return loginOf(id)
}

// A server may serve two catalogs, and roles are the whole server's: each catalog has a migrator and a template owner of
// its own there.
func migratorOf(id catalog.ServerID) string      { return "rowhouse_migrator_" + tail(id) }
func templateOwnerOf(id catalog.ServerID) string { return "rowhouse_tpl_" + tail(id) }

// tail is the random end of a server's id.
func tail(id catalog.ServerID) string { return id.Compact()[20:] }

// mark is the comment on what we make for a database. What carries none, or another catalog's, is not ours to touch.
func (p *provision) mark(id catalog.DatabaseID) string {
	return fmt.Sprintf("%sop=%s", markOf(p.catalog.ID(), "db="+id.String()), p.op.ID)
}

func (p *provision) isOurs(comment string, id catalog.DatabaseID) bool {
	return strings.HasPrefix(comment, markOf(p.catalog.ID(), "db="+id.String()))
}

func markOf(catalogID, what string) string {
	return fmt.Sprintf("rowhouse catalog=%s %s ", catalogID, what)
}

// lockKey is the key of an advisory lock. It is hard to guess for somebody who would like to hold it in our way.
func lockKey(catalogID, what string) int64 {
	mac := hmac.New(sha256.New, []byte(catalogID))
	mac.Write([]byte(what))
	return int64(binary.BigEndian.Uint64(mac.Sum(nil)))
}

func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

func identList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = ident(n)
	}
	return strings.Join(quoted, ", ")
}

// literal quotes a text; our connections pin standard_conforming_strings.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// script is statements that are sent in one message, and so are one transaction.
type script struct{ statements []string }

func (s *script) add(format string, args ...any) {
	s.statements = append(s.statements, fmt.Sprintf(format, args...))
}
