package jobs

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// An export is a zip file: a gzipped file of COPY text for each table, and last a manifest with their sums. What was cut off
// has no manifest, and what was changed has another sum.
const (
	archiveFormat  = "rowhouse tenant export"
	archiveVersion = 1
	manifestFile   = "manifest.json"
	maxManifest    = 16 << 20
)

// Manifest says what stands in an export.
type Manifest struct {
	Format    string                     `json:"format"`
	Version   int                        `json:"version"`
	CreatedAt time.Time                  `json:"created_at"`
	Catalog   string                     `json:"catalog"`
	Tenant    ManifestTenant             `json:"tenant"`
	Schema    ManifestSchema             `json:"schema"`
	Settings  map[string]json.RawMessage `json:"settings"`
	// Credentials says that the hashes of passwords stand in it.
	Credentials bool            `json:"credentials"`
	Tables      []ManifestTable `json:"tables"`
}

// ManifestTenant is the tenant that was exported.
type ManifestTenant struct {
	ID        catalog.TenantID  `json:"id"`
	Name      string            `json:"name"`
	Placement catalog.Placement `json:"placement"`
	Edition   string            `json:"edition,omitempty"`
}

// ManifestSchema is the schema that its rows fit.
type ManifestSchema struct {
	Version int64  `json:"version"`
	Chain   string `json:"chain"`
}

// ManifestTable is one table of an export.
type ManifestTable struct {
	Schema  string   `json:"schema"`
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
	Rows    int64    `json:"rows"`
	// Sum is over the rows' values, however they are ordered.
	Sum    string `json:"sum"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// archiveWriter writes an export.
type archiveWriter struct {
	zip      *zip.Writer
	manifest Manifest
}

func newArchiveWriter(w io.Writer, m Manifest) *archiveWriter {
	m.Format, m.Version = archiveFormat, archiveVersion
	m.Tables = []ManifestTable{}
	return &archiveWriter{zip.NewWriter(w), m}
}

// add writes one table, whose text fn writes.
func (a *archiveWriter) add(t ManifestTable, fn func(io.Writer) error) error {
	t.File = fmt.Sprintf("rows/%04d.copy.gz", len(a.manifest.Tables)+1)
	file, err := a.zip.CreateHeader(&zip.FileHeader{Name: t.File, Method: zip.Store, Modified: a.manifest.CreatedAt})
	if err != nil {
		return err
	}
	sum := sha256.New()
	packed := gzip.NewWriter(io.MultiWriter(file, sum))
	if err := fn(packed); err != nil {
		return err
	}
	if err := packed.Close(); err != nil {
		return err
	}
	t.SHA256 = hex.EncodeToString(sum.Sum(nil))
	a.manifest.Tables = append(a.manifest.Tables, t)
	return nil
}

// close writes the manifest: from here on it is an export.
func (a *archiveWriter) close() error {
	file, err := a.zip.CreateHeader(&zip.FileHeader{Name: manifestFile, Method: zip.Deflate, Modified: a.manifest.CreatedAt})
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(a.manifest, "", "  ")
	if err != nil {
		return err
	}
	if _, err := file.Write(text); err != nil {
		return err
	}
	return a.zip.Close()
}

// OpenedExport is an export that is read.
type OpenedExport struct {
	Manifest
	file *os.File
	zip  *zip.Reader
}

// OpenExport opens an export and reads its manifest. What is no export, or was cut off, is catalog.ErrInvalid.
func OpenExport(name string) (*OpenedExport, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	e, err := readExport(f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return e, nil
}

func readExport(f *os.File) (*OpenedExport, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	z, err := zip.NewReader(f, info.Size())
	if err != nil {
		return nil, catalog.Invalid("export: the file is none, or was cut off")
	}
	e := &OpenedExport{file: f, zip: z}
	text, err := e.read(manifestFile, maxManifest)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&e.Manifest); err != nil || e.Format != archiveFormat {
		return nil, catalog.Invalid("export: the manifest is not one of rowhouse")
	}
	if e.Version != archiveVersion {
		return nil, catalog.Invalid("export: its form is of version %d, and this program knows %d", e.Version, archiveVersion)
	}
	if e.Tenant.ID.IsZero() || e.Schema.Chain == "" {
		return nil, catalog.Invalid("export: the manifest names no tenant or no schema")
	}
	return e, nil
}

// Close closes the file.
func (e *OpenedExport) Close() error { return e.file.Close() }

// Verify reads every file through and compares its sum with the manifest's.
func (e *OpenedExport) Verify() error {
	seen := map[string]bool{}
	for _, t := range e.Tables {
		if seen[t.File] || len(t.Columns) == 0 {
			return catalog.Invalid("export: the manifest does not fit its files")
		}
		seen[t.File] = true
		if err := e.verify(t); err != nil {
			return err
		}
	}
	return nil
}

func (e *OpenedExport) verify(t ManifestTable) error {
	text, sum, err := e.open(t)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, text); err != nil {
		return damaged(t, err)
	}
	if err := text.Close(); err != nil {
		return damaged(t, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != t.SHA256 {
		return catalog.Invalid("export: table %.130q was changed or damaged", t.Schema+"."+t.Name)
	}
	return nil
}

func damaged(t ManifestTable, err error) error {
	var path *os.PathError
	if errors.As(err, &path) { // the disk's fault, not the file's
		return fmt.Errorf("export: %w", err)
	}
	return catalog.Invalid("export: table %.130q is damaged", t.Schema+"."+t.Name)
}

// tableText is a table's COPY text. Closing it reads to the end, so that the sum is over all.
type tableText struct {
	*gzip.Reader
	file io.ReadCloser
	rest io.Reader
}

func (t *tableText) Close() error {
	_, err := io.Copy(io.Discard, t.rest)
	return errors.Join(err, t.Reader.Close(), t.file.Close())
}

// open gives a table's text, and the sum of what has been read of its file.
func (e *OpenedExport) open(t ManifestTable) (*tableText, hash.Hash, error) {
	file, err := e.zip.Open(t.File)
	if err != nil {
		return nil, nil, catalog.Invalid("export: the file of table %.130q is missing", t.Schema+"."+t.Name)
	}
	sum := sha256.New()
	packed := io.TeeReader(file, sum)
	text, err := gzip.NewReader(packed)
	if err != nil {
		_ = file.Close()
		return nil, nil, damaged(t, err)
	}
	return &tableText{text, file, packed}, sum, nil
}

func (e *OpenedExport) read(name string, limit int64) ([]byte, error) {
	file, err := e.zip.Open(name)
	if err != nil {
		return nil, catalog.Invalid("export: it has no %s", name)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil || int64(len(text)) > limit {
		return nil, catalog.Invalid("export: its %s is damaged", name)
	}
	return text, nil
}

// Receive keeps an export where an import finds it, when it is whole and fits the schema that tenants are born with here.
func (r *Runner) Receive(ctx context.Context, source io.Reader) (*tenants.Archive, error) {
	if err := r.CanKeep(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(r.cfg.Exports, "import-*.zip") // 0600: it holds a tenant's rows
	if err != nil {
		return nil, fmt.Errorf("exports: %w", err)
	}
	name := f.Name()
	_, err = io.Copy(f, readerUnder{ctx, source})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(name)
		return nil, fmt.Errorf("export cannot be received: %w", err)
	}
	a, err := r.check(ctx, name)
	if err != nil {
		_ = os.Remove(name)
		return nil, err
	}
	return a, nil
}

func (r *Runner) check(ctx context.Context, name string) (*tenants.Archive, error) {
	e, err := OpenExport(name)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := e.Verify(); err != nil {
		return nil, err
	}
	set, err := r.born(ctx)
	if err != nil {
		return nil, err
	}
	if here := set.Latest(); here.Chain != e.Schema.Chain {
		return nil, catalog.Invalid("export: its rows are of schema version %d, chain %.8s, and tenants are born here with version %d, chain %.8s", e.Schema.Version, e.Schema.Chain, here.Number, here.Chain)
	}
	host, _ := os.Hostname()
	return &tenants.Archive{
		File: name, Host: host, Tenant: e.Tenant.ID, Name: e.Tenant.Name, Placement: e.Tenant.Placement, Edition: e.Tenant.Edition, Settings: e.Settings,
	}, nil
}

// Discard removes what Receive kept.
func (r *Runner) Discard(a *tenants.Archive) { _ = os.Remove(a.File) }

// readerUnder stops reading when its context ends.
type readerUnder struct {
	ctx  context.Context
	from io.Reader
}

func (r readerUnder) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// CanKeep makes the directory of exports, which nobody else can read, or says why there can be none.
func (r *Runner) CanKeep() error {
	if r.cfg.Exports == "" {
		return fmt.Errorf("no directory for exports is configured (exports.dir): %w", catalog.ErrConflict)
	}
	if err := os.MkdirAll(r.cfg.Exports, 0o700); err != nil {
		return fmt.Errorf("exports.dir cannot be made (%s): %w", bareReason(err), catalog.ErrConflict)
	}
	f, err := os.CreateTemp(r.cfg.Exports, ".try-*")
	if err != nil {
		return fmt.Errorf("exports.dir cannot be written to (%s): %w", bareReason(err), catalog.ErrConflict)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func bareReason(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// keep writes a file of the directory of exports whole or not at all.
func (r *Runner) keepExport(name string, fn func(io.Writer) error) error {
	f, err := os.CreateTemp(r.cfg.Exports, ".part-*")
	if err != nil {
		return fmt.Errorf("exports: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := errors.Join(fn(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(r.cfg.Exports, name))
}
