package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// A flight is one transaction in a pipeline: its requests are queued, flushed once and answered in order.
type flight struct {
	pipe  *pgconn.Pipeline
	names *names
	steps []step
	row   *Row
	tag   string // of what ended the transaction

	closing []string // statements that this flight closes

	unclaimed bool // the key was not to be had: nothing of the job ran
}

// A step reads one queued request's answer.
type step struct {
	frame bool // of the lender's
	guard bool // its failure is no error, and keeps what follows from running
	sync  bool
	read  func(result any) error
	cause func(error) error // explains an error of the step; nil leaves it as it is
}

// fly sends frame, settings, statement, Sync, COMMIT, Sync in one flush. The Sync before COMMIT ends failures too:
// the server skips to it, runs COMMIT as a rollback and is idle again without another round trip.
func (r *Runner) fly(ctx context.Context, conn *pgx.Conn, open func(*pgconn.Pipeline) int, job Job) (Row, error) {
	if err := ctx.Err(); err != nil {
		return Row{}, failed(err, job, false, false)
	}
	f := &flight{pipe: conn.PgConn().StartPipeline(ctx), names: namesOf(conn)}
	// Close reads what is left. A connection on which that fails is closed by it, and its owner sees that.
	defer func() { _ = f.pipe.Close() }()

	for range open(f.pipe) {
		f.steps = append(f.steps, step{frame: true, read: closeResult})
	}
	f.forget()
	for _, s := range job.Settings.statements() {
		f.send(r.common(s.SQL), s, closeResult)
	}
	for _, s := range job.Limits.statements() {
		f.send(r.name(s.SQL, job.Scope), s, closeResult)
	}
	if job.PreRequest != "" {
		f.send(r.name(job.PreRequest, job.Scope), sqlgen.Statement{SQL: job.PreRequest}, closeResult)
	}
	if job.Keep != nil {
		f.claim(r, job)
	}
	f.send(r.name(job.Statement.SQL, job.Scope), job.Statement, f.readRow(job.Lines))
	if job.Expected != nil {
		f.send(r.name(job.Expected.SQL, job.Scope), *job.Expected, f.readExpected)
	}
	if job.Rollback {
		f.send(name{}, sqlgen.Statement{SQL: checkConstraints}, closeResult)
	}
	f.sync()
	held := job.Decide != nil || job.Keep != nil
	if !held {
		f.end(r, job.Rollback)
	}

	if err := f.pipe.Flush(); err != nil { // from here on something may have been sent
		return Row{}, failed(err, job, true, !held)
	}
	err := f.read(job, !held)
	if !held {
		return f.result(err, job)
	}
	if err == nil && !f.unclaimed {
		if err = f.settle(r, job); err != nil {
			err = failed(err, job, true, false)
		}
	}
	f.end(r, err != nil || f.unclaimed || job.Rollback)
	if flushed := f.pipe.Flush(); flushed != nil && err == nil {
		err = failed(flushed, job, true, true)
	}
	if ended := f.read(job, true); err == nil {
		err = ended
	}
	if err == nil && f.unclaimed {
		return Row{}, nil // what was kept is the answer
	}
	return f.result(err, job)
}

// claim queues the claim of the job's key, and what keeps the statement behind it from running when it is not to be had.
func (f *flight) claim(r *Runner, job Job) {
	var row *Row
	s, before := job.Keep.claiming(), len(f.steps)
	f.send(r.name(s.SQL, job.Scope), s, func(result any) error {
		if err := readInto(&row, result, false); err != nil {
			return err
		}
		return job.Keep.claimed(row)
	})
	for i := before; i < len(f.steps); i++ {
		f.steps[i].cause = claimError
	}
	guard := sqlgen.Statement{SQL: guardKey}
	f.send(r.name(guard.SQL, job.Scope), guard, closeResult)
	f.steps[len(f.steps)-1].guard = true
}

// settle lets the job look at its row while COMMIT is held back, and queues what is kept of the answer.
func (f *flight) settle(r *Runner, job Job) error {
	if f.row == nil {
		return errNoRow
	}
	if job.Decide != nil {
		if err := job.Decide(*f.row); err != nil {
			return decided{err}
		}
	}
	if job.Keep == nil {
		return nil
	}
	s, err := job.Keep.keeping(*f.row)
	if err == nil {
		f.send(r.name(s.SQL, job.Scope), s, closeResult)
	}
	return err
}

// result gives the row, unless the transaction failed or was rolled back against our will.
func (f *flight) result(err error, job Job) (Row, error) {
	switch {
	case err != nil:
		return Row{}, err
	case f.tag != "COMMIT" && !job.Rollback:
		return Row{}, &Failure{Cause: errRolledBack, outcome: RolledBack}
	case f.row == nil:
		return Row{}, &Failure{Cause: errNoRow, outcome: Committed}
	}
	return *f.row, nil
}

// read reads the answers of all steps queued so far and gives the first error with its outcome.
func (f *flight) read(job Job, commit bool) error {
	var first *Failure
	for i := 0; i < len(f.steps); i++ {
		s := f.steps[i]
		result, err := f.pipe.GetResults()
		if err == nil && result == nil {
			err = errors.New("a pipeline ended early")
		}
		if err == nil {
			err = s.read(result)
		}
		if err == nil {
			continue
		}
		var pg *pgconn.PgError
		answered := errors.As(err, &pg)
		if s.cause != nil {
			err = s.cause(err)
		}
		switch {
		case s.guard && answered:
			f.unclaimed = true
		case first == nil:
			// An error among the frame's replies proves that nothing of ours ran, a broken connection does not.
			first = failed(err, job, !(s.frame && answered), commit)
			first.stale = answered && !s.frame && stale(pg)
			if first.stale {
				f.names.clear()
			}
		}
		if told := (decided{}); errors.As(err, &told) && !answered { // the server goes on with what was sent
			continue
		}
		if !answered {
			break
		}
		for i+1 < len(f.steps) && !f.steps[i+1].sync { // the server skips to the next Sync, and so does the pipeline
			i++
		}
	}
	f.steps = f.steps[:0]
	if first == nil {
		return nil
	}
	return first
}

func (f *flight) sync() {
	f.pipe.SendPipelineSync()
	f.steps = append(f.steps, step{sync: true, read: func(result any) error {
		if _, ok := result.(*pgconn.PipelineSync); !ok {
			return fmt.Errorf("unexpected answer %T to sync", result)
		}
		return nil
	}})
}

// send queues a statement, by name where it has one on this connection or is worth one.
func (f *flight) send(n name, s sqlgen.Statement, read func(any) error) {
	if n.text == "" || !f.names.wants(n) {
		f.pipe.SendQueryParams(s.SQL, s.Args, nil, nil, nil)
		f.steps = append(f.steps, step{read: read})
		return
	}
	if !f.names.has(n) {
		f.close(n.text)
		f.pipe.SendPrepare(n.text, s.SQL, nil)
		f.steps = append(f.steps, step{read: func(result any) error {
			if _, ok := result.(*pgconn.StatementDescription); !ok {
				return fmt.Errorf("unexpected answer %T to prepare", result)
			}
			f.names.add(n)
			return nil
		}})
	}
	// Not SendQueryStatement, which would spare the server a description: after an error pgx 5.12 takes a skipped
	// statement's description for the next one's, and loses the connection over COMMIT.
	f.pipe.SendQueryPrepared(n.text, s.Args, nil, nil)
	f.steps = append(f.steps, step{read: read})
}

// forget closes the statements that the connection's list has dropped.
func (f *flight) forget() {
	for _, text := range slices.Clone(f.names.dropped) {
		f.close(text)
	}
}

// close closes a dropped statement, so that its name is free. Until the server says so it stays dropped.
func (f *flight) close(text string) {
	if !slices.Contains(f.names.dropped, text) || slices.Contains(f.closing, text) {
		return
	}
	f.closing = append(f.closing, text)
	f.pipe.SendDeallocate(text)
	f.steps = append(f.steps, step{read: func(any) error {
		f.names.closed(text)
		return nil
	}})
}

func (f *flight) end(r *Runner, rollback bool) {
	s := sqlgen.Statement{SQL: "commit"}
	if rollback {
		s.SQL = "rollback"
	}
	f.send(r.common(s.SQL), s, func(result any) error {
		reader, ok := result.(*pgconn.ResultReader)
		if !ok {
			return fmt.Errorf("unexpected answer %T to %s", result, s.SQL)
		}
		tag, err := reader.Close()
		f.tag = tag.String()
		return err
	})
	f.sync()
}

func (f *flight) readRow(lines bool) func(any) error {
	return func(result any) error { return readInto(&f.row, result, lines) }
}

// readInto reads a statement's first row, or all of its lines as one.
func readInto(row **Row, result any, lines bool) error {
	reader, ok := result.(*pgconn.ResultReader)
	if !ok {
		return fmt.Errorf("unexpected answer %T to a statement", result)
	}
	for reader.NextRow() {
		*row = take(*row, reader.Values(), lines)
		if !lines {
			break
		}
	}
	_, err := reader.Close()
	return err
}

func (f *flight) readExpected(result any) error {
	reader, ok := result.(*pgconn.ResultReader)
	if !ok {
		return fmt.Errorf("unexpected answer %T to explain", result)
	}
	if reader.NextRow() && f.row != nil {
		f.row[sqlgen.Planned] = bytes.Clone(reader.Values()[0])
	}
	_, err := reader.Close()
	return err
}

func closeResult(result any) error {
	if reader, ok := result.(*pgconn.ResultReader); ok {
		_, err := reader.Close()
		return err
	}
	return nil
}
