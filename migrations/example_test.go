package migrations_test

import (
	"fmt"
	"testing/fstest"

	"github.com/rowhouse/rowhouse/migrations"
)

// What would go wrong on the server is found in the text where it can be: all of it at once, with file and line.
func ExampleLint() {
	problems, _ := migrations.Lint(fstest.MapFS{
		"000001_projects.up.sql": {Data: []byte("begin;\ncreate table projects (id uuid primary key);\ncommit;")},
		"000002-tasks.up.sql":    {Data: []byte("create table tasks (id uuid primary key);")},
	})
	for _, p := range problems {
		fmt.Printf("%s:%d: %s\n", p.File, p.Line, p.Rule)
	}
	// Output:
	// 000001_projects.up.sql:1: transaction
	// 000001_projects.up.sql:3: transaction
	// 000002-tasks.up.sql:0: name
}
