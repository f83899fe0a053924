package rest_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/router/rest"
)

// noise gives a second tenant everything the first one has, under the same keys and names, and more.
const noise = `
insert into projects (tenant_id, id, name, status) select '` + globex + `', id, name, status from projects where tenant_id = '` + acme + `' on conflict do nothing;
insert into tasks (tenant_id, id, project_id, title) select '` + globex + `', id, project_id, title from tasks where tenant_id = '` + acme + `' on conflict do nothing;
insert into projects (tenant_id, name) select '` + globex + `', 'noise ' || i from generate_series(1, 300) i;
insert into tasks (tenant_id, project_id, title) select '` + globex + `', p.id, 'noise of ' || p.name from projects p where p.tenant_id = '` + globex + `';
`

// What every golden file asks, and what is asked here besides, is asked of a tenant that shares its database and of
// one that has it alone. They must not be able to tell.
func TestShared_equals_dedicated(t *testing.T) {
	t.Parallel()
	shared, dedicated := database(t), database(t)
	execSQL(t, shared, noise+"analyze")
	execSQL(t, dedicated, "delete from tasks where tenant_id <> '"+acme+"'; delete from projects where tenant_id <> '"+acme+"'; analyze")
	options := rest.Options{Role: "authenticated", AnonRole: "anon", Tenant: acme, Claims: []byte(`{"role":"authenticated","sub":"u1"}`), Schemas: []string{"public", "other"}}
	handler := func(dsn string) *rest.Handler {
		return rest.New(fast{slow{scope{pool: pool(t, dsn, 1, nil), role: "authenticated", tenant: acme}}}, rest.Config{Options: options})
	}
	one, other := handler(shared.DSN()), handler(dedicated.DSN())

	corpus := []string{
		"GET /projects?order=name", "GET /projects?order=name&limit=1&offset=1\nPrefer: count=exact", "HEAD /tasks\nPrefer: count=exact",
		"GET /projects?select=name,tasks(title)&order=name&tasks.order=title", "GET /tasks?select=title,projects!inner(name)&order=title",
		"GET /projects?select=status,count(),name.max()&order=status", "GET /projects?select=name,...tasks(titles:title)&order=name&tasks.order=title",
		"GET /projects?select=name,tasks()&tasks=is.null\nPrefer: count=exact", "GET /tasks?select=title&order=projects(name).desc,title&select=title,projects()",
		"GET /projects?select=name,open_tasks(title)&order=name&open_tasks.order=title", "GET /rpc/my_projects?order=name&select=name,tasks(title)&tasks.order=title",
		"GET /rpc/my_projects?select=count()", "GET /project_names?select=name,tasks(title)&order=name&tasks.order=title", "GET /active_projects?select=name",
		"GET /projects?name=eq.noise 1", "GET /projects?id=eq.00000000-0000-0000-0000-0000000000b1\nAccept: application/vnd.pgrst.object",
		"POST /projects\nPrefer: return=representation\n\n{\"id\":\"00000000-0000-0000-0000-0000000000b1\",\"name\":\"noise 1\"}",
		"POST /projects?on_conflict=name\nPrefer: resolution=merge-duplicates, return=representation\n\n[{\"name\":\"noise 1\",\"status\":\"mine\"},{\"name\":\"noise 2\"}]",
		"POST /projects\nPrefer: return=headers-only\n\n{\"id\":\"00000000-0000-0000-0000-0000000000b7\",\"name\":\"seventh\"}",
		"POST /projects\n\n{\"name\":\"noise 2\"}", "PUT /projects?id=eq.00000000-0000-0000-0000-0000000000b8\nPrefer: return=representation\n\n{\"id\":\"00000000-0000-0000-0000-0000000000b8\",\"name\":\"eighth\"}",
		"POST /tasks\n\n{\"title\":\"t\",\"project_id\":\"00000000-0000-0000-0000-0000000000b2\"}", // the other tenant's
		"PATCH /projects?order=name&select=name,status\nPrefer: return=representation, count=exact\n\n{\"status\":\"all\"}",
		"PATCH /projects?id=eq.00000000-0000-0000-0000-0000000000b2\nPrefer: return=representation\n\n{\"status\":\"stolen\"}",
		"PATCH /projects?name=eq.seventh\n\n{\"tenant_id\":\"" + globex + "\"}",
		"DELETE /tasks?select=title&order=title\nPrefer: return=representation, count=exact", "DELETE /projects\nPrefer: count=exact, handling=strict, max-affected=3",
		"DELETE /projects\nPrefer: count=exact", "GET /projects", "GET /projects?select=nosuch(id)", "GET /project", "GET /projects?nosuch=eq.1", "GET /",
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, c := range readGolden(t, file) {
			if !strings.Contains(c.request, "count=planned") && !strings.Contains(c.request, "count=estimated") { // these estimate over all tenants
				corpus = append(corpus, c.request)
			}
		}
	}
	random := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`) // ids that were just made
	for _, section := range corpus {
		got, want := play(t, one, section), play(t, other, section)
		if diff := cmp.Diff(random.ReplaceAllString(want, "made"), random.ReplaceAllString(got, "made")); diff != "" {
			t.Errorf("%s (-dedicated +shared):\n%s", section, diff)
		}
		if strings.Contains(got, "noise of") || strings.Contains(got, globex) && !strings.Contains(section, globex) {
			t.Errorf("%s: something of the other tenant's in %s", section, got)
		}
	}
	if left := count(t, shared, "select count(*)::int from projects where tenant_id = '"+globex+"' and status <> 'all' and status <> 'stolen'"); left != 304 {
		t.Errorf("the other tenant has %d rows as they were, want 304", left)
	}
	t.Logf("%d requests", len(corpus))
}
