package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type exportTenantInput struct {
	Ref             string `path:"ref" maxLength:"64" doc:"Name or id"`
	WithCredentials bool   `query:"with_credentials" doc:"Add the hashes of passwords"`
}

// importTenantInput takes the body as it comes: it is too large to be held.
type importTenantInput struct {
	Name      string `query:"name" maxLength:"200" doc:"The name that was exported without one"`
	Placement string `query:"placement" enum:"shared,dedicated" doc:"As it was without one"`
	Server    string `query:"server" maxLength:"64"`
	Database  string `query:"database" maxLength:"36"`
	Edition   string `query:"edition" maxLength:"64"`
	KeepID    bool   `query:"keep_id" doc:"Give it the id that it had; a tenant of that id must be deleted or unknown here"`

	body io.Reader
}

// Resolve is huma's to call.
func (in *importTenantInput) Resolve(hc huma.Context) []error {
	_ = hc.SetReadDeadline(time.Time{}) // the listener's own is for requests that fit in memory
	in.body = hc.BodyReader()
	return nil
}

func (s *service) registerExports() {
	const tag = "Tenants"
	add(s, route{"export-tenant", tag, "Export a tenant's rows as they are at one moment", http.MethodGet, "/tenants/{ref}/export", tenants.PermitDataCross, 0},
		func(ctx context.Context, in *exportTenantInput) (*huma.StreamResponse, error) {
			if _, err := s.operator.Tenant(ctx, in.Ref); err != nil {
				return nil, err
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) { s.export(hc, in) }}, nil
		})
	content := s.api.OpenAPI().Paths[basePath+"/tenants/{ref}/export"].Get.Responses["200"]
	content.Description = "The export. One that ends early is cut off and holds no manifest"
	content.Content = map[string]*huma.MediaType{"application/zip": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}

	add(s, route{"import-tenant", tag, "Make a tenant of an export", http.MethodPost, "/imports", tenants.PermitTenantsCreate, http.StatusAccepted},
		func(ctx context.Context, in *importTenantInput) (*operationOutput, error) {
			return accepted(s.operator.ImportTenant(ctx, tenants.ImportSpec{
				TenantSpec: tenants.TenantSpec{Name: in.Name, Placement: catalog.Placement(in.Placement), Server: in.Server, Database: in.Database, Edition: in.Edition},
				KeepID:     in.KeepID,
			}, in.body))
		})
	s.api.OpenAPI().Paths[basePath+"/imports"].Post.RequestBody = &huma.RequestBody{
		Required: true, Content: map[string]*huma.MediaType{"application/zip": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
	}
}

// export streams. What goes wrong before the first byte is a problem like any other; later only the connection can be broken
// off, and what was sent holds no manifest.
func (s *service) export(hc huma.Context, in *exportTenantInput) {
	w := &lateWriter{hc: hc}
	err := s.operator.ExportTenant(hc.Context(), in.Ref, tenants.ExportSpec{WithCredentials: in.WithCredentials}, w)
	switch {
	case err == nil:
	case !w.began:
		s.refuse(hc, err)
	default:
		if !errors.Is(err, context.Canceled) {
			s.cfg.Logger.Error("export was broken off", "request_id", requestID(hc.Context()), "error", err)
		}
		panic(http.ErrAbortHandler)
	}
}

// lateWriter says what comes when it comes.
type lateWriter struct {
	hc    huma.Context
	began bool
}

func (w *lateWriter) Write(p []byte) (int, error) {
	if !w.began {
		w.began = true
		w.hc.SetHeader("Content-Type", "application/zip")
		w.hc.SetStatus(http.StatusOK)
	}
	return w.hc.BodyWriter().Write(p)
}
