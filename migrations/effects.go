package migrations

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/migrations/internal/lint"
)

// FileEffects is what one file does to what stood before it.
type FileEffects struct {
	File       File
	Statements []Effect
	// Problems are what would hurt a database with rows and readers in it, and was not allowed by the file.
	Problems []Problem
}

// Effect is what one statement does to tables that stood before its file.
type Effect struct {
	Line      int    // where it begins, counted from 1
	Statement string // its beginning
	Locks     []TableLock
	// Rewritten are the tables that it writes anew, for as long as that takes with all their rows.
	Rewritten []string
}

// TableLock is a lock on a table, kept until the file's transaction ends.
type TableLock struct {
	Table string
	// Mode is PostgreSQL's name: ShareRowExclusiveLock. Of several, the strongest; reading alone (AccessShareLock) is left out.
	Mode string
}

// lockModes from weakest to strongest. From ShareLock on they keep writers out, and the last one readers too.
var lockModes = []string{
	"AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock",
	"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
}

const firstStrongMode = 4

// Effects applies files to a scratch database that stands at the version before the first of them, and reports what each statement did to
// tables that were there before its file: the locks that it took, the tables that it wrote anew, and what of that a database with rows
// and readers in it must not be asked to bear. It judges by what happened, not by the text.
//
// After the last file the shared-schema contract is judged as well, where the database has rowhouse's baseline; its findings stand among that
// file's problems. The connection is a migrator's (ConnConfig), outside a transaction, and nobody else works in that database; the
// files stay applied in it. What a file without a transaction locks is not seen: it runs by itself.
//
// Errors: an *Error for a file that the server refused, whose Target is the scratch database's name.
func Effects(ctx context.Context, conn *pgx.Conn, files []File) ([]FileEffects, error) {
	e := scratch{ctx: ctx, conn: conn, name: conn.Config().Database}
	baseline, err := e.ask("select to_regprocedure('rowhouse.check_migration()') is not null")
	if err != nil {
		return nil, fmt.Errorf("%s: effects: %w", e.name, err)
	}
	e.baseline = baseline
	all := make([]FileEffects, 0, len(files))
	for _, f := range files {
		effects, err := e.file(f)
		if err != nil {
			return all, err
		}
		all = append(all, effects)
	}
	if len(all) > 0 && baseline {
		found, err := LintDatabase(ctx, conn)
		if err != nil {
			return all, fmt.Errorf("%s: %w", e.name, err)
		}
		last := &all[len(all)-1]
		for _, f := range found {
			if !f.Warning {
				last.Problems = append(last.Problems, Problem{File: fileOf(last.File), Rule: f.Rule, Reason: f.Object + ": " + f.Reason, Hint: f.Hint})
			}
		}
	}
	return all, nil
}

// Try brings an empty scratch database to version after of the set, 0 being the baseline alone, and reports what the files beyond it do there: see
// Effects. The scratch database is like one that provisioning has made, and is the caller's to drop.
//
// The errors are those of Up and Effects.
func (m *Migrator) Try(ctx context.Context, scratch Target, after int64) ([]FileEffects, error) {
	own := m.stages[len(m.stages)-1]
	n := len(own.files) - len(own.pending(after))
	past := *m
	past.stages = slices.Clone(m.stages)
	first := &past.stages[len(past.stages)-1]
	first.files, first.chains, first.source, first.checkLast = own.files[:n], own.chains[:n], FS(own.files[:n]), ""
	past.cfg.Then = nil
	if _, err := past.Up(ctx, scratch); err != nil {
		return nil, err
	}
	conn, err := scratch.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: connect: %w", scratch.Name, err)
	}
	defer closeConn(conn)
	return Effects(ctx, conn, own.files[n:])
}

func fileOf(f File) string { return f.String() + ".up.sql" }

// scratch is the database that Effects tries files on.
type scratch struct {
	ctx      context.Context
	conn     *pgx.Conn
	name     string
	baseline bool
}

func (e *scratch) file(f File) (FileEffects, error) {
	statements, err := lint.Split(f.Up)
	if err != nil {
		return FileEffects{}, fmt.Errorf("%s: %s: %w", e.name, f, err)
	}
	if f.NoTransaction {
		return e.alone(f, statements)
	}
	j := judgement{file: f, result: FileEffects{File: f}, used: map[string]bool{}}
	if err := e.exec("begin"); err != nil {
		return FileEffects{}, fmt.Errorf("%s: %s: %w", e.name, f, err)
	}
	defer e.rollback()
	if j.before, err = e.snapshot(); err != nil {
		return FileEffects{}, fmt.Errorf("%s: %s: %w", e.name, f, err)
	}
	j.last = j.before
	for _, s := range statements {
		if err := e.exec(f.Up[s.Pos:s.End]); err != nil {
			return FileEffects{}, e.refused(f, s.Pos, err)
		}
		now, err := e.snapshot()
		if err != nil {
			return FileEffects{}, fmt.Errorf("%s: %s: %w", e.name, f, err)
		}
		j.statement(lint.Line(f.Up, s.Pos), summary(f.Up[s.Pos:s.End]), now)
	}
	j.whole()
	if err := e.finish(f, &j); err != nil {
		return FileEffects{}, err
	}
	return j.result, nil
}

// finish does what the migrator does behind a file, and says which of the file's permissions were not needed.
func (e *scratch) finish(f File, j *judgement) error {
	sql := []string{"reset all", "reset role"}
	if e.baseline {
		sql = append(sql, "select rowhouse.check_functions()", "select rowhouse.check_migration()")
	}
	for _, s := range sql {
		if err := e.exec(s); err != nil {
			return e.refused(f, len(f.Up), err)
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(f.Allow)) {
		used := j.used[rule]
		if strings.HasPrefix(rule, "L") && e.baseline {
			if err := e.exec("select rowhouse.allow(" + quoteLiteral(rule) + ", " + quoteLiteral(f.Allow[rule]) + ")"); err != nil {
				return e.refused(f, len(f.Up), err)
			}
			var err error
			// A row made by this transaction bears its number.
			used, err = e.ask("select exists (select from rowhouse.allowances where rule = " + quoteLiteral(rule) + " and xmin::text = pg_current_xact_id()::xid::text)")
			if err != nil {
				return fmt.Errorf("%s: %s: %w", e.name, f, err)
			}
		}
		if !used {
			j.add(0, "directive", "", fmt.Sprintf("allows %s, and nothing needs it", rule), "take the directive out, or it will excuse what nobody has looked at")
		}
	}
	if err := e.exec("commit"); err != nil {
		return e.refused(f, len(f.Up), err)
	}
	return nil
}

func (e *scratch) alone(f File, statements []lint.Statement) (FileEffects, error) {
	result := FileEffects{File: f}
	for _, s := range statements {
		text := f.Up[s.Pos:s.End]
		if err := errors.Join(e.exec(text), e.exec("reset all"), e.exec("reset role")); err != nil {
			return FileEffects{}, e.refused(f, s.Pos, err)
		}
		result.Statements = append(result.Statements, Effect{Line: lint.Line(f.Up, s.Pos), Statement: summary(text)})
	}
	return result, nil
}

// rollback ends a transaction that was not committed.
func (e *scratch) rollback() {
	if e.conn.IsClosed() || e.conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 5*time.Second)
	defer cancel()
	_, _ = e.conn.PgConn().Exec(ctx, "rollback").ReadAll() // where it fails the connection is lost, and the transaction with it
}

func (e *scratch) exec(sql string) error {
	_, err := e.conn.PgConn().Exec(e.ctx, sql).ReadAll()
	return err
}

func (e *scratch) ask(sql string) (bool, error) {
	results, err := e.conn.PgConn().Exec(e.ctx, sql).ReadAll()
	if err != nil {
		return false, err
	}
	return string(results[0].Rows[0][0]) == "t", nil
}

func (e *scratch) refused(f File, pos int, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fmt.Errorf("%s: %s: %w", e.name, f, err)
	}
	line := 0
	if pos < len(f.Up) {
		line = lint.Line(f.Up, pos)
	}
	return &Error{Target: e.name, File: f.String(), Line: line, SQLState: pg.Code, Message: pg.Message, Detail: pg.Detail, hint: advice(pg), cause: pg}
}

// summary is the beginning of a statement, on one line.
func summary(sql string) string {
	text := strings.Join(strings.Fields(sql), " ")
	if r := []rune(text); len(r) > 80 {
		text = string(r[:79]) + "…"
	}
	return text
}

// picture is what stands in a database at one moment, and which locks we hold.
type picture struct {
	relations   map[string]relation   // by oid
	columns     map[string]column     // by oid and number
	indexes     map[string]index      // by oid
	constraints map[string]constraint // by oid
	names       map[string]bool       // what code may know by name: tables, their columns, functions
	locks       map[string]int        // oid -> lockModes
}

type relation struct{ name, kind, file, root string }

type column struct {
	relation, name              string
	notNull, filled, checkedFor bool
}

type index struct{ relation, name string }

type constraint struct {
	relation, parent, kind, name string
	validated                    bool
}

const pictureQuery = `
select c.oid, format('%I.%I', n.nspname, c.relname), c.relkind, c.relfilenode, coalesce(pg_catalog.pg_partition_root(c.oid)::oid, c.oid)
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm') and c.relpersistence <> 't'
  and n.nspname not in ('rowhouse', 'rowhouse_guard', 'information_schema') and n.nspname not like 'pg\_%';
select a.attrelid, a.attnum, a.attname, a.attnotnull, a.atthasdef or a.attidentity <> '' or a.attgenerated <> '', exists (
    select from pg_catalog.pg_constraint k
    where k.conrelid = a.attrelid and k.contype = 'c' and k.convalidated and k.conkey = array[a.attnum]
      and pg_catalog.pg_get_expr(k.conbin, k.conrelid) = format('(%I IS NOT NULL)', a.attname))
from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm') and c.relnamespace >= 2200;
select i.indexrelid, i.indrelid, c.relname
from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
where not c.relispartition and c.relnamespace >= 2200;
select oid, conrelid, confrelid, contype, conname, convalidated
from pg_catalog.pg_constraint where conparentid = 0 and contype in ('f', 'c') and conrelid <> 0;
select p.oid::regprocedure
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname not in ('rowhouse', 'rowhouse_guard', 'information_schema') and n.nspname not like 'pg\_%';
select relation, mode from pg_catalog.pg_locks where locktype = 'relation' and pid = pg_catalog.pg_backend_pid() and granted`

func (e *scratch) snapshot() (picture, error) {
	results, err := e.conn.PgConn().Exec(e.ctx, pictureQuery).ReadAll()
	if err != nil {
		return picture{}, err
	}
	p := picture{
		relations: map[string]relation{}, columns: map[string]column{}, indexes: map[string]index{},
		constraints: map[string]constraint{}, names: map[string]bool{}, locks: map[string]int{},
	}
	text := func(result int) [][]string {
		rows := make([][]string, len(results[result].Rows))
		for i, row := range results[result].Rows {
			for _, v := range row {
				rows[i] = append(rows[i], string(v))
			}
		}
		return rows
	}
	for _, r := range text(0) {
		p.relations[r[0]] = relation{name: r[1], kind: r[2], file: r[3], root: r[4]}
		p.names[r[1]] = true
	}
	for _, r := range text(1) {
		if table, ok := p.relations[r[0]]; ok {
			p.columns[r[0]+" "+r[1]] = column{relation: r[0], name: r[2], notNull: r[3] == "t", filled: r[4] == "t", checkedFor: r[5] == "t"}
			p.names[table.name+"."+r[2]] = true
		}
	}
	for _, r := range text(2) {
		p.indexes[r[0]] = index{relation: r[1], name: r[2]}
	}
	for _, r := range text(3) {
		p.constraints[r[0]] = constraint{relation: r[1], parent: r[2], kind: r[3], name: r[4], validated: r[5] == "t"}
	}
	for _, r := range text(4) {
		p.names[r[0]] = true
	}
	for _, r := range text(5) {
		p.locks[r[0]] = max(p.locks[r[0]], slices.Index(lockModes, r[1]))
	}
	return p, nil
}

// judgement follows one file from statement to statement.
type judgement struct {
	file   File
	result FileEffects
	before picture // the file
	last   picture // the statement
	used   map[string]bool
	lost   []lostName
}

type lostName struct {
	name string
	line int
}

func (j *judgement) add(line int, rule, table, reason, hint string) {
	j.used[rule] = true
	if _, allowed := j.file.Allow[rule]; allowed && rule != "directive" {
		return
	}
	j.result.Problems = append(j.result.Problems, Problem{File: fileOf(j.file), Line: line, Rule: rule, Table: table, Reason: reason, Hint: hint})
}

// existing is the name of a table that stood before the file.
func (j *judgement) existing(oid string) (string, bool) {
	r, ok := j.before.relations[oid]
	return r.name, ok && r.kind != "v"
}

func (j *judgement) statement(line int, text string, now picture) {
	effect := Effect{Line: line, Statement: text}
	for _, oid := range slices.Sorted(maps.Keys(now.locks)) {
		mode := now.locks[oid]
		if held, ok := j.last.locks[oid]; ok && held >= mode || mode == 0 {
			continue
		}
		if name, ok := j.existing(oid); ok {
			effect.Locks = append(effect.Locks, TableLock{Table: name, Mode: lockModes[mode]})
		}
	}
	slices.SortFunc(effect.Locks, func(a, b TableLock) int { return strings.Compare(a.Table, b.Table) })
	for _, oid := range slices.Sorted(maps.Keys(now.relations)) {
		name, ok := j.existing(oid)
		if r := now.relations[oid]; ok && r.file != j.last.relations[oid].file {
			effect.Rewritten = append(effect.Rewritten, name)
			j.add(line, "rewrite", name, name+" is written anew while nobody can read it", "add a column and fill it in steps, then exchange the two")
		}
	}
	j.indexes(line, now)
	j.constraints(line, now)
	j.columns(line, now)
	for name := range j.last.names {
		if j.before.names[name] && !now.names[name] {
			j.lost = append(j.lost, lostName{name, line})
		}
	}
	j.result.Statements = append(j.result.Statements, effect)
	j.last = now
}

func (j *judgement) indexes(line int, now picture) {
	for _, oid := range slices.Sorted(maps.Keys(now.indexes)) {
		i := now.indexes[oid]
		if _, was := j.last.indexes[oid]; was {
			continue
		}
		if name, ok := j.existing(i.relation); ok {
			j.add(line, "index", name, fmt.Sprintf("index %s is built while nobody can write to %s", i.name, name),
				"create index concurrently, in a file of its own; a constraint can be added using the index")
		}
	}
}

func (j *judgement) constraints(line int, now picture) {
	for _, oid := range slices.Sorted(maps.Keys(now.constraints)) {
		c := now.constraints[oid]
		if _, was := j.last.constraints[oid]; was || !c.validated {
			continue
		}
		if name, ok := j.existing(c.relation); ok {
			j.add(line, "constraint", name, fmt.Sprintf("constraint %s is checked for every row of %s under a lock", c.name, name),
				"add it not valid, and validate it in a later file")
		}
	}
}

func (j *judgement) columns(line int, now picture) {
	for _, key := range slices.Sorted(maps.Keys(now.columns)) {
		c := now.columns[key]
		table, ok := j.existing(c.relation)
		if !ok || !c.notNull {
			continue
		}
		was, there := j.last.columns[key]
		switch {
		case !there && !c.filled:
			j.add(line, "column", table, fmt.Sprintf("column %s of %s is not null and has no default: with rows in the table it fails", c.name, table),
				"give it a default, or let it be null first")
		case there && !was.notNull && !was.checkedFor:
			j.add(line, "not-null", table, fmt.Sprintf("every row of %s is looked at for nulls in %s while nobody can read it", table, c.name),
				fmt.Sprintf("add check (%s is not null) not valid, validate it in a later file, then set not null", c.name))
		}
	}
}

// whole judges what is seen at the end only.
func (j *judgement) whole() {
	j.contract()
	j.locks()
}

// contract refuses what takes away a name that code of the version before may use.
func (j *judgement) contract() {
	if j.file.Contract {
		return
	}
	slices.SortStableFunc(j.lost, func(a, b lostName) int { return strings.Compare(a.name, b.name) })
	for _, l := range j.lost {
		if j.last.names[l.name] || slices.ContainsFunc(j.lost, func(o lostName) bool { return strings.HasPrefix(l.name, o.name+".") && !j.last.names[o.name] }) {
			continue // it came back, or its table is gone
		}
		j.add(l.line, "contract", "", l.name+" is gone, and code of the version before may use it",
			`when no such code runs any more, say so: "-- rowhouse:contract"`)
	}
}

// locks refuses strong locks on two tables: whoever holds the first while waiting for the second keeps everybody out of both. The two tables of
// a foreign key cannot be had apart.
func (j *judgement) locks() {
	paired := map[string]bool{}
	for _, p := range []struct{ in, not picture }{{j.last, j.before}, {j.before, j.last}} {
		for oid, c := range p.in.constraints {
			if _, both := p.not.constraints[oid]; !both && c.kind == "f" && c.relation != c.parent {
				paired[j.root(c.parent)] = true
			}
		}
	}
	var strong []string
	roots := map[string]bool{}
	for oid, mode := range j.last.locks {
		name, ok := j.existing(oid)
		root := j.root(oid)
		if !ok || mode < firstStrongMode || paired[root] || roots[root] {
			continue
		}
		roots[root] = true
		if r, ok := j.before.relations[root]; ok {
			name = r.name
		}
		strong = append(strong, name)
	}
	if len(strong) > 1 {
		slices.Sort(strong)
		j.add(0, "locks", "", "keeps writers out of "+strings.Join(strong, " and ")+" at once: it holds the first while it waits for the next", "one file for each table")
	}
}

func (j *judgement) root(oid string) string {
	if r, ok := j.before.relations[oid]; ok {
		return r.root
	}
	return oid
}
