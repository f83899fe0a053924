package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type editionInput struct {
	Name string `path:"name" maxLength:"64"`
}

type setEditionInput struct {
	Name string `path:"name" maxLength:"64"`
	Body struct {
		Description string `json:"description,omitempty" maxLength:"500"`
	}
}

type assignEditionInput struct {
	Ref  string `path:"ref" maxLength:"64" doc:"Name or id"`
	Body struct {
		Edition string `json:"edition" maxLength:"64" doc:"Empty takes it back"`
	}
}

type featureInput struct {
	Key string `path:"key" maxLength:"63"`
}

type setFeatureInput struct {
	Key  string `path:"key" maxLength:"63"`
	Body struct {
		Value       json.RawMessage `json:"value" doc:"What everybody has: true or false, a number or a text. Its type is the feature's"`
		Parent      string          `json:"parent,omitempty" maxLength:"63" doc:"The feature without which this one is off"`
		Visible     bool            `json:"visible,omitempty" doc:"Tell it to a tenant's clients"`
		Description string          `json:"description,omitempty" maxLength:"500"`
	}
}

// scopeInput says whose values are meant.
type scopeInput struct {
	PageInput
	Tenant  string `query:"tenant" maxLength:"64" doc:"Name or id"`
	Edition string `query:"edition" maxLength:"64" doc:"Name; everybody's values without either"`
}

type valueInput struct {
	Tenant  string `query:"tenant" maxLength:"64" doc:"Name or id"`
	Edition string `query:"edition" maxLength:"64" doc:"Name; everybody's values without either"`
	Key     string `path:"key" maxLength:"100" doc:"features.KEY or limits.KEY"`
}

type setValueInput struct {
	Tenant  string `query:"tenant" maxLength:"64" doc:"Name or id"`
	Edition string `query:"edition" maxLength:"64" doc:"Name; everybody's values without either"`
	Key     string `path:"key" maxLength:"100" doc:"features.KEY or limits.KEY"`
	Body    struct {
		Value json.RawMessage `json:"value" doc:"Any JSON that fits the key"`
	}
}

type valueOutput struct{ Body tenants.Value }

func (s *service) registerPlan() {
	const tag = "Editions"
	add(s, route{"list-editions", tag, "List editions and what they give", http.MethodGet, "/editions", tenants.PermitSettingsRead, 0},
		func(ctx context.Context, in *PageInput) (*listOutput[*catalog.Edition], error) {
			all, err := s.operator.Editions(ctx)
			return paged("/editions", nil, *in, func(e *catalog.Edition) string { return e.Name }, inMemory(all, err, func(e *catalog.Edition) string { return e.Name }))
		})
	add(s, route{"set-edition", tag, "Make an edition, or describe it anew", http.MethodPut, "/editions/{name}", tenants.PermitFeaturesManage, http.StatusNoContent},
		func(ctx context.Context, in *setEditionInput) (*struct{}, error) {
			return nil, s.operator.SetEdition(ctx, in.Name, in.Body.Description)
		})
	add(s, route{"remove-edition", tag, "Forget an edition that no tenant has", http.MethodDelete, "/editions/{name}", tenants.PermitFeaturesManage, http.StatusNoContent},
		func(ctx context.Context, in *editionInput) (*struct{}, error) {
			return nil, s.operator.RemoveEdition(ctx, in.Name)
		})
	add(s, route{"assign-edition", tag, "Give a tenant an edition", http.MethodPut, "/tenants/{ref}/edition", tenants.PermitFeaturesManage, 0},
		func(ctx context.Context, in *assignEditionInput) (*tenantOutput, error) {
			if err := s.operator.AssignEdition(ctx, in.Ref, in.Body.Edition); err != nil {
				return nil, err
			}
			return s.tenant(ctx, in.Ref)
		})
	add(s, route{"list-features", tag, "List features and what everybody has of them", http.MethodGet, "/features", tenants.PermitSettingsRead, 0},
		func(ctx context.Context, in *PageInput) (*listOutput[*catalog.Feature], error) {
			all, err := s.operator.Features(ctx)
			return paged("/features", nil, *in, func(f *catalog.Feature) string { return f.Key }, inMemory(all, err, func(f *catalog.Feature) string { return f.Key }))
		})
	add(s, route{"set-feature", tag, "Declare a feature, or change it", http.MethodPut, "/features/{key}", tenants.PermitFeaturesManage, http.StatusNoContent},
		func(ctx context.Context, in *setFeatureInput) (*struct{}, error) {
			b := in.Body
			return nil, s.operator.SetFeature(ctx, catalog.Feature{Key: in.Key, Value: b.Value, Parent: b.Parent, Visible: b.Visible, Description: b.Description})
		})
	add(s, route{"remove-feature", tag, "Forget a feature and all its values", http.MethodDelete, "/features/{key}", tenants.PermitFeaturesManage, http.StatusNoContent},
		func(ctx context.Context, in *featureInput) (*struct{}, error) {
			return nil, s.operator.RemoveFeature(ctx, in.Key)
		})
	add(s, route{"list-values", tag, "List features and limits as they hold for a tenant, an edition or everybody", http.MethodGet, "/values", tenants.PermitSettingsRead, 0},
		func(ctx context.Context, in *scopeInput) (*listOutput[tenants.Value], error) {
			all, err := s.operator.Values(ctx, tenants.Scope{Tenant: in.Tenant, Edition: in.Edition})
			key := func(v tenants.Value) string { return v.Key }
			return paged("/values", filters("tenant", in.Tenant, "edition", in.Edition), in.PageInput, key, inMemory(all, err, key))
		})
	add(s, route{"set-value", tag, "Decide a feature or a limit", http.MethodPut, "/values/{key}", tenants.PermitFeaturesManage, 0},
		func(ctx context.Context, in *setValueInput) (*valueOutput, error) {
			v, err := s.operator.SetValue(ctx, tenants.Scope{Tenant: in.Tenant, Edition: in.Edition}, in.Key, in.Body.Value)
			if err != nil {
				return nil, err
			}
			return &valueOutput{v}, nil
		})
	add(s, route{"unset-value", tag, "Take a decision back", http.MethodDelete, "/values/{key}", tenants.PermitFeaturesManage, http.StatusNoContent},
		func(ctx context.Context, in *valueInput) (*struct{}, error) {
			return nil, s.operator.UnsetValue(ctx, tenants.Scope{Tenant: in.Tenant, Edition: in.Edition}, in.Key)
		})
}

// inMemory reads pages of a list that is never long.
func inMemory[Item any](all []Item, err error, key func(Item) string) func(catalog.Page) ([]Item, error) {
	return func(p catalog.Page) ([]Item, error) {
		if err != nil {
			return nil, err
		}
		if p.After != "" {
			at := slices.IndexFunc(all, func(item Item) bool { return key(item) == p.After })
			if at < 0 {
				return nil, catalog.ErrInvalid
			}
			all = all[at+1:]
		}
		return all[:min(p.Limit, len(all))], nil
	}
}

// Editions lists the editions.
func (c *Client) Editions(ctx context.Context) ([]*catalog.Edition, error) {
	return every[*catalog.Edition](ctx, c, "/editions", nil)
}

// SetEdition makes an edition, or describes it anew.
func (c *Client) SetEdition(ctx context.Context, name, description string) error {
	return c.do(ctx, http.MethodPut, "/editions/"+url.PathEscape(name), nil, map[string]string{"description": description}, nil)
}

// RemoveEdition forgets an edition.
func (c *Client) RemoveEdition(ctx context.Context, name string) error {
	return about("edition", name, c.do(ctx, http.MethodDelete, "/editions/"+url.PathEscape(name), nil, nil, nil))
}

// AssignEdition gives a tenant an edition.
func (c *Client) AssignEdition(ctx context.Context, tenant, edition string) error {
	return c.do(ctx, http.MethodPut, tenantPath(tenant, "/edition"), nil, map[string]string{"edition": edition}, nil)
}

// Features lists the features.
func (c *Client) Features(ctx context.Context) ([]*catalog.Feature, error) {
	return every[*catalog.Feature](ctx, c, "/features", nil)
}

// SetFeature declares a feature, or changes it.
func (c *Client) SetFeature(ctx context.Context, f catalog.Feature) error {
	in := map[string]any{"value": f.Value, "parent": f.Parent, "visible": f.Visible, "description": f.Description}
	return about("feature", f.Key, c.do(ctx, http.MethodPut, "/features/"+url.PathEscape(f.Key), nil, in, nil))
}

// RemoveFeature forgets a feature.
func (c *Client) RemoveFeature(ctx context.Context, key string) error {
	return about("feature", key, c.do(ctx, http.MethodDelete, "/features/"+url.PathEscape(key), nil, nil, nil))
}

func scopeQuery(scope tenants.Scope) url.Values {
	query := url.Values{}
	if scope.Tenant != "" {
		query.Set("tenant", scope.Tenant)
	}
	if scope.Edition != "" {
		query.Set("edition", scope.Edition)
	}
	return query
}

// Values are features and limits as they hold in a scope.
func (c *Client) Values(ctx context.Context, scope tenants.Scope) ([]tenants.Value, error) {
	return every[tenants.Value](ctx, c, "/values", scopeQuery(scope))
}

// SetValue decides a feature or a limit.
func (c *Client) SetValue(ctx context.Context, scope tenants.Scope, key string, value json.RawMessage) (v tenants.Value, err error) {
	err = c.do(ctx, http.MethodPut, "/values/"+url.PathEscape(key), scopeQuery(scope), map[string]json.RawMessage{"value": value}, &v)
	return v, about("value", key, err)
}

// UnsetValue takes a decision back.
func (c *Client) UnsetValue(ctx context.Context, scope tenants.Scope, key string) error {
	return about("value", key, c.do(ctx, http.MethodDelete, "/values/"+url.PathEscape(key), scopeQuery(scope), nil, nil))
}
