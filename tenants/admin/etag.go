package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
)

// etagOf is a strong validator of what a body shows. It is empty for what is no JSON.
func etagOf(body any) string {
	text, err := json.Marshal(body)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

// bodyIn is the Body of an output, or nil where there is none.
func bodyIn(out any) any {
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	field := v.Elem().FieldByName("Body")
	if !field.IsValid() || field.Kind() == reflect.Func {
		return nil
	}
	return field.Interface()
}

// matches says whether a list of validators, as If-Match and If-None-Match have it, names etag. A weak one matches only
// where weak is good enough: before a change it is not.
func matches(header, etag string, weak bool) bool {
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if weak {
			tag = strings.TrimPrefix(tag, "W/")
		}
		if tag == "*" || tag == etag {
			return true
		}
	}
	return false
}

// entities are the paths of what a client can read, change and find changed, and what stands there.
var entities = []struct{ prefix, kind string }{
	{"/tenants/", "tenant"},
	{"/servers/", "server"},
	{"/databases/", "database"},
	{"/operations/", "operation"},
}

// entityOf is what a route's path is about: of /tenants/{ref}/suspend the tenant.
func entityOf(path string) string {
	for _, e := range entities {
		if strings.HasPrefix(path, e.prefix+"{") {
			return e.kind
		}
	}
	return ""
}

// expect makes the change that follows depend on If-Match: the row is looked at in the change's own transaction.
func (s *service) expect(ctx context.Context, r route, ref, ifMatch string) (context.Context, error) {
	kind := entityOf(r.path)
	if kind == "" {
		return nil, newProblem(http.StatusPreconditionFailed, "", "There is nothing here that If-Match could be about")
	}
	var id string
	var err error
	switch kind {
	case "tenant":
		var t *catalog.Tenant
		if t, err = s.operator.Tenant(ctx, ref); err == nil {
			id = t.ID.String()
		}
	case "server":
		var server *catalog.Server
		if server, err = s.operator.Server(ctx, ref); err == nil {
			id = server.ID.String()
		}
	default:
		id = ref
	}
	if err != nil {
		return nil, err
	}
	return catalog.Expect(ctx, kind, id, func(row any) bool {
		if op, ok := row.(*catalog.Operation); ok {
			row = bodyOf(op)
		}
		return matches(ifMatch, etagOf(row), false)
	}), nil
}
