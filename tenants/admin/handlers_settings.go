package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// settingsInput says whose settings are meant.
type settingsInput struct {
	PageInput
	Tenant string `query:"tenant" maxLength:"64" doc:"Name or id; everybody's without one"`
}

type settingInput struct {
	Tenant string `query:"tenant" maxLength:"64" doc:"Name or id; everybody's without one"`
	Key    string `path:"key" maxLength:"100"`
}

type setSettingInput struct {
	Tenant string `query:"tenant" maxLength:"64" doc:"Name or id; everybody's without one"`
	Key    string `path:"key" maxLength:"100"`
	Body   struct {
		Value json.RawMessage `json:"value" doc:"Any JSON that fits the key"`
	}
}

func (s *service) registerSettings() {
	const tag = "Settings"
	add(s, route{"list-settings", tag, "List what the host decided", http.MethodGet, "/settings", tenants.PermitSettingsRead, 0},
		func(ctx context.Context, in *settingsInput) (*listOutput[*catalog.Setting], error) {
			return paged("/settings", filters("tenant", in.Tenant), in.PageInput, func(one *catalog.Setting) string { return one.Key },
				func(p catalog.Page) ([]*catalog.Setting, error) { return s.operator.SettingsPage(ctx, in.Tenant, p) })
		})
	add(s, route{"set-setting", tag, "Decide something", http.MethodPut, "/settings/{key}", tenants.PermitSettingsManage, http.StatusNoContent},
		func(ctx context.Context, in *setSettingInput) (*struct{}, error) {
			if err := known(in.Key); err != nil {
				return nil, err
			}
			return nil, s.operator.SetSetting(ctx, in.Tenant, in.Key, in.Body.Value)
		})
	add(s, route{"unset-setting", tag, "Take a decision back", http.MethodDelete, "/settings/{key}", tenants.PermitSettingsManage, http.StatusNoContent},
		func(ctx context.Context, in *settingInput) (*struct{}, error) {
			return nil, s.operator.UnsetSetting(ctx, in.Tenant, in.Key)
		})
}

// known refuses a key that there is not, without repeating it.
func known(key string) error {
	if !slices.Contains(tenants.SettingKeys(), key) {
		return fmt.Errorf("there is no setting of that name: %w", catalog.ErrInvalid)
	}
	return nil
}
