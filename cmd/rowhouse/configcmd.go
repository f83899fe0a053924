package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func (setting) columns() []string { return []string{"key", "value", "origin"} }
func (s setting) row() []any      { return []any{s.Key, s.Value, s.Origin} }
func (s setting) name() string    { return s.Key }

func (a *app) configGroup() *cobra.Command {
	return group("config", "Configuration: what holds and where it comes from",
		&cobra.Command{
			Use: "show", Short: "Show each value and its origin, secrets redacted", Args: exactly(),
			RunE: a.show(func(context.Context, []string) (any, error) {
				cfg, err := a.loadConfig(nil)
				if err != nil {
					return nil, err
				}
				return cfg.settings(), nil
			}),
		},
		&cobra.Command{
			Use: "check", Short: "Say all that is wrong with the configuration", Args: exactly(),
			RunE: a.do(func(context.Context, []string) error {
				cfg, err := a.loadConfig(nil)
				if err != nil {
					return err
				}
				if _, err := openKeys(cfg); err != nil {
					return err
				}
				fmt.Fprintln(a.stderr, "configuration is sound")
				return nil
			}),
		})
}
