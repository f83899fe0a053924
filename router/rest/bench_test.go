package rest_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/rowhouse/rowhouse/router/rest"
)

// discard takes an answer and keeps its status.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkGetByKey compares a read of one row with a bare handler that runs the same SELECT over a pgxpool:
// no transaction, no role, no tenant, no settings, no parsing.
func BenchmarkGetByKey(b *testing.B) {
	db := database(b)
	const key = "00000000-0000-0000-0000-0000000000a1"
	const sql = `SELECT coalesce(json_agg(_t.*), '[]') FROM (SELECT "projects".* FROM "public"."projects"
		WHERE "projects"."tenant_id" = $1 AND ("projects"."id" = $2) LIMIT $3) _t`
	bare := pool(b, db.DSN(), 4, nil)
	handlers := []struct {
		name string
		h    http.Handler
	}{
		{"bare", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var body []byte
			if err := bare.QueryRow(r.Context(), sql, acme, key, 1000).Scan(&body); err != nil {
				b.Error(err)
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body)
		})},
		{"flight", rest.New(fast{slow{scope{pool: pool(b, db.DSN(), 4, nil), role: "authenticated", tenant: acme}}},
			rest.Config{Options: rest.Options{Role: "authenticated", Tenant: acme}})},
		{"stepwise", rest.New(slow{scope{pool: pool(b, db.DSN(), 4, nil), role: "authenticated", tenant: acme}},
			rest.Config{Options: rest.Options{Role: "authenticated", Tenant: acme}})},
	}
	for _, c := range handlers {
		b.Run(c.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/rest/v1/projects?id=eq."+key, nil)
			r.Header.Set("Accept", "application/json")
			b.ReportAllocs()
			for b.Loop() {
				w := &discard{header: http.Header{}, status: 200}
				if c.h.ServeHTTP(w, r); w.status != 200 {
					b.Fatal(w.status)
				}
			}
		})
	}
}
