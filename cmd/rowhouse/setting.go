package main

import (
	"context"
	"encoding/json"
	"sort"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type settingRow struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

func (settingRow) columns() []string { return []string{"key", "value"} }
func (s settingRow) row() []any      { return []any{s.Key, string(s.Value)} }
func (s settingRow) name() string    { return s.Key }

func (a *app) settingGroup() *cobra.Command {
	return group("setting", "What the host decides for everybody or for one tenant", a.settingSet(), a.settingUnset(), a.settingGet(), a.settingList())
}

func (a *app) settingSet() *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "set KEY VALUE", Short: "Set a value, for everybody or with --tenant for one", Args: exactly("KEY", "VALUE"),
		ValidArgs: tenants.SettingKeys(),
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			return r.SetSetting(ctx, tenant, args[0], asJSON(args[1]))
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only for this tenant")
	return c
}

// asJSON takes a value as JSON, and what is none as a text.
func asJSON(value string) json.RawMessage {
	if json.Valid([]byte(value)) {
		return json.RawMessage(value)
	}
	text, _ := json.Marshal(value)
	return text
}

func (a *app) settingUnset() *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "unset KEY", Short: "Take a value back", Args: exactly("KEY"),
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			return r.UnsetSetting(ctx, tenant, args[0])
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only for this tenant")
	return c
}

func (a *app) settings(ctx context.Context, tenant string) ([]settingRow, error) {
	r, err := a.reach(ctx)
	if err != nil {
		return nil, err
	}
	defer r.close()
	values, err := r.Settings(ctx, tenant)
	if err != nil {
		return nil, err
	}
	found := []settingRow{}
	for key, value := range values {
		found = append(found, settingRow{key, value})
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Key < found[j].Key })
	return found, nil
}

func (a *app) settingGet() *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "get KEY", Short: "Show a value", Args: exactly("KEY"),
		RunE: a.show(func(ctx context.Context, args []string) (any, error) {
			found, err := a.settings(ctx, tenant)
			if err != nil {
				return nil, err
			}
			for _, s := range found {
				if s.Key == args[0] {
					return s, nil
				}
			}
			return nil, catalog.ErrNotFound
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "of this tenant")
	return c
}

func (a *app) settingList() *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "list", Short: "List what was set", Args: exactly(),
		RunE: a.show(func(ctx context.Context, _ []string) (any, error) {
			return a.settings(ctx, tenant)
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "of this tenant")
	return c
}
