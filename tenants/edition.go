package tenants

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
)

// Scope says whose values are meant: a tenant's, an edition's, or, when it is zero, everybody's.
type Scope struct {
	Tenant  string `json:"tenant,omitempty"`
	Edition string `json:"edition,omitempty"`
}

// Value is a feature or a limit as it is in a scope.
type Value struct {
	// Key is features.KEY or limits.KEY.
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
	// From is the level that spoke: tenant, edition or default.
	From string `json:"from"`
	// Visible features are told to a tenant's clients.
	Visible bool `json:"visible,omitempty"`
}

// PlanOperator decides what is sold: editions, features and limits. A tenant's own value goes before its edition's, and that
// before everybody's.
type PlanOperator interface {
	Editions(ctx context.Context) ([]*catalog.Edition, error)
	SetEdition(ctx context.Context, name, description string) error
	// RemoveEdition forgets an edition. One that tenants have is catalog.ErrConflict.
	RemoveEdition(ctx context.Context, name string) error
	// AssignEdition gives a tenant an edition; an empty one takes it back.
	AssignEdition(ctx context.Context, tenant, edition string) error

	Features(ctx context.Context) ([]*catalog.Feature, error)
	// SetFeature declares a feature, or changes what everybody has.
	SetFeature(ctx context.Context, f catalog.Feature) error
	RemoveFeature(ctx context.Context, key string) error

	// Values are all features and limits as they hold in a scope.
	Values(ctx context.Context, scope Scope) ([]Value, error)
	// SetValue decides a feature or a limit in a scope, and answers what holds there then. A tenant's value that it would
	// inherit anyway is taken back instead, so that it follows its edition.
	SetValue(ctx context.Context, scope Scope, key string, value json.RawMessage) (Value, error)
	UnsetValue(ctx context.Context, scope Scope, key string) error
}

// The prefixes of the keys of values.
const (
	FeaturePrefix = "features."
	LimitPrefix   = "limits."
)

// LimitKeys are the limits that there are.
var LimitKeys = []string{LimitConcurrent, LimitRequests, LimitRows, LimitStatement}

// Editions lists the editions.
func (s *Service) Editions(ctx context.Context) ([]*catalog.Edition, error) {
	return s.catalog.Editions(ctx)
}

// SetEdition makes an edition, or describes it anew.
func (s *Service) SetEdition(ctx context.Context, name, description string) error {
	if !isName(name) {
		return catalog.Invalid("edition must be lower-case letters, digits and single hyphens, 40 at most")
	}
	return s.plan(ctx, "edition.set", "edition", name, nil, func(tx *catalog.Tx) error { return tx.SetEdition(ctx, name, description) })
}

// RemoveEdition forgets an edition that no tenant has.
func (s *Service) RemoveEdition(ctx context.Context, name string) error {
	return s.plan(ctx, "edition.unset", "edition", name, nil, func(tx *catalog.Tx) error { return tx.RemoveEdition(ctx, name) })
}

// AssignEdition gives a tenant an edition.
func (s *Service) AssignEdition(ctx context.Context, tenant, edition string) error {
	if edition != "" {
		if _, err := s.catalog.Edition(ctx, edition); err != nil {
			return err
		}
	}
	return s.change(ctx, tenant, "tenant.set_edition", map[string]any{"edition": edition}, func(tx *catalog.Tx, t *catalog.Tenant) error {
		return tx.AssignEdition(ctx, t.ID, edition)
	})
}

// Features lists the features.
func (s *Service) Features(ctx context.Context) ([]*catalog.Feature, error) {
	return s.catalog.Features(ctx)
}

// SetFeature declares a feature, or changes it. Its type stays: values of it may stand anywhere.
func (s *Service) SetFeature(ctx context.Context, f catalog.Feature) error {
	if !isFeatureKey(f.Key) {
		return catalog.Invalid("feature must be a lower-case letter, then letters, digits, dots, hyphens and underscores, 63 at most")
	}
	if kindOf(f.Value) == "" {
		return catalog.Invalid("feature %q: want true or false, a number or a text", f.Key)
	}
	known, err := s.catalog.Features(ctx)
	if err != nil {
		return err
	}
	parents := map[string]string{f.Key: f.Parent}
	for _, k := range known {
		if k.Key != f.Key {
			parents[k.Key] = k.Parent
		} else if kindOf(k.Value) != kindOf(f.Value) {
			return catalog.Invalid("feature %q: want a %s", f.Key, kindOf(k.Value))
		}
	}
	for at, steps := f.Parent, 0; at != ""; at, steps = parents[at], steps+1 {
		if steps > len(parents) {
			return catalog.Invalid("feature %q would be its own parent", f.Key)
		}
	}
	return s.plan(ctx, "feature.set", "feature", f.Key, map[string]any{"value": f.Value}, func(tx *catalog.Tx) error { return tx.SetFeature(ctx, &f) })
}

// RemoveFeature forgets a feature and all values of it.
func (s *Service) RemoveFeature(ctx context.Context, key string) error {
	return s.plan(ctx, "feature.unset", "feature", key, nil, func(tx *catalog.Tx) error { return tx.RemoveFeature(ctx, key) })
}

func (s *Service) plan(ctx context.Context, action, kind, name string, detail map[string]any, fn func(*catalog.Tx) error) error {
	return s.catalog.Update(ctx, catalog.Event{Action: action, Target: catalog.Ref{Kind: kind, Name: name}, Actor: actorOf(ctx), Detail: detail}, fn)
}

// Values are all features and limits as they hold in a scope.
func (s *Service) Values(ctx context.Context, scope Scope) ([]Value, error) {
	l, err := s.levels(ctx, scope)
	if err != nil {
		return nil, err
	}
	values := []Value{}
	for _, key := range l.keys() {
		if v, ok := l.value(key); ok {
			values = append(values, v)
		}
	}
	return values, nil
}

// SetValue decides a feature or a limit in a scope.
func (s *Service) SetValue(ctx context.Context, scope Scope, key string, value json.RawMessage) (Value, error) {
	l, err := s.levels(ctx, scope)
	if err != nil {
		return Value{}, err
	}
	if err := l.check(key, value); err != nil {
		return Value{}, err
	}
	if l.tenant != nil { // what it would have anyway
		inherited, ok := l.inherited(key)
		if ok && same(inherited.Value, value) {
			return inherited, s.storeValue(ctx, "unset", l, key, nil)
		}
	}
	if err := s.storeValue(ctx, "set", l, key, value); err != nil {
		return Value{}, err
	}
	if l, err = s.levels(ctx, scope); err != nil {
		return Value{}, err
	}
	held, _ := l.value(key)
	return held, nil
}

// UnsetValue takes a value back: what is inherited holds.
func (s *Service) UnsetValue(ctx context.Context, scope Scope, key string) error {
	l, err := s.levels(ctx, scope)
	if err != nil {
		return err
	}
	if err := l.known(key); err != nil {
		return err
	}
	return s.storeValue(ctx, "unset", l, key, nil)
}

func (s *Service) storeValue(ctx context.Context, verb string, l *levels, key string, value json.RawMessage) error {
	kind, _, _ := strings.Cut(key, "s.")
	event := catalog.Event{Action: kind + "." + verb, Target: catalog.Ref{Kind: kind, Name: key}, Actor: actorOf(ctx), Detail: map[string]any{"key": key}}
	if value != nil {
		event.Detail["value"] = value
	}
	switch {
	case l.tenant != nil:
		event.Target = l.tenant.Ref()
	case l.edition != nil:
		event.Target = catalog.Ref{Kind: "edition", Name: l.edition.Name}
	case strings.HasPrefix(key, FeaturePrefix):
		return s.storeDefault(ctx, l, key, value)
	}
	return s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		switch {
		case l.tenant != nil:
			return tx.SetSetting(ctx, l.tenant.ID, key, value)
		case l.edition != nil:
			return tx.SetEditionValue(ctx, l.edition.Name, key, value)
		}
		return tx.SetSetting(ctx, catalog.TenantID{}, key, value)
	})
}

// storeDefault changes what everybody has of a feature.
func (s *Service) storeDefault(ctx context.Context, l *levels, key string, value json.RawMessage) error {
	f := *l.plan.Features[strings.TrimPrefix(key, FeaturePrefix)]
	if value == nil {
		return s.RemoveFeature(ctx, f.Key)
	}
	f.Value = value
	return s.SetFeature(ctx, f)
}

// levels are where a value may stand, the nearest first.
type levels struct {
	tenant  *catalog.Tenant  // nil: the scope is no tenant's
	edition *catalog.Edition // nil: none
	global  map[string]json.RawMessage
	plan    *catalog.Plan
}

func (s *Service) levels(ctx context.Context, scope Scope) (*levels, error) {
	if scope.Tenant != "" && scope.Edition != "" {
		return nil, catalog.Invalid("a tenant and an edition are two scopes; name one")
	}
	l := &levels{plan: &catalog.Plan{Editions: map[string]*catalog.Edition{}, Features: map[string]*catalog.Feature{}}}
	var err error
	edition := scope.Edition
	if scope.Tenant != "" {
		if l.tenant, err = s.catalog.Tenant(ctx, scope.Tenant); err != nil {
			return nil, err
		}
		edition = l.tenant.Edition
	}
	if edition != "" {
		l.edition, err = s.catalog.Edition(ctx, edition)
		if err != nil && scope.Edition != "" {
			return nil, err
		}
	}
	if l.global, err = s.catalog.GlobalSettings(ctx); err != nil {
		return nil, err
	}
	features, err := s.catalog.Features(ctx)
	for _, f := range features {
		l.plan.Features[f.Key] = f
	}
	return l, err
}

func (l *levels) keys() []string {
	keys := slices.Clone(LimitKeys)
	for key := range l.plan.Features {
		keys = append(keys, FeaturePrefix+key)
	}
	slices.Sort(keys)
	return keys
}

func (l *levels) known(key string) error {
	feature, isFeature := strings.CutPrefix(key, FeaturePrefix)
	switch {
	case isFeature && l.plan.Features[feature] == nil:
		return fmt.Errorf("feature %.70q: %w", feature, catalog.ErrNotFound)
	case !isFeature && !slices.Contains(LimitKeys, key):
		return catalog.Invalid("limit %.60q is not known; there are %s", key, strings.Join(LimitKeys, ", "))
	}
	return nil
}

func (l *levels) check(key string, value json.RawMessage) error {
	if err := l.known(key); err != nil {
		return err
	}
	if feature, isFeature := strings.CutPrefix(key, FeaturePrefix); isFeature {
		if want := kindOf(l.plan.Features[feature].Value); kindOf(value) != want {
			return catalog.Invalid("feature %q: want a %s", feature, want)
		}
		return nil
	}
	return CheckSetting(key, value)
}

// value is what holds in the scope. A limit that nobody decided is none.
func (l *levels) value(key string) (Value, bool) {
	if l.tenant != nil {
		if own, ok := l.tenant.Settings[key]; ok {
			return l.told(Value{Key: key, Value: own, From: "tenant"}), true
		}
	}
	return l.inherited(key)
}

func (l *levels) inherited(key string) (Value, bool) {
	if l.edition != nil {
		if sold, ok := l.edition.Values[key]; ok {
			return l.told(Value{Key: key, Value: sold, From: "edition"}), true
		}
	}
	if feature, isFeature := strings.CutPrefix(key, FeaturePrefix); isFeature {
		f := l.plan.Features[feature]
		if f == nil {
			return Value{}, false
		}
		return l.told(Value{Key: key, Value: f.Value, From: "default"}), true
	}
	value, ok := l.global[key]
	return Value{Key: key, Value: value, From: "default"}, ok
}

// told adds what is true of the feature itself: whether it is visible, and that it is off where its parent is.
func (l *levels) told(v Value) Value {
	f := l.plan.Features[strings.TrimPrefix(v.Key, FeaturePrefix)]
	if f == nil || !strings.HasPrefix(v.Key, FeaturePrefix) {
		return v
	}
	v.Visible = f.Visible
	if f.Parent != "" && kindOf(v.Value) == "bool" {
		if parent, ok := l.value(FeaturePrefix + f.Parent); ok && isOff(parent.Value) {
			v.Value, v.From = json.RawMessage("false"), "parent "+f.Parent
		}
	}
	return v
}

func isOff(value json.RawMessage) bool { return string(bytes.TrimSpace(value)) == "false" }

// kindOf is the type of a feature's value: bool, number or text; empty for what can be none.
func kindOf(value json.RawMessage) string {
	switch {
	case isJSON[bool](value):
		return "bool"
	case isJSON[float64](value):
		return "number"
	case isJSON[string](value):
		return "text"
	}
	return ""
}

func same(a, b json.RawMessage) bool {
	var compactA, compactB bytes.Buffer
	return json.Compact(&compactA, a) == nil && json.Compact(&compactB, b) == nil && bytes.Equal(compactA.Bytes(), compactB.Bytes())
}

func isFeatureKey(key string) bool {
	if key == "" || len(key) > 63 || key[0] < 'a' || key[0] > 'z' {
		return false
	}
	for _, r := range key {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '.' && r != '-' {
			return false
		}
	}
	return true
}

// Feature is what a tenant has of a feature, in memory; nil for one that nobody declared.
func (d *Directory) Feature(t *catalog.Tenant, key string) json.RawMessage {
	v, ok := d.levels(t).value(FeaturePrefix + key)
	if !ok {
		return nil
	}
	return v.Value
}

// VisibleFeatures are the features that a tenant's clients may know of.
func (d *Directory) VisibleFeatures(t *catalog.Tenant) map[string]json.RawMessage {
	l := d.levels(t)
	visible := map[string]json.RawMessage{}
	for key, f := range l.plan.Features {
		if f.Visible {
			if v, ok := l.value(FeaturePrefix + key); ok {
				visible[key] = v.Value
			}
		}
	}
	return visible
}

func (d *Directory) levels(t *catalog.Tenant) *levels {
	d.mu.RLock()
	defer d.mu.RUnlock()
	l := &levels{tenant: t, global: d.settings, plan: d.plan}
	if l.plan == nil {
		l.plan = &catalog.Plan{}
	}
	if t != nil && t.Edition != "" {
		l.edition = l.plan.Editions[t.Edition]
	}
	return l
}

// sold is what a tenant's edition gives under a key, or nil. The caller holds the directory's lock.
func (d *Directory) sold(t *catalog.Tenant, key string) json.RawMessage {
	if t == nil || t.Edition == "" || d.plan == nil {
		return nil
	}
	if e := d.plan.Editions[t.Edition]; e != nil {
		return e.Values[key]
	}
	return nil
}
