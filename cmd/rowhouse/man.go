package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) man() *cobra.Command {
	c := &cobra.Command{
		Use: "man DIR", Short: "Write a man page for each command into a directory", Args: exactly("DIR"), Hidden: true,
	}
	c.RunE = a.do(func(_ context.Context, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return fmt.Errorf("man pages: %w", err)
		}
		return writeManPages(c.Root(), args[0])
	})
	return c
}

func writeManPages(c *cobra.Command, dir string) error {
	page := filepath.Join(dir, pageName(c)+".1")
	if err := os.WriteFile(page, manPage(c), 0o644); err != nil {
		return fmt.Errorf("man pages: %w", err)
	}
	for _, verb := range c.Commands() {
		if verb.IsAvailableCommand() {
			if err := writeManPages(verb, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage is a command's page in roff, as man(7) has it.
func manPage(c *cobra.Command) []byte {
	var b bytes.Buffer
	section := func(name string) { fmt.Fprintf(&b, ".SH %s\n", name) }
	fmt.Fprintf(&b, ".TH %q 1 \"\" %q \"rowhouse\"\n", strings.ToUpper(pageName(c)), "rowhouse "+release)
	section("NAME")
	fmt.Fprintf(&b, "%s \\- %s\n", roff(pageName(c)), roff(c.Short))
	section("SYNOPSIS")
	fmt.Fprintf(&b, ".B %s\n", roff(c.UseLine()))
	if c.Long != "" {
		section("DESCRIPTION")
		fmt.Fprintln(&b, roff(c.Long))
	}
	if verbs := slices.DeleteFunc(slices.Clone(c.Commands()), func(v *cobra.Command) bool { return !v.IsAvailableCommand() }); len(verbs) > 0 {
		section("COMMANDS")
		for _, v := range verbs {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(v.Name()), roff(v.Short))
		}
	}
	manFlags(&b, "OPTIONS", c.LocalFlags())
	manFlags(&b, "OPTIONS OF EVERY COMMAND", c.InheritedFlags())
	if c.Example != "" {
		section("EXAMPLES")
		fmt.Fprintf(&b, ".nf\n%s\n.fi\n", roff(c.Example))
	}
	if !c.HasParent() {
		section("EXIT STATUS")
		for _, e := range exitMeanings {
			fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", e.code, roff(e.means))
		}
	}
	section("SEE ALSO")
	var related []string
	if c.HasParent() {
		related = append(related, pageName(c.Parent()))
	}
	for _, v := range c.Commands() {
		if v.IsAvailableCommand() {
			related = append(related, pageName(v))
		}
	}
	for i, name := range related {
		related[i] = fmt.Sprintf("\\fB%s\\fP(1)", roff(name))
	}
	fmt.Fprintln(&b, strings.Join(related, ", "))
	return b.Bytes()
}

func manFlags(b *bytes.Buffer, name string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", name)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		names := "--" + f.Name
		if f.Shorthand != "" {
			names = "-" + f.Shorthand + ", " + names
		}
		value, meaning := pflag.UnquoteUsage(f)
		if value != "" {
			names += " " + value
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" && f.DefValue != "0s" {
			meaning += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(names), roff(meaning))
	})
}

// roff keeps a text from being read as requests: what begins a line with a dot or a quote, and hyphens and backslashes.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
