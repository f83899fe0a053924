package rest_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/router/rest"
)

var update = flag.Bool("update", false, "write the golden files anew from what happens")

// A golden case is three sections: what is asked, the SQL that runs, what is answered.
type goldenCase struct {
	title, request, sql, response string
}

func readGolden(t *testing.T, file string) []goldenCase {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []goldenCase
	var into *string
	for line := range strings.SplitAfterSeq(string(raw), "\n") {
		name, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "-- ")
		name, closed := strings.CutSuffix(name, " --")
		switch {
		case ok && closed && strings.HasPrefix(name, "request"):
			cases = append(cases, goldenCase{title: strings.TrimSpace(strings.TrimPrefix(name, "request"))})
			into = &cases[len(cases)-1].request
		case ok && closed && name == "sql":
			into = &cases[len(cases)-1].sql
		case ok && closed && name == "response":
			into = &cases[len(cases)-1].response
		case into != nil:
			*into += line
		}
	}
	return cases
}

func writeGolden(t *testing.T, file string, cases []goldenCase) {
	t.Helper()
	var b strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&b, "-- request %s --\n%s-- sql --\n%s-- response --\n%s", c.title, c.request, c.sql, c.response)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// play asks what a section says: request line, headers, an empty line, the body.
func play(t *testing.T, h http.Handler, section string) string {
	t.Helper()
	head, body, _ := strings.Cut(strings.TrimRight(section, "\n"), "\n\n")
	lines := strings.Split(head, "\n")
	res := do(t, h, lines[0], lines[1:], body)
	var out []string
	for name, values := range res.Header {
		for _, v := range values {
			out = append(out, name+": "+v)
		}
	}
	slices.Sort(out)
	return fmt.Sprintf("%d\n%s\n\n%s\n", res.StatusCode, strings.Join(out, "\n"), bodyOf(t, res))
}

// TestGolden plays every file through both doors, each on a database of its own. The answers must be the same.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			sql := &spy{}
			// One connection each: what one request leaves behind would show in the next.
			step := slow{scope{pool: pool(t, database(t).DSN(), 1, sql), role: "authenticated", tenant: acme}}
			flow := fast{slow{scope{pool: pool(t, database(t).DSN(), 1, nil), role: "authenticated", tenant: acme}}}
			options := rest.Options{Role: "authenticated", AnonRole: "anon", Tenant: acme, Claims: []byte(`{"role":"authenticated","sub":"u1"}`)}
			if strings.HasPrefix(filepath.Base(file), "two_schemas") {
				options.Schemas = []string{"public", "other"}
			}
			slowly, fastly := rest.New(step, rest.Config{Options: options}), rest.New(flow, rest.Config{Options: options})
			cases := readGolden(t, file)
			for i := range cases {
				c := &cases[i]
				sql.take()
				response := play(t, slowly, c.request)
				text := strings.Join(append(sql.take(), ""), "\n")
				if diff := cmp.Diff(response, play(t, fastly, c.request)); diff != "" {
					t.Errorf("%s: the doors differ (-one by one +one flight):\n%s", c.title, diff)
				}
				if *update {
					c.sql, c.response = text, response
					continue
				}
				if diff := cmp.Diff(c.sql, text); diff != "" {
					t.Errorf("%s: SQL (-want +got):\n%s", c.title, diff)
				}
				if diff := cmp.Diff(c.response, response); diff != "" {
					t.Errorf("%s: response (-want +got):\n%s", c.title, diff)
				}
			}
			if *update {
				writeGolden(t, file, cases)
			}
		})
	}
}
