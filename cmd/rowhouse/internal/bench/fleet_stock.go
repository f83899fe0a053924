package bench

import (
	"context"
	"database/sql"
	"errors"
	"hash/crc32"
	"io"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
)

// stockDriver talks to a database as golang-migrate's own pgx driver (v4.20) does when it is opened by URL: database/sql
// over one pinned connection, a blocking lock, and the version written in a transaction of its own before and after the
// file. The driver itself would bring modules into the program that nothing else in it needs; its core is the real one.
type stockDriver struct {
	db   *sql.DB
	conn *sql.Conn
	key  int64
}

const stockTable = "stock.schema_migrations"

func openStock(db *sql.DB) (*stockDriver, error) {
	ctx := context.Background()
	if err := db.Ping(); err != nil {
		return nil, err
	}
	var name, schema string
	if err := errors.Join(db.QueryRow("select current_database()").Scan(&name), db.QueryRow("select current_schema()").Scan(&schema)); err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	d := &stockDriver{db, conn, int64(crc32.ChecksumIEEE([]byte(name + schema + stockTable)))}
	if err := d.Lock(); err != nil {
		return nil, err
	}
	var tables int
	err = conn.QueryRowContext(ctx, "select count(1) from information_schema.tables where table_schema = $1 and table_name = $2 limit 1",
		"stock", "schema_migrations").Scan(&tables)
	return d, errors.Join(err, d.Unlock())
}

func (d *stockDriver) exec(query string, args ...any) error {
	_, err := d.conn.ExecContext(context.Background(), query, args...)
	return err
}

func (d *stockDriver) Lock() error   { return d.exec("select pg_advisory_lock($1)", d.key) }
func (d *stockDriver) Unlock() error { return d.exec("select pg_advisory_unlock($1)", d.key) }
func (d *stockDriver) Drop() error   { return errors.ErrUnsupported }
func (d *stockDriver) Close() error  { return errors.Join(d.conn.Close(), d.db.Close()) }

func (d *stockDriver) Open(string) (database.Driver, error) { return nil, errors.ErrUnsupported }

func (d *stockDriver) Run(body io.Reader) error {
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	return d.exec(string(text))
}

func (d *stockDriver) SetVersion(version int, dirty bool) error {
	tx, err := d.conn.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	_, err = tx.Exec("truncate " + stockTable)
	if err == nil {
		_, err = tx.Exec("insert into "+stockTable+" (version, dirty) values ($1, $2)", version, dirty)
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (d *stockDriver) Version() (version int, dirty bool, err error) {
	err = d.conn.QueryRowContext(context.Background(), "select version, dirty from "+stockTable+" limit 1").Scan(&version, &dirty)
	return version, dirty, err
}

// stock brings one database over the step with golang-migrate.
func (f *fleet) stock(db *catalog.Database) (err error) {
	cfg, err := f.config(db)
	if err != nil {
		return err
	}
	drv, err := openStock(stdlib.OpenDB(*cfg))
	if err != nil {
		return err
	}
	source, err := iofs.New(migrations.FS(f.sets[1]), ".")
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("iofs", source, "stock", drv)
	if err != nil {
		return err
	}
	defer func() { a, b := m.Close(); err = errors.Join(err, a, b) }()
	return m.Up()
}
