package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// listVerb is a verb that lists rows, each as wrap shows it.
func listVerb[Row, Shown any](a *app, short string, read func(ctx context.Context, r *reach) ([]Row, error), wrap func(Row) Shown) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: short, Args: exactly(),
		RunE: a.showAt(func(ctx context.Context, r *reach, _ []string) (any, error) {
			found, err := read(ctx, r)
			if err != nil {
				return nil, err
			}
			return rows(found, wrap), nil
		}),
	}
}

// rowVerb is a verb that ends with showing one row: it reads it, or changes it first. The arguments it takes are those that
// use names in capitals.
func rowVerb[Row, Shown any](a *app, use, short string, read func(ctx context.Context, r *reach, args []string) (Row, error), wrap func(Row) Shown) *cobra.Command {
	var names []string
	for _, word := range strings.Fields(use)[1:] {
		if word == strings.ToUpper(word) {
			names = append(names, word)
		}
	}
	return &cobra.Command{
		Use: use, Short: short, Args: exactly(names...),
		RunE: a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
			found, err := read(ctx, r, args)
			if err != nil {
				return nil, err
			}
			return wrap(found), nil
		}),
	}
}

// rows wraps each of a list for printing; an empty list stays a list.
func rows[Row, Shown any](found []Row, wrap func(Row) Shown) []Shown {
	shown := make([]Shown, len(found))
	for i, row := range found {
		shown[i] = wrap(row)
	}
	return shown
}

// counted is a number of things, in words that agree with it.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
