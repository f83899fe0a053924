package lint_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/migrations/internal/lint"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, text string
		want       []string
	}{
		{"semicolons", "a;b ; ;c", []string{"a", "b", "c"}},
		{"comments", "a -- ;\n; /* ; /* ; */ ; */ b", []string{"a", "b"}},
		{"strings", `select 'a;''b;' ; e'\';' ; E'\\' ; U&'\;' ; B'1;' ; "x;"";"`, []string{`select 'a;''b;'`, `e'\';'`, `E'\\'`, `U&'\;'`, `B'1;'`, `"x;"";"`}},
		{"a backslash in a plain string is a backslash", `'\';b`, []string{`'\'`, "b"}},
		{"dollar quotes", "$$ ; $$;$a$ ; $$ ; $b$ $a$;x$$y;$1;z", []string{"$$ ; $$", "$a$ ; $$ ; $b$ $a$", "x$$y", "$1", "z"}},
		{"a dollar in a name opens nothing", "a$b$ ; c", []string{"a$b$", "c"}},
		{"parentheses, as in rules", "create rule r as on insert to t do also (a; b); c", []string{"create rule r as on insert to t do also (a; b)", "c"}},
		{
			"begin atomic", "create function f() returns int begin atomic select case 1 when 1 then 2 end; select 2; end; b",
			[]string{"create function f() returns int begin atomic select case 1 when 1 then 2 end; select 2; end", "b"},
		},
		{"words that look like it", "select atomic; begin; atomic; end", []string{"select atomic", "begin", "atomic", "end"}},
		{"operators", "a -> b; a #>> '{x}'; a / b; a - -1; a::int", []string{"a -> b", "a #>> '{x}'", "a / b", "a - -1", "a::int"}},
		{"letters of all kinds", "ä; 名 = 1", []string{"ä", "名 = 1"}},
		{"nothing", " -- x\n ;;", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			statements, err := lint.Split(c.text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range statements {
				got = append(got, c.text[s.Pos:s.End])
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestIndexName(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"create index concurrently i on t (a)":                             "i",
		"-- x\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS Ab ON t (a)": "ab",
		`create index concurrently "A b" on t (a);`:                        "A b",
		"create index concurrently on t (a)":                               "",
		"create index i on t (a)":                                          "",
		"vacuum t":                                                         "",
	} {
		if got := lint.IndexName(text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// Whatever the text: no panic, positions inside it and in order, and only comments, white space and semicolons between statements.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a;b", "$$;$$", "$a$ $a", "/*/**/", "e'\\", "create function f() begin atomic case end; end", "\\x", "(;);", "u&\"x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		statements, err := lint.Split(text)
		if err != nil {
			return
		}
		end := 0
		for _, s := range statements {
			if s.Pos < end || s.End < s.Pos || s.End > len(text) || len(s.Tokens) == 0 {
				t.Fatalf("statement %d to %d after %d of %d bytes", s.Pos, s.End, end, len(text))
			}
			if s.Tokens[0].Kind == lint.Symbol && s.Tokens[0].Text == ";" {
				t.Fatal("a statement begins with a semicolon")
			}
			end = s.End
			again, err := lint.Split(text[s.Pos:s.End])
			if err != nil || len(again) > 1 {
				t.Fatalf("a statement by itself is %d statements: %v: %q", len(again), err, text[s.Pos:s.End])
			}
		}
		lint.Check(text)
		if strings.Contains(text, "concurrently") {
			lint.IndexName(text)
		}
	})
}
