package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"

	"github.com/spf13/cobra"

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
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if err := settingKey(args[0]); err != nil {
				return err
			}
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
			if err := settingKey(args[0]); err != nil {
				return err
			}
			return r.UnsetSetting(ctx, tenant, args[0])
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only for this tenant")
	return c
}

// settingKey says that there is no such key, and which was meant.
func settingKey(key string) error {
	if slices.Contains(tenants.SettingKeys(), key) {
		return nil
	}
	return &coded{err: fmt.Errorf("setting %.60q is not known%s", key, didYouMean(key, tenants.SettingKeys())), code: exitNotFound, hint: "rowhouse setting list --known"}
}

func settingRows(ctx context.Context, r *reach, tenant string) ([]settingRow, error) {
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
	c := rowVerb(a, "get KEY", "Show a value", func(ctx context.Context, r *reach, args []string) (settingRow, error) {
		if err := settingKey(args[0]); err != nil {
			return settingRow{}, err
		}
		found, err := settingRows(ctx, r, tenant)
		if err != nil {
			return settingRow{}, err
		}
		for _, s := range found {
			if s.Key == args[0] {
				return s, nil
			}
		}
		whose := "everybody"
		if tenant != "" {
			whose = "tenant " + strconv.Quote(tenant)
		}
		return settingRow{}, &coded{err: fmt.Errorf("setting %q is not set for %s", args[0], whose), code: exitNotFound}
	}, func(s settingRow) settingRow { return s })
	c.Flags().StringVar(&tenant, "tenant", "", "of this tenant")
	return c
}

func (a *app) settingList() *cobra.Command {
	var tenant string
	var known bool
	c := listVerb(a, "List what was set, or with --known all that can be", func(ctx context.Context, r *reach) ([]settingRow, error) {
		return settingRows(ctx, r, tenant)
	}, func(s settingRow) settingRow { return s })
	listSet := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if !known {
			return listSet(c, args)
		}
		return a.show(func(context.Context, []string) (any, error) {
			return rows(tenants.SettingKeys(), func(key string) knownSetting { return knownSetting{key, tenants.SettingWants(key)} }), nil
		})(c, args)
	}
	c.Flags().StringVar(&tenant, "tenant", "", "of this tenant")
	c.Flags().BoolVar(&known, "known", false, "all keys there are, and what each wants")
	return c
}

// knownSetting is a key that can be set.
type knownSetting struct {
	Key   string `json:"key"`
	Wants string `json:"wants"`
}

func (knownSetting) columns() []string { return []string{"key", "wants"} }
func (s knownSetting) row() []any      { return []any{s.Key, s.Wants} }
func (s knownSetting) name() string    { return s.Key }
