package migrations_test

import (
	"testing"
)

func TestMigrator_Up(t *testing.T) {
	t.Parallel()
	t.Run("a fresh database gets the baseline and the application's files", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		result := d.migrate(sample)
		t.Log(result)
		if again := d.migrate(sample); len(again.Applied) != 0 || again.From != again.To || again.To != result.To {
			t.Errorf("a second run did something: %+v", again)
		}
		conn := d.asLogin()
		d.mustDo(conn, "authenticated", acme, "insert into projects (name) values ('a')")
	})
}
