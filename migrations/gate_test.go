package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

// What the gate says, by its state and by who asks.
func TestGate(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	owner := d.asOwner()
	enter := func(conn *pgx.Conn, opts pgx.TxOptions, placement int, writes bool) (pgx.Tx, error) {
		tx, err := conn.BeginTx(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		execTx(t, tx, "set local rowhouse.tenant_id = '"+acme+"'; set local role authenticated")
		_, err = tx.Exec(t.Context(), "select rowhouse.enter_tenant($1, $2, $3)", acme, placement, writes)
		return tx, err
	}
	ask := func(placement int, writes bool) error {
		conn := d.asLogin()
		defer conn.Close(t.Context())
		tx, err := enter(conn, pgx.TxOptions{}, placement, writes)
		_ = tx.Rollback(t.Context())
		return err
	}
	wantState(t, ask(1, true), "RH001") // no row
	wantState(t, ask(1, false), "RH001")
	mustExec(t, owner, "insert into rowhouse.gate (tenant_id, state, epoch) values ('"+acme+"', 'incoming', 1)")
	for _, c := range []struct {
		state        string
		read, write  string
		writeOtherAs string // with another placement
	}{
		{"incoming", "RH001", "RH001", "RH001"},
		{"open", "", "", "RH001"},
		{"moved", "RH001", "RH001", "RH001"},
		{"closed", "RH001", "RH001", "RH001"},
	} {
		mustExec(t, owner, "update rowhouse.gate set state = '"+c.state+"' where tenant_id = '"+acme+"'")
		for what, got := range map[string]struct {
			err  error
			want string
		}{
			"read": {ask(1, false), c.read}, "write": {ask(1, true), c.write}, "write of another placement": {ask(2, true), c.writeOtherAs},
			"read of another placement": {ask(2, false), c.read},
		} {
			if got.want == "" && got.err != nil {
				t.Errorf("%s at a gate that is %s: %v", what, c.state, got.err)
			} else if got.want != "" {
				wantState(t, got.err, got.want)
			}
		}
	}
	mustExec(t, owner, "update rowhouse.gate set state = 'open' where tenant_id = '"+acme+"'")

	t.Run("a mover waits for a writer, and new writers do not wait for the mover", func(t *testing.T) {
		writer := d.asLogin()
		tx, err := enter(writer, pgx.TxOptions{}, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		const fence = "select pg_advisory_lock(lock) from rowhouse.gate where tenant_id = '" + acme + "'"
		fenced := make(chan error, 1)
		go func() {
			_, err := owner.Exec(t.Context(), fence)
			fenced <- err
		}()
		watch := d.asOwner()
		for !one[bool](t, watch, "select exists (select from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database()))") {
			select {
			case err := <-fenced:
				t.Fatalf("the mover did not wait for the writer: %v", err)
			default:
			}
		}
		wantState(t, ask(1, true), "RH001")
		if err := ask(1, false); err != nil {
			t.Errorf("a read while the mover waits: %v", err)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-fenced; err != nil {
			t.Fatal(err)
		}
		wantState(t, ask(1, true), "RH001")
		mustExec(t, owner, "select pg_advisory_unlock_all()")
		if err := ask(1, true); err != nil {
			t.Errorf("a write after the mover left: %v", err)
		}
	})

	t.Run("a transaction whose snapshot is older than the closed gate does not enter", func(t *testing.T) {
		for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
			writer := d.asLogin()
			tx, err := writer.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
			if err != nil {
				t.Fatal(err)
			}
			execTx(t, tx, "set local rowhouse.tenant_id = '"+acme+"'; set local role authenticated; select 1") // takes its snapshot
			mustExec(t, owner, "update rowhouse.gate set state = 'moved' where tenant_id = '"+acme+"'")
			_, err = tx.Exec(t.Context(), "select rowhouse.enter_tenant($1, 1, true)", acme)
			wantState(t, err, "40001")
			_ = tx.Rollback(t.Context())
			mustExec(t, owner, "update rowhouse.gate set state = 'open' where tenant_id = '"+acme+"'")
		}
	})

	t.Run("nobody enters for another tenant, sees the gate, or enters for all", func(t *testing.T) {
		conn := d.asLogin()
		for sql, want := range map[string]string{
			"select rowhouse.enter_tenant('" + globex + "', 1, true)": "42501",
			"select lock from rowhouse.gate":                          "42501",
			"select rowhouse.enter_all()":                             "42501",
		} {
			_, err := d.do(conn, "service_role", acme, sql)
			wantState(t, err, want)
		}
	})
}
