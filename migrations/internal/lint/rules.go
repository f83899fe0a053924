package lint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Problem is something a file must not contain.
type Problem struct {
	Rule   string // short and stable: "transaction", "concurrently"
	Line   int    // counted from 1
	Reason string
	Hint   string // may be empty
}

// Directives are what a file says about itself in comments of the form "-- rowhouse:word …".
type Directives struct {
	NoTransaction bool
	Verify        string            // a query that answers whether the file's effect is there
	Timeout       time.Duration     // statement_timeout of this file; zero means the migrator's
	Contract      bool              // removes what older code may still read
	Allow         map[string]string // rule -> reason
}

// ReadDirectives reads a file's directives and everything that is wrong with them.
func ReadDirectives(text string) (Directives, []Problem) {
	var d Directives
	var problems []Problem
	for n, line := range strings.Split(text, "\n") {
		word, arg, ok := directive(line)
		if !ok {
			continue
		}
		if reason := d.set(word, arg); reason != "" {
			problems = append(problems, Problem{Rule: "directive", Line: n + 1, Reason: reason})
		}
	}
	if d.Verify != "" && !d.NoTransaction {
		problems = append(problems, Problem{
			Rule: "directive", Line: 1, Reason: "verify without no-transaction",
			Hint: "a file that runs in a transaction needs no verify query: its ledger row says whether it was applied",
		})
	}
	return d, problems
}

func directive(line string) (word, arg string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "--")
	if !ok {
		return "", "", false
	}
	rest, ok = strings.CutPrefix(strings.TrimSpace(rest), "rowhouse:")
	if !ok {
		return "", "", false
	}
	word, arg, _ = strings.Cut(strings.TrimSpace(rest), " ")
	return word, strings.TrimSpace(arg), true
}

// set takes one directive; what it answers is the reason why it could not.
func (d *Directives) set(word, arg string) string {
	switch word {
	case "no-transaction":
		d.NoTransaction = true
	case "contract":
		d.Contract = true
	case "verify":
		if d.Verify = strings.TrimSuffix(arg, ";"); d.Verify == "" {
			return "verify needs a query"
		}
	case "timeout":
		t, err := time.ParseDuration(arg)
		if err != nil || t <= 0 {
			return "timeout needs a duration with its unit, as in 30m"
		}
		d.Timeout = t
	case "allow":
		rule, reason, _ := strings.Cut(arg, " ")
		if rule == "" || strings.TrimSpace(reason) == "" {
			return "allow needs a rule and a reason"
		}
		if !slices.Contains(allowable, rule) {
			return fmt.Sprintf("rule %q cannot be allowed; those that can: %s", rule, strings.Join(allowable, ", "))
		}
		if d.Allow == nil {
			d.Allow = map[string]string{}
		}
		d.Allow[rule] = strings.TrimSpace(reason)
	default:
		return fmt.Sprintf("unknown directive %q", word)
	}
	return ""
}

// allowable are the rules that a file may set aside by name: those about what it does to existing tables, and those of the contract that
// do not touch the fence. The latter stand in the baseline's rowhouse.all_findings, too.
var allowable = []string{
	"rewrite", "index", "constraint", "not-null", "column", "locks",
	"L7", "L8", "L12", "L13", "L14", "L16", "L18",
}

// Check judges a file's statements. It looks at the text alone; what the file does to existing tables is not its business.
func Check(text string) []Problem {
	d, problems := ReadDirectives(text)
	statements, err := Split(text)
	if err != nil {
		var syntax *SyntaxError
		errors.As(err, &syntax)
		return append(problems, Problem{Rule: "syntax", Line: Line(text, syntax.Pos), Reason: err.Error()})
	}
	for _, s := range statements {
		if p, bad := judge(s, d); bad {
			p.Line = Line(text, s.Pos)
			problems = append(problems, p)
		}
	}
	switch {
	case len(statements) == 0:
		problems = append(problems, Problem{Rule: "empty", Line: 1, Reason: "no statement"})
	case d.NoTransaction && len(statements) != 1:
		problems = append(problems, Problem{
			Rule: "no-transaction", Line: Line(text, statements[1].Pos),
			Reason: fmt.Sprintf("a no-transaction file holds exactly one statement, this one holds %d", len(statements)),
		})
	}
	return problems
}

// phrase is the beginning of a statement that is refused. A word "*" stands for any one token.
type phrase struct {
	rule   string
	words  []string
	reason string
	hint   string
}

const ownTransaction = "the migrator brings the transaction: with one of its own a file could be half applied"

var never = []phrase{
	{"transaction", words("begin"), ownTransaction, "leave it out"},
	{"transaction", words("start transaction"), ownTransaction, "leave it out"},
	{"transaction", words("commit"), ownTransaction, "leave it out"},
	{"transaction", words("end"), ownTransaction, "leave it out"},
	{"transaction", words("rollback"), ownTransaction, "leave it out"},
	{"transaction", words("abort"), ownTransaction, "leave it out"},
	{"transaction", words("savepoint"), ownTransaction, "leave it out"},
	{"transaction", words("release"), ownTransaction, "leave it out"},
	{"transaction", words("prepare transaction"), ownTransaction, "leave it out"},
	{"database", words("create database"), "a migration works inside one database", ""},
	{"database", words("drop database"), "a migration works inside one database", ""},
	{"database", words("create tablespace"), "a migration works inside one database", ""},
	{"database", words("drop tablespace"), "a migration works inside one database", ""},
	{"database", words("alter system"), "a migration works inside one database", ""},
	{"role", words("set role"), "objects must belong to the database's owner", ""},
	{"role", words("set local role"), "objects must belong to the database's owner", ""},
	{"role", words("set session role"), "objects must belong to the database's owner", ""},
	{"role", words("reset role"), "objects must belong to the database's owner", ""},
	{"role", words("set session authorization"), "objects must belong to the database's owner", ""},
	{"role", words("set local session authorization"), "objects must belong to the database's owner", ""},
	{"role", words("reset session authorization"), "objects must belong to the database's owner", ""},
	{"discard", words("discard"), "it would drop the migrator's lock", ""},
}

const (
	noTransaction     = "it cannot run inside a transaction"
	noTransactionHint = `put it alone into a file that says "-- rowhouse:no-transaction"`
)

var alone = []phrase{
	{"no-transaction", words("vacuum"), noTransaction, noTransactionHint},
	{"no-transaction", words("create index concurrently"), noTransaction, noTransactionHint},
	{"no-transaction", words("create unique index concurrently"), noTransaction, noTransactionHint},
	{"no-transaction", words("drop index concurrently"), noTransaction, noTransactionHint},
	{"no-transaction", words("reindex database"), noTransaction, noTransactionHint},
	{"no-transaction", words("reindex system"), noTransaction, noTransactionHint},
	{"no-transaction", words("create subscription"), noTransaction, noTransactionHint},
	{"no-transaction", words("drop subscription"), noTransaction, noTransactionHint},
}

func words(s string) []string { return strings.Fields(s) }

func judge(s Statement, d Directives) (Problem, bool) {
	for _, t := range s.Tokens {
		if t.Kind == Command {
			return Problem{Rule: "psql", Reason: "a psql command (\\…) means nothing to the server"}, true
		}
	}
	for _, p := range never {
		if begins(s, p.words) {
			return p.problem(), true
		}
	}
	if !d.NoTransaction {
		for _, p := range alone {
			if begins(s, p.words) {
				return p.problem(), true
			}
		}
		if concurrent(s) {
			return Problem{Rule: "no-transaction", Reason: noTransaction, Hint: noTransactionHint}, true
		}
	}
	if begins(s, words("copy")) && contains(s, "from", "stdin") {
		return Problem{Rule: "copy", Reason: "copy from stdin has nothing to read", Hint: "write insert statements"}, true
	}
	if fixedTenant(s) {
		return Problem{
			Rule: "tenant", Reason: "rowhouse.tenant_id is set to a constant: the file would mean one tenant in every database",
			Hint: "loop over the tenants, or put no force … force around the step",
		}, true
	}
	return Problem{}, false
}

func (p phrase) problem() Problem {
	return Problem{Rule: p.rule, Reason: strings.Join(p.words, " ") + ": " + p.reason, Hint: p.hint}
}

func begins(s Statement, ws []string) bool {
	if len(s.Tokens) < len(ws) {
		return false
	}
	for i, w := range ws {
		if s.Tokens[i].Kind != Word || s.Tokens[i].Text != w {
			return false
		}
	}
	return true
}

// contains says whether the words stand side by side anywhere outside strings.
func contains(s Statement, ws ...string) bool {
	for i := range s.Tokens {
		if begins(Statement{Tokens: s.Tokens[i:]}, ws) {
			return true
		}
	}
	return false
}

// concurrent finds the forms whose CONCURRENTLY is not the third word: REINDEX, DETACH PARTITION.
// REFRESH MATERIALIZED VIEW CONCURRENTLY is the one that may run in a transaction.
func concurrent(s Statement) bool {
	return contains(s, "concurrently") && (begins(s, words("reindex")) || begins(s, words("alter table")))
}

// fixedTenant finds SET … rowhouse.tenant_id = 'constant' and set_config('rowhouse.tenant_id', 'constant', …), but not inside
// function bodies, which are strings here and may loop over tenants.
func fixedTenant(s Statement) bool {
	i := slices.IndexFunc(s.Tokens, func(t Token) bool { return t.Kind == String && t.Text == "rowhouse.tenant_id" })
	if i > 1 && s.Tokens[i-1].Text == "(" && s.Tokens[i-2].Text == "set_config" && i+2 < len(s.Tokens) {
		return s.Tokens[i+2].Kind == String && s.Tokens[i+2].Text != ""
	}
	if !begins(s, words("set")) {
		return false
	}
	for i := range s.Tokens {
		rest := s.Tokens[i:]
		if len(rest) >= 5 && rest[0].Text == "rowhouse" && rest[1].Text == "." && rest[2].Text == "tenant_id" && rest[4].Kind == String {
			return rest[4].Text != ""
		}
	}
	return false
}

// IndexName is the name of the index that the file's only statement builds CONCURRENTLY, as it stands there, or "".
// A build that broke off leaves it behind, invalid.
func IndexName(text string) string {
	statements, err := Split(text)
	if err != nil || len(statements) != 1 || !begins(statements[0], words("create")) {
		return ""
	}
	tokens := statements[0].Tokens
	i := slices.IndexFunc(tokens, func(t Token) bool { return t.Kind == Word && t.Text == "concurrently" })
	if i < 0 {
		return ""
	}
	if rest := (Statement{Tokens: tokens[i+1:]}); begins(rest, words("if not exists")) {
		i += 3
	}
	if i+1 >= len(tokens) || tokens[i+1].Text == "on" && tokens[i+1].Kind == Word {
		return ""
	}
	return tokens[i+1].Text
}
