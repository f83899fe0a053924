// Command clients asks a tenant by postgrest-go what a program written for one PostgREST would, and fails if an answer is not what
// that program expects. It is a module of its own so that rowhouse does not need the client.
//
// Environment: URL (of the data plane), TENANT, TOKEN.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/supabase-community/postgrest-go"
)

type project struct {
	Name   string  `json:"name"`
	Budget float64 `json:"budget,omitempty"`
	Tasks  []task  `json:"tasks,omitempty"`
}

type task struct {
	Title string `json:"title"`
}

func main() {
	tenant := os.Getenv("TENANT")
	db := postgrest.NewClient(os.Getenv("URL")+"/rest/v1", "public", map[string]string{"X-Tenant": tenant}).SetAuthToken(os.Getenv("TOKEN"))
	ascending := &postgrest.OrderOpts{Ascending: true}
	must := func(what string, ok bool, got ...any) {
		if !ok {
			fmt.Fprintln(os.Stderr, append([]any{what, "got"}, got...)...)
			os.Exit(1)
		}
	}
	all := func(q *postgrest.FilterBuilder) (found []project, count int64) {
		count, err := q.ExecuteTo(&found)
		must("no error", err == nil, err)
		return found, count
	}

	found, count := all(db.From("projects").Select("name, budget", "exact", false).Order("name", ascending))
	must("three projects, counted", len(found) == 3 && count == 3, found, count)
	for _, p := range found {
		must("its own projects", strings.HasPrefix(p.Name, tenant+" "), p.Name)
	}
	found, count = all(db.From("projects").Select("name", "exact", false).Order("name", ascending).Range(1, 1, ""))
	must("a page", len(found) == 1 && count == 3, found, count)
	found, _ = all(db.From("projects").Select("name", "", false).In("name", []string{tenant + " Website", `no,"body"`}))
	must("one of a list", len(found) == 1, found)
	found, _ = all(db.From("projects").Select("name", "", false).Or("status.eq.planned,budget.gt.1000000", ""))
	must("either", len(found) == 1, found)
	found, _ = all(db.From("projects").Select("name,tasks(title)", "", false).Eq("name", tenant+" Website").Limit(1, "tasks"))
	must("embedded rows, one each", len(found) == 1 && len(found[0].Tasks) == 1, found)
	_, count, err := db.From("projects").Select("*", "exact", true).Execute()
	must("a count without rows", err == nil && count == 3, count, err)

	text, _, err := db.From("projects").Insert(project{Name: "by Go", Budget: 5}, false, "", "representation", "").Single().Execute()
	var made project
	must("the row that was made", err == nil && json.Unmarshal(text, &made) == nil && made.Name == "by Go", string(text), err)
	found, _ = all(db.From("projects").Update(map[string]any{"budget": 7}, "representation", "").Eq("name", "by Go"))
	must("the row that was changed", len(found) == 1 && found[0].Budget == 7, found)
	_, count, err = db.From("projects").Delete("", "exact").Eq("name", "by Go").Execute()
	must("one row taken away", err == nil && count == 1, count, err)

	_, _, err = db.From("projects").Select("name", "", false).Single().Execute()
	must("not exactly one", err != nil && strings.Contains(err.Error(), "PGRST116"), err)
	_, _, err = db.From("projcts").Select("", "", false).Execute()
	must("no such table", err != nil && strings.Contains(err.Error(), "PGRST205"), err)
}
