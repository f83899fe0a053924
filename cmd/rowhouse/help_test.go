package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// everyCommand goes through all commands of the tree.
func everyCommand(t *testing.T, fn func(c *cobra.Command)) {
	t.Helper()
	a := &app{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		fn(c)
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	walk(a.root())
}

// Whoever knows nothing but --help finds what a verb does and how it is used; and what is shown there works.
func TestHelp_Examples(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	everyCommand(t, func(c *cobra.Command) {
		path := strings.TrimPrefix(c.CommandPath(), "rowhouse ")
		seen[path] = true
		if c.Short == "" {
			t.Errorf("%s does not say what it does", c.CommandPath())
		}
		if c.HasSubCommands() || c.Name() == "help" {
			return
		}
		if c.Example == "" {
			t.Errorf("%s shows no example", c.CommandPath())
		}
		own := false
		for line := range strings.SplitSeq(c.Example, "\n") {
			own = parseExample(t, c, line) == c.CommandPath() || own
		}
		if !own {
			t.Errorf("%s: no example is its own", c.CommandPath())
		}
	})
	for path := range examples {
		if !seen[path] {
			t.Logf("an example of a verb there is not: %s", path)
		}
	}
}

var substitution = regexp.MustCompile(`\$\([^)]*\)`)

// parseExample holds what a line calls against the commands and flags there are, and answers which command it is. What a
// shell does with it is left out.
func parseExample(t *testing.T, of *cobra.Command, line string) string {
	t.Helper()
	if before, _, called := strings.Cut(line, "$("); !called || strings.Contains(before, "rowhouse ") {
		line = substitution.ReplaceAllString(line, "x")
	}
	_, call, found := strings.Cut(line, "rowhouse ")
	if !found {
		t.Errorf("%s: its example does not call it: %s", of.CommandPath(), line)
		return ""
	}
	if end := strings.IndexAny(call, "|)>"); end >= 0 && !strings.Contains(call[:end], "'") {
		call = call[:end]
	}
	words := splitShell(call)
	c, rest, err := (&app{}).root().Find(words)
	if err != nil {
		t.Errorf("%s: its example is of no command: %s", of.CommandPath(), line)
		return ""
	}
	if err := c.ParseFlags(rest); err != nil {
		t.Errorf("%s: %s: %v", of.CommandPath(), line, err)
		return c.CommandPath()
	}
	if c.Args != nil {
		if err := c.Args(c, c.Flags().Args()); err != nil {
			t.Errorf("%s: %s: %v", of.CommandPath(), line, err)
		}
	}
	return c.CommandPath()
}

// splitShell splits at spaces outside of quotes.
func splitShell(line string) (words []string) {
	var word strings.Builder
	quote, begun := rune(0), false
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, begun = r, true
		case quote == 0 && r == ' ':
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	return words
}

// runHere is the command in this process, with nothing around it.
func runHere(args ...string) (code int, stdout, stderr string) {
	var out, wrong bytes.Buffer
	code = run(context.Background(), args, func(string) (string, bool) { return "", false }, strings.NewReader(""), &out, &wrong)
	return code, out.String(), wrong.String()
}

// A word that is wrong is a usage error that says which was meant.
func TestHelp_Suggests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"tenant", "lst"}, `has no verb "lst"; did you mean "list"?`},
		{[]string{"tenannt", "list"}, `has no command "tenannt"; did you mean "tenant"?`},
		{[]string{"tenant", "list", "--outptu", "json"}, "unknown flag: --outptu; did you mean --output?"},
		{[]string{"op", "list", "--tenat", "x"}, "did you mean --tenant?"},
		{[]string{"get", "tenants"}, "the noun comes first"},
		{[]string{"get", "tenants"}, "rowhouse tenant get, "},
		{[]string{"tenant"}, "rowhouse tenant needs a verb"},
		{[]string{"tenant", "get"}, "rowhouse tenant get needs NAME"},
		{[]string{"tenant", "get", "a", "b"}, `takes no "b"`},
		{[]string{"tenant", "list", "-x"}, "unknown shorthand flag"},
		{[]string{"help", "tenant", "lst"}, `did you mean "list"?`},
		{[]string{"completion", "tcsh"}, "there are bash, zsh, fish, powershell"},
		{[]string{"domain", "add", "shop.example"}, `"tenant" not set`},
		{[]string{"tenant", "list", "-o", "xml"}, "-o must be"},
	} {
		code, stdout, stderr := runHere(c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.says) || strings.Contains(stdout, "rowhouse has") {
			t.Errorf("%v: exit %d, want %q: %s", c.args, code, c.says, stderr)
		}
	}
	for _, args := range [][]string{{"--help"}, {"help"}, {"tenant", "--help"}, {"tenants", "list", "--help"}, {"help", "op", "watch"}, {"operations", "--help"}, {"version"}} {
		if code, stdout, stderr := runHere(args...); code != exitOK || stdout == "" || stderr != "" {
			t.Errorf("%v: exit %d: %s%s", args, code, stdout, stderr)
		}
	}
}

func TestManPages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	if code, _, stderr := runHere("man", dir); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	everyCommand(t, func(c *cobra.Command) {
		if !c.IsAvailableCommand() {
			return
		}
		text, err := os.ReadFile(filepath.Join(dir, pageName(c)+".1"))
		if err != nil {
			t.Error(err)
			return
		}
		for _, has := range []string{".TH ", ".SH NAME\n", ".SH SYNOPSIS\n", roff(c.Short)} {
			if !strings.Contains(string(text), has) {
				t.Errorf("%s: no %q", c.CommandPath(), has)
			}
		}
	})
	if got := roff(".x\n'y\n--z \\"); got != "\\&.x\n\\&'y\n\\-\\-z \\e" {
		t.Errorf("got %q", got)
	}
	man, err := exec.LookPath("mandoc")
	if err != nil {
		return
	}
	pages, _ := filepath.Glob(filepath.Join(dir, "*"))
	if out, err := exec.Command(man, append([]string{"-T", "lint", "-W", "error"}, pages...)...).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range shells {
		if code, stdout, stderr := runHere("completion", shell); code != 0 || !strings.Contains(stdout, "rowhouse") {
			t.Errorf("%s: exit %d: %s", shell, code, stderr)
		}
	}
	for _, c := range []struct {
		words []string
		has   string
	}{
		{[]string{"ten"}, "tenant"},
		{[]string{"tenant", "res"}, "resume"},
		{[]string{"setting", "set", "rest.max_r"}, ""}, // nothing to speak to, and no noise
		{[]string{"tenant", "list", "-o", "y"}, "yaml"},
		{[]string{"completion", "z"}, "zsh"},
		{[]string{"bench", "ro"}, "route"},
	} {
		code, stdout, _ := runHere(append([]string{"__complete"}, c.words...)...)
		if code != 0 || !slices.ContainsFunc(strings.Split(stdout, "\n"), func(line string) bool { return strings.HasPrefix(line, c.has) }) {
			t.Errorf("%v: exit %d: %s", c.words, code, stdout)
		}
	}
}
