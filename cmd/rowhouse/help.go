package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// otherNames are other words for a noun: people try the plural.
var otherNames = map[string][]string{
	"tenant": {"tenants"}, "server": {"servers"}, "database": {"databases", "db"}, "domain": {"domains"}, "op": {"ops", "operation", "operations"},
	"setting": {"settings"}, "token": {"tokens"}, "edition": {"editions"}, "feature": {"features"}, "limit": {"limits"},
}

// equip gives every command what all of them have: examples, completion, and other names for nouns.
func (a *app) equip(c *cobra.Command) {
	c.Aliases = append(c.Aliases, otherNames[c.Name()]...)
	if c.Example == "" {
		c.Example = indented(examples[strings.TrimPrefix(c.CommandPath(), "rowhouse ")])
	}
	words := strings.Fields(c.Use)
	if len(words) > 1 && c.HasParent() && c.ValidArgsFunction == nil && c.ValidArgs == nil {
		find := completers[c.Parent().Name()+" "+strings.Trim(words[1], "[]…")]
		switch {
		case strings.Trim(words[1], "[]") == "DIR": // a directory: the shell knows those
		case find == nil || slices.Contains(makesNames, c.Name()):
			c.ValidArgsFunction = cobra.NoFileCompletions
		default:
			c.ValidArgsFunction = func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
				if len(args) > 0 && !strings.HasSuffix(words[1], "…]") {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				return a.complete(find)(c, args, begun)
			}
		}
	}
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if find := flagCompleters[f.Name]; find != nil {
			_ = c.RegisterFlagCompletionFunc(f.Name, a.complete(find)) // one that is there already stays
		}
	})
	for _, verb := range c.Commands() {
		a.equip(verb)
	}
}

func indented(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return "  " + strings.Join(lines, "\n  ")
}

// noVerb answers a word that a group of commands does not know: with the one that was meant or, for a verb that came before
// its noun, with the nouns that know it.
func noVerb(c *cobra.Command, word string) error {
	hint := c.CommandPath() + " --help"
	known := c.Commands()
	if !c.HasParent() {
		if nouns := nounsWith(c, word); len(nouns) > 0 {
			return &coded{err: fmt.Errorf("rowhouse has no command %q; the noun comes first", word), code: exitUsage, hint: strings.Join(nouns, ", ")}
		}
	}
	var candidates []string
	for _, verb := range known {
		if verb.IsAvailableCommand() {
			candidates = append(candidates, verb.Name())
			candidates = append(candidates, verb.Aliases...)
		}
	}
	what := "verb"
	if !c.HasParent() {
		what = "command"
	}
	return &coded{err: fmt.Errorf("%s has no %s %q%s", c.CommandPath(), what, word, didYouMean(word, candidates)), code: exitUsage, hint: hint}
}

// nounsWith are the commands that have the verb.
func nounsWith(root *cobra.Command, verb string) (found []string) {
	for _, noun := range root.Commands() {
		for _, c := range noun.Commands() {
			if c.Name() == verb {
				found = append(found, c.CommandPath())
			}
		}
	}
	return found
}

// wrongFlag is a usage error that knows which flag was meant.
func wrongFlag(c *cobra.Command, err error) error {
	if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
		var candidates []string
		c.Flags().VisitAll(func(f *pflag.Flag) { candidates = append(candidates, f.Name) })
		if meant := nearest(name, candidates); meant != "" {
			err = fmt.Errorf("%w; did you mean --%s?", err, meant)
		}
	}
	return &coded{err: err, code: exitUsage, hint: c.CommandPath() + " --help"}
}

// didYouMean says which of the words is nearly the one given, or nothing.
func didYouMean(word string, candidates []string) string {
	if meant := nearest(word, candidates); meant != "" {
		return fmt.Sprintf("; did you mean %q?", meant)
	}
	return ""
}

// nearest is the candidate that is a slip away from word, or that word begins; empty when there is none.
func nearest(word string, candidates []string) string {
	best, least := "", 1+max(1, len(word)/3)
	for _, candidate := range candidates {
		d := editDistance(word, candidate)
		if len(word) >= 2 && strings.HasPrefix(candidate, word) {
			d = 1
		}
		if d < least {
			best, least = candidate, d
		}
	}
	return best
}
