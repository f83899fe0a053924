package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// confirm asks on a terminal before something is destroyed. Elsewhere nobody can be asked, and --yes is needed.
func (a *app) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usage("to %s needs --yes where nobody can be asked", what)
	}
	fmt.Fprintf(a.stderr, "%s? [y/N] ", strings.ToUpper(what[:1])+what[1:])
	answer, _ := bufio.NewReader(in).ReadString('\n') // no answer is no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &coded{err: fmt.Errorf("not done"), code: exitFailure}
}

// destructive makes a verb one that takes something away: it asks, or needs --yes. What names it, with the first argument.
func (a *app) destructive(c *cobra.Command, what string, do func(ctx context.Context, r *reach, args []string) error) *cobra.Command {
	var yes bool
	c.RunE = a.doAt(func(ctx context.Context, r *reach, args []string) error {
		if err := a.confirm(yes, fmt.Sprintf(what, args[0])); err != nil {
			return err
		}
		return do(ctx, r, args)
	})
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
