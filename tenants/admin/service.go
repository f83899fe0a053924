package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Where the API stands.
const (
	basePath       = "/admin/v1"
	operationsPath = basePath + "/operations"
)

// service is an Operator behind HTTP.
type service struct {
	operator Backend
	cfg      Config
	api      huma.API
	brake    *brake
	refusals *brake
}

// describe says what huma makes of the API. Its own pages load things from elsewhere and its schema links would take the
// Link header, so both are off.
func describe() huma.Config {
	cfg := huma.DefaultConfig("rowhouse operators", "1")
	cfg.Info.Description = "The control plane of a rowhouse: tenants, the servers they live on, and the durable work on them."
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", "", nil
	cfg.RejectUnknownQueryParameters = true
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"operator": {Type: "http", Scheme: "bearer", BearerFormat: "rhop_…", Description: "An operator's token"},
	}
	cfg.Security = []map[string][]string{{"operator": {}}}
	return cfg
}

func (s *service) register() {
	s.api.UseMiddleware(s.authorize)
	s.registerTenants()
	s.registerLife()
	s.registerTrail()
	s.registerPlan()
	s.registerMoves()
	s.registerServers()
	s.registerOperations()
	s.registerSettings()
	s.registerTokens()
	s.registerDatabases()
	s.registerAudit()
	s.registerStats()
	s.registerRollouts()
}

// route is one route of the API.
type route struct {
	id, tag, summary string
	method, path     string
	permission       string
	status           int // of success; 0 means 200
}

// add mounts a route. What its function answers with as an error becomes a problem.
func add[In, Out any](s *service, r route, fn func(ctx context.Context, in *In) (*Out, error)) {
	if r.permission == "" {
		panic("route " + r.id + " names no permission")
	}
	op := huma.Operation{
		OperationID: r.id, Method: r.method, Path: basePath + r.path, Summary: r.summary, Tags: []string{r.tag},
		Description: "Needs the permission `" + r.permission + "`.", DefaultStatus: r.status,
		Metadata: map[string]any{routeKey: r}, Extensions: map[string]any{"x-permission": r.permission},
		Parameters: r.parameters(),
	}
	huma.Register(s.api, op, func(ctx context.Context, in *In) (*Out, error) {
		out, err := answer(ctx, s, r, in, fn)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return out, nil
	})
	if r.method == http.MethodGet { // afterwards: huma describes no errors where there is more than one response
		s.api.OpenAPI().Paths[op.Path].Get.Responses["304"] = &huma.Response{Description: "It still is what If-None-Match names"}
	}
}

// answer is what every route has around its own work: validators of what it shows, conditions for what it changes, and a
// key under which it is carried out once.
func answer[In, Out any](ctx context.Context, s *service, r route, in *In, fn func(ctx context.Context, in *In) (*Out, error)) (*Out, error) {
	c := callerFrom(ctx)
	if r.method == http.MethodGet {
		out, err := fn(ctx, in)
		if err != nil {
			return nil, err
		}
		if body := bodyIn(out); body != nil {
			etag := etagOf(body)
			c.setHeader("ETag", etag)
			if c.ifNoneMatch != "" && matches(c.ifNoneMatch, etag, true) {
				return nil, newProblem(http.StatusNotModified, "", "")
			}
		}
		return out, nil
	}
	if c.ifMatch != "" {
		var err error
		if ctx, err = s.expect(ctx, r, refIn(in), c.ifMatch); err != nil {
			return nil, err
		}
	}
	if c.key != "" && r.method == http.MethodPost {
		return once(ctx, s, c, r, in, fn)
	}
	return fn(ctx, in)
}

// refIn is what an input's path names, or empty.
func refIn(in any) string {
	v := reflect.Indirect(reflect.ValueOf(in))
	for _, field := range reflect.VisibleFields(v.Type()) {
		if name := field.Tag.Get("path"); name == "ref" || name == "id" {
			return fmt.Sprint(v.FieldByIndex(field.Index).Interface())
		}
	}
	return ""
}

// parameters are the headers that the route understands besides its own.
func (r route) parameters() []*huma.Param {
	text := &huma.Schema{Type: huma.TypeString}
	var found []*huma.Param
	if r.method == http.MethodPost {
		found = append(found, &huma.Param{
			Name: "Idempotency-Key", In: "header", Schema: text,
			Description: "1 to 255 printable ASCII characters, chosen by the client: the same request with the same key is carried out once and answered the same for 24 hours",
		})
	}
	if r.method != http.MethodGet && entityOf(r.path) != "" {
		found = append(found, &huma.Param{Name: "If-Match", In: "header", Schema: text, Description: "The ETag that was read: 412 when it has changed since"})
	}
	if r.method == http.MethodGet {
		found = append(found, &huma.Param{Name: "If-None-Match", In: "header", Schema: text, Description: "The ETag that is known: 304 when it still holds"})
	}
	return found
}

// description is the API's OpenAPI document. The verbs of operations stand in it as clients write them.
func (s *service) description() ([]byte, error) {
	loosen(s.api.OpenAPI().Components.Schemas)
	paths := s.api.OpenAPI().Paths
	for path, item := range paths {
		if spelled := strings.ReplaceAll(path, `/\:`, ":"); spelled != path {
			delete(paths, path)
			paths[spelled] = item
		}
	}
	text, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return nil, err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return nil, err
	}
	indented.WriteByte('\n')
	return indented.Bytes(), nil
}

// loosen makes the schemas of answers say what holds: they may grow, and a field that is left out when it is zero, which
// huma does not know of, is not always there.
func loosen(schemas huma.Registry) {
	for name, schema := range schemas.Map() {
		if strings.HasSuffix(name, "InputBody") {
			continue
		}
		schema.AdditionalProperties = nil
		for _, field := range reflect.VisibleFields(schemas.TypeFromRef("#/components/schemas/" + name)) {
			key, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			if strings.Contains(options, "omitzero") {
				schema.Required = slices.DeleteFunc(schema.Required, func(required string) bool { return required == key })
			}
		}
	}
}

// static serves one text.
func static(contentType string, text []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text) // a client that left is told nothing
	})
}
