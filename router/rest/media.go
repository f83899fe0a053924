package rest

import (
	"strings"

	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
)

// A media is a representation that an answer can have.
type media struct {
	contentType string
	single      bool // the object instead of the array
	strip       bool // without nulls
}

var jsonMedia = media{contentType: "application/json; charset=utf-8"}

// negotiate takes the first accepted type that there is a representation for.
func negotiate(accept []string) (media, error) {
	types := parse.ReadAccept(accept)
	if len(types) == 0 {
		return jsonMedia, nil
	}
	texts := make([]string, 0, len(types))
	for _, t := range types {
		strip := t.Param("nulls") == "stripped"
		switch t.Type {
		case "application/json", "*/*":
			return jsonMedia, nil
		case "application/vnd.pgrst.object+json", "application/vnd.pgrst.object":
			if strip {
				return media{contentType: "application/vnd.pgrst.object+json;nulls=stripped; charset=utf-8", single: true, strip: true}, nil
			}
			return media{contentType: "application/vnd.pgrst.object+json; charset=utf-8", single: true}, nil
		case "application/vnd.pgrst.array+json", "application/vnd.pgrst.array":
			if strip {
				return media{contentType: "application/vnd.pgrst.array+json;nulls=stripped; charset=utf-8", strip: true}, nil
			}
			return jsonMedia, nil
		}
		texts = append(texts, t.Text)
	}
	return media{}, problem("PGRST107", "None of these media types are available: "+strings.Join(texts, ", "))
}
