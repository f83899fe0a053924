package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/tenants"
)

// completer finds the words that can stand at a place. It may fail: then nothing is offered.
type completer func(ctx context.Context, r *reach) ([]string, error)

// completers are what is completed, by the noun of the command and the name of its first argument.
var completers = map[string]completer{
	"tenant NAME":       tenantNames,
	"server NAME":       serverNames,
	"database DATABASE": databaseNames,
	"migrate DATABASE":  databaseNames,
	"op ID":             operationIDs,
	"token ID":          tokenIDs,
	"setting KEY":       settingKeys,
	"domain HOST":       hostNames,
}

// flagCompleters are what is completed after a flag, whatever the command.
var flagCompleters = map[string]completer{"tenant": tenantNames, "server": serverNames, "database": databaseNames, "permission": permissionNames}

// makesNames are verbs whose first argument is a name that is not there yet.
var makesNames = []string{"create", "add", "adopt", "import", "new"}

func names[Row any](rows []Row, err error, name func(Row) string) ([]string, error) {
	found := make([]string, len(rows))
	for i, row := range rows {
		found[i] = name(row)
	}
	return found, err
}

func tenantNames(ctx context.Context, r *reach) ([]string, error) {
	all, err := r.Tenants(ctx)
	return names(rows(all, asTenantRow), err, tenantRow.name)
}

func serverNames(ctx context.Context, r *reach) ([]string, error) {
	all, err := r.Servers(ctx)
	return names(rows(all, asServerRow), err, serverRow.name)
}

func databaseNames(ctx context.Context, r *reach) ([]string, error) {
	all, err := r.Databases(ctx, "")
	return names(rows(all, asDBRow), err, dbRow.name)
}

// operationIDs are described by what they are about: ids alone say nothing.
func operationIDs(ctx context.Context, r *reach) ([]string, error) {
	all, err := r.Operations(ctx, "")
	return names(rows(all, asOpRow), err, func(o opRow) string {
		return o.name() + "\t" + strings.TrimSpace(o.Kind+" "+o.TenantName+" "+string(o.State))
	})
}

func tokenIDs(ctx context.Context, r *reach) ([]string, error) {
	all, err := r.Tokens(ctx)
	return names(rows(all, asTokenRow), err, func(t tokenRow) string { return t.name() + "\t" + t.Subject })
}

func hostNames(ctx context.Context, r *reach) ([]string, error) {
	all, err := r.Tenants(ctx)
	return names(domainsOf(all), err, domainRow.name)
}

func settingKeys(context.Context, *reach) ([]string, error) { return tenants.SettingKeys(), nil }

func permissionNames(context.Context, *reach) ([]string, error) {
	return append([]string{tenants.PermitAll}, tenants.Permissions...), nil
}

// complete offers a completer's words, within a second and silently.
func (a *app) complete(find completer) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), time.Second)
		defer cancel()
		r, err := a.reach(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer r.close()
		var fitting []string
		all, _ := find(ctx, r)
		for _, word := range all {
			if strings.HasPrefix(word, begun) {
				fitting = append(fitting, word)
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTenants completes tenant names.
func (a *app) completeTenants(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(tenantNames)(c, args, begun)
}
