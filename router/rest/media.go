package rest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// A media is a representation that an answer can have.
type media struct {
	contentType string
	single      bool // the object instead of the array
	strip       bool // without nulls
	csv         bool
	geo         bool
	handler     *schema.Handler
	plan        *planMedia // how the statement would run, instead of what it answers
}

// A planMedia is how a plan is wanted.
type planMedia struct {
	json    bool
	options []string
}

var jsonMedia = media{contentType: "application/json; charset=utf-8"}

// negotiate takes the first accepted type that there is a representation for.
// Of is the relation that is read, or the function when its result is no relation's.
func (x *exchange) negotiate(s *schema.Schema, of schema.Name) (media, error) {
	types := parse.ReadAccept(x.r.Header.Values("Accept"))
	if len(types) == 0 {
		types = []parse.Media{{Type: "*/*", Text: "*/*"}}
	}
	texts := make([]string, 0, len(types))
	for _, t := range types {
		if m, ok := x.media(s, of, t); ok {
			return m, nil
		}
		texts = append(texts, t.Text)
	}
	return media{}, problem("PGRST107", "None of these media types are available: "+strings.Join(texts, ", "))
}

func (x *exchange) media(s *schema.Schema, of schema.Name, t parse.Media) (media, bool) {
	if m, ok := x.handled(s, of, t.Type); ok {
		return m, true
	}
	strip := t.Param("nulls") == "stripped"
	switch t.Type {
	case "application/json", "*/*":
		return jsonMedia, true
	case "application/vnd.pgrst.object+json", "application/vnd.pgrst.object":
		if strip {
			return media{contentType: "application/vnd.pgrst.object+json;nulls=stripped; charset=utf-8", single: true, strip: true}, true
		}
		return media{contentType: "application/vnd.pgrst.object+json; charset=utf-8", single: true}, true
	case "application/vnd.pgrst.array+json", "application/vnd.pgrst.array":
		if strip {
			return media{contentType: "application/vnd.pgrst.array+json;nulls=stripped; charset=utf-8", strip: true}, true
		}
		return jsonMedia, true
	case "text/csv":
		return media{contentType: "text/csv; charset=utf-8", csv: true}, true
	case "application/geo+json":
		return media{contentType: "application/geo+json; charset=utf-8", geo: true}, s.GeoJSON
	case "application/vnd.pgrst.plan", "application/vnd.pgrst.plan+text", "application/vnd.pgrst.plan+json":
		return x.planMedia(s, of, t)
	}
	return media{}, false
}

// handled is a media type that the database makes itself. What is made for one relation is made of its whole rows.
func (x *exchange) handled(s *schema.Schema, of schema.Name, typ string) (media, bool) {
	if strings.HasPrefix(typ, "application/vnd.pgrst.") {
		return media{}, false
	}
	var h *schema.Handler
	if x.query.Select == nil {
		if h = s.Handler(of, "*/*"); h != nil {
			typ = "*/*"
		} else {
			h = s.Handler(of, typ)
		}
	}
	if h == nil {
		h = s.Handler(schema.Name{}, typ)
	}
	switch typ {
	case "*/*":
		typ = "application/octet-stream"
	case "application/json", "application/geo+json", "application/openapi+json", "text/csv", "text/plain", "text/xml": // known to be text
		typ += "; charset=utf-8"
	}
	return media{contentType: typ, handler: h}, h != nil
}

// planMedia is the plan of what another media type would take.
func (x *exchange) planMedia(s *schema.Schema, of schema.Name, t parse.Media) (media, bool) {
	if !x.options.Plan {
		return media{}, false
	}
	inside := jsonMedia
	if wanted := t.Param("for"); wanted != "" {
		inner := parse.ReadAccept([]string{wanted})
		if len(inner) != 1 || strings.HasPrefix(inner[0].Type, "application/vnd.pgrst.plan") {
			return media{}, false
		}
		var ok bool
		if inside, ok = x.media(s, of, inner[0]); !ok {
			return media{}, false
		}
	}
	m := inside
	m.plan = &planMedia{json: t.Type == "application/vnd.pgrst.plan+json"}
	m.contentType = "application/vnd.pgrst.plan+text"
	if m.plan.json {
		m.contentType = "application/vnd.pgrst.plan+json"
	}
	m.contentType += fmt.Sprintf("; for=%q", strings.TrimSuffix(inside.contentType, "; charset=utf-8"))
	wanted := strings.Split(t.Param("options"), "|")
	for _, option := range sqlgen.PlanOptions {
		if slices.Contains(wanted, option) {
			m.plan.options = append(m.plan.options, option)
		}
	}
	if len(m.plan.options) > 0 {
		m.contentType += "; options=" + strings.Join(m.plan.options, "|")
	}
	m.contentType += "; charset=utf-8"
	return m, true
}

// form is what the statement has to make of its rows for the media type.
func (x *exchange) form(m media, body bool) sqlgen.Form {
	return sqlgen.Form{Body: body, Single: m.single, Strip: m.strip, CSV: m.csv, Geo: m.geo, Handler: m.handler, Count: x.prefer.Count != ""}
}
