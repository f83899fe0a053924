package bench

import (
	"errors"
	"net/url"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5" // the driver that is measured; it has no other way in
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
)

// stockURL is how golang-migrate reaches a database, as our migrator's login in the owner's role.
func (f *fleet) stockURL(db *catalog.Database) (string, error) {
	u, err := url.Parse(f.DSNAs(f.login.Role, f.login.Secret.Reveal(), db.Name))
	if err != nil {
		return "", errors.New("the private server's address cannot be read")
	}
	u.Scheme = "pgx5"
	q := u.Query()
	q.Set("role", db.Name+"_o")
	q.Set("row_security", "off")
	q.Set("x-migrations-table", `"stock"."schema_migrations"`)
	q.Set("x-migrations-table-quoted", "true")
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// stock brings one database over the step with golang-migrate as it comes: a connection by URL, Up, Close.
func (f *fleet) stock(db *catalog.Database) (err error) {
	address, err := f.stockURL(db)
	if err != nil {
		return err
	}
	source, err := iofs.New(migrations.FS(f.sets[1]), ".")
	if err != nil {
		return err
	}
	m, err := migrate.NewWithSourceInstance("iofs", source, address)
	if err != nil {
		return errors.New("golang-migrate cannot open " + db.Name) // its own error may hold the address
	}
	defer func() { a, b := m.Close(); err = errors.Join(err, a, b) }()
	return m.Up()
}
