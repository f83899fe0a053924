package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
)

// shells are those that completion is written for.
var shells = []string{"bash", "zsh", "fish", "powershell"}

func (a *app) completion() *cobra.Command {
	c := &cobra.Command{
		Use: "completion SHELL", Short: "Write what a shell needs to complete commands, flags and names", Args: exactly("SHELL"),
		Long: "Names of tenants, servers, databases and the like are completed from the rowhouse that a command would speak to, near or\nfar. Shells: " + strings.Join(shells, ", ") + ".",
	}
	c.ValidArgs = shells
	c.RunE = a.do(func(_ context.Context, args []string) error {
		root := c.Root()
		switch args[0] {
		case "bash":
			return root.GenBashCompletionV2(a.stdout, true)
		case "zsh":
			return root.GenZshCompletion(a.stdout)
		case "fish":
			return root.GenFishCompletion(a.stdout, true)
		case "powershell":
			return root.GenPowerShellCompletionWithDesc(a.stdout)
		}
		return usage("no completion for %q: there are %s", args[0], strings.Join(shells, ", "))
	})
	return c
}

// helpCommand is cobra's, but that a topic there is not is an error.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Say what a command does", Hidden: true,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			found := c.Root()
			for _, word := range args {
				next, rest, err := found.Find([]string{word})
				if err != nil || next == found || len(rest) > 0 {
					return noVerb(found, word)
				}
				found = next
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
