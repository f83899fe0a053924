package admin

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// docsView is the API's description as the page shows it.
type docsView struct {
	pageView
	Title, Description string
	Tags               []*docsTag
}

type docsTag struct {
	Name   string
	Routes []docsRoute
}

type docsRoute struct {
	Method, Path, Summary, Permission, Status string
	Takes                                     []string
}

// docsPage is a page about the API that needs nothing from elsewhere. It is made once.
func docsPage(api *huma.OpenAPI) (http.Handler, error) {
	view := docsView{pageView: pageView{Style: style}, Title: api.Info.Title, Description: api.Info.Description}
	tags := map[string]*docsTag{}
	for _, path := range slices.Sorted(maps.Keys(api.Paths)) {
		item := api.Paths[path]
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
			if op == nil {
				continue
			}
			name := op.Tags[0]
			if tags[name] == nil {
				tags[name] = &docsTag{Name: name}
				view.Tags = append(view.Tags, tags[name])
			}
			tags[name].Routes = append(tags[name].Routes, docsRouteOf(api, path, op))
		}
	}
	var text bytes.Buffer
	if err := pages.ExecuteTemplate(&text, "docs", view); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setPageHeaders(w.Header())
		static("text/html; charset=utf-8", text.Bytes()).ServeHTTP(w, r)
	}), nil
}

func docsRouteOf(api *huma.OpenAPI, path string, op *huma.Operation) docsRoute {
	of, _ := op.Metadata[routeKey].(route)
	route := docsRoute{Method: op.Method, Path: path, Summary: op.Summary, Permission: of.permission}
	for _, p := range op.Parameters {
		if p.In == "query" {
			route.Takes = append(route.Takes, "?"+p.Name)
		}
	}
	if op.RequestBody != nil && op.RequestBody.Content["application/json"] != nil {
		schema := op.RequestBody.Content["application/json"].Schema
		if schema.Ref != "" {
			schema = api.Components.Schemas.SchemaFromRef(schema.Ref)
		}
		for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
			if slices.Contains(schema.Required, name) {
				name += "*"
			}
			route.Takes = append(route.Takes, name)
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		if strings.HasPrefix(status, "2") {
			route.Status = status
		}
	}
	return route
}
