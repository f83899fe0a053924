package tenants

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/rowhouse/rowhouse/catalog"
)

// ExportSpec says what an export holds besides the tenant's rows. The zero value is right for most.
type ExportSpec struct {
	// WithCredentials adds what people sign in with: the hashes of their passwords.
	WithCredentials bool `json:"with_credentials,omitempty"`
}

// ImportSpec says what becomes of an export.
type ImportSpec struct {
	TenantSpec
	// KeepID gives the tenant the id it had. A tenant of that id must be deleted here, or not known.
	KeepID bool `json:"keep_id,omitempty"`
}

// Archive is an export that was received, read through and found whole.
type Archive struct {
	// File is where the import finds it.
	File string
	// Host is the machine that the file is on.
	Host string
	// Tenant, Name, Placement and Edition are those of the tenant that was exported.
	Tenant    catalog.TenantID
	Name      string
	Placement catalog.Placement
	Edition   string
	// Settings are what the host had decided for it, secrets left out.
	Settings map[string]json.RawMessage
}

// Archivist writes a tenant's rows into a stream and takes them from one. It is satisfied by *jobs.Runner.
type Archivist interface {
	// Export writes a tenant's rows, as they are at one moment.
	Export(ctx context.Context, t *catalog.Tenant, spec ExportSpec, w io.Writer) error
	// Receive keeps an export for an import. One that is damaged, foreign, or of another schema is catalog.ErrInvalid, and
	// is not kept.
	Receive(ctx context.Context, r io.Reader) (*Archive, error)
	// Discard forgets an export that was received.
	Discard(a *Archive)
	// CanKeep says why exports could not be kept here.
	CanKeep() error
}

// KindImport is the kind of the operation that makes a tenant from an export.
const KindImport = "tenant.import"

// ImportSteps are the steps of KindImport: those of making a tenant, and the loading of its rows.
var ImportSteps = []string{"placed", "roles", "database", "secured", "owned", "migrated", "seeded", "loaded", "verified", "active"}

// ImportArgs are the arguments of an operation of KindImport.
type ImportArgs struct {
	ProvisionArgs
	File string `json:"file"`
	Host string `json:"host"`
}

var errNoArchivist = fmt.Errorf("exports are not carried out here: %w", catalog.ErrConflict)

// ExportTenant writes a tenant's rows to w while it is served. When it fails what was written is no export, and is not
// taken for one.
func (s *Service) ExportTenant(ctx context.Context, ref string, spec ExportSpec, w io.Writer) error {
	archivist, ok := s.queue.(Archivist)
	if !ok {
		return errNoArchivist
	}
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return err
	}
	switch t.State {
	case catalog.StateActive, catalog.StateSuspended, catalog.StateReadOnly, catalog.StateMaintenance:
	default:
		return fmt.Errorf("tenant %q is %s: %w", t.Name, t.State, catalog.ErrConflict)
	}
	event := catalog.Event{Action: "tenant.export", Target: t.Ref(), Actor: actorOf(ctx), Detail: map[string]any{"credentials": spec.WithCredentials}}
	if err := s.catalog.Update(ctx, event, func(*catalog.Tx) error { return nil }); err != nil {
		return err
	}
	return archivist.Export(ctx, t, spec, w)
}

// ImportTenant begins to make a tenant of an export. Nothing is made unless all of the export was received and is whole.
func (s *Service) ImportTenant(ctx context.Context, spec ImportSpec, r io.Reader) (*catalog.Operation, error) {
	archivist, ok := s.queue.(Archivist)
	if !ok {
		return nil, errNoArchivist
	}
	if spec.Name != "" { // what is wrong with the rest is found before a large file is sent
		if err := CheckName(spec.Name); err != nil {
			return nil, err
		}
	}
	archive, err := archivist.Receive(ctx, r)
	if err != nil {
		return nil, err
	}
	op, err := s.importTenant(ctx, spec, archive)
	if err != nil {
		archivist.Discard(archive)
	}
	return op, err
}

func (s *Service) importTenant(ctx context.Context, spec ImportSpec, archive *Archive) (*catalog.Operation, error) {
	if spec.Name == "" {
		spec.Name = archive.Name
	}
	if spec.Placement == "" {
		spec.Placement = archive.Placement
	}
	if err := CheckName(spec.Name); err != nil {
		return nil, err
	}
	place, err := s.provisionArgs(ctx, spec.TenantSpec)
	if err != nil {
		return nil, err
	}
	args, err := json.Marshal(ImportArgs{place, archive.File, archive.Host})
	if err != nil {
		return nil, err
	}
	t := catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: spec.Name, Edition: spec.Edition, Gated: true}
	if spec.KeepID {
		t.ID = archive.Tenant
	}
	op := &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: KindImport, Tenant: t.ID, Args: args, Steps: ImportSteps}
	event := catalog.Event{
		Action: "tenant.import", Operation: op.ID, Target: catalog.Ref{Kind: "tenant", ID: [16]byte(t.ID), Name: t.Name},
		Actor: actorOf(ctx), Detail: map[string]any{"placement": place.Placement, "from": archive.Tenant.String()},
	}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.ReviveTenant(ctx, t); err != nil {
			return err
		}
		for key, value := range archive.Settings {
			if CheckSetting(key, value) != nil || !Portable(key) {
				continue // a setting of another program
			}
			if err := tx.SetSetting(ctx, t.ID, key, value); err != nil {
				return err
			}
		}
		_, err := s.begin(ctx, tx, op)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Operation(ctx, op.ID)
}

// Portable says that a setting of a tenant may leave the catalog with it: it is known and no secret.
func Portable(key string) bool {
	s, ok := settings[key]
	return ok && !s.secret
}
