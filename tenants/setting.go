package tenants

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// setting is a key that the host may set for everybody or for one tenant.
type setting struct {
	fits   func(json.RawMessage) bool
	want   string
	secret bool
}

// settings are the keys the contract lets a tenant override; every one is the host's to set.
var settings = map[string]setting{
	"rest.schemas":           {fits: isJSON[[]string], want: "a list of schema names"},
	"rest.extra_search_path": {fits: isJSON[[]string], want: "a list of schema names"},
	"rest.anon_role":         {fits: isJSON[string], want: "a role name, empty to refuse anonymous requests"},
	"rest.max_rows":          {fits: isJSON[uint32], want: "a number of rows"},
	"rest.max_body":          {fits: isJSON[uint32], want: "a number of bytes"},
	"rest.tx_end":            {fits: isOneOf("commit", "commit-allow-override", "rollback", "rollback-allow-override"), want: "commit, commit-allow-override, rollback or rollback-allow-override"},
	"rest.pre_request":       {fits: isJSON[string], want: "a function's name"},
	"rest.aggregates":        {fits: isJSON[bool], want: "true or false"},
	"rest.plan":              {fits: isJSON[bool], want: "true or false"},
	"auth.issuer":            {fits: isJSON[string], want: "an issuer"},
	"auth.audience":          {fits: isJSON[string], want: "an audience"},
	"auth.tenant_claim":      {fits: isJSON[string], want: "a claim's name"},
	"auth.role_claim":        {fits: isJSON[string], want: "a claim's name"},
	"auth.require_exp":       {fits: isJSON[bool], want: "true or false"},
	"auth.require_audience":  {fits: isJSON[bool], want: "true or false"},
	"auth.leeway":            {fits: isDuration, want: `a duration such as "30s"`},
	LimitRequests:            {fits: isJSON[uint16], want: "a number of requests a second, 0 for no limit"},
	LimitConcurrent:          {fits: isJSON[uint16], want: "a number of requests at a time, 0 for no limit"},
	LimitStatement:           {fits: isDuration, want: `a duration such as "5s", "0s" for no limit`},
	LimitRows:                {fits: isJSON[uint32], want: "a number of rows, 0 for no limit"},
}

// CheckSetting says why a value does not fit its key, or that there is no such key. The value is not repeated.
func CheckSetting(key string, value json.RawMessage) error {
	s, ok := settings[key]
	switch {
	case !ok:
		return fmt.Errorf("setting %.60q is not known: %w", key, catalog.ErrInvalid)
	case !s.fits(value):
		return fmt.Errorf("setting %q: want %s: %w", key, s.want, catalog.ErrInvalid)
	}
	return nil
}

// SettingKeys are the keys that can be set, sorted.
func SettingKeys() []string {
	keys := make([]string, 0, len(settings))
	for key := range settings {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func isJSON[T any](value json.RawMessage) bool {
	var v T
	d := json.NewDecoder(bytes.NewReader(value))
	return !bytes.Equal(bytes.TrimSpace(value), []byte("null")) && d.Decode(&v) == nil && !d.More()
}

func isOneOf(words ...string) func(json.RawMessage) bool {
	return func(value json.RawMessage) bool {
		var s string
		if json.Unmarshal(value, &s) != nil {
			return false
		}
		for _, w := range words {
			if s == w {
				return true
			}
		}
		return false
	}
}

func isDuration(value json.RawMessage) bool {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return false
	}
	d, err := time.ParseDuration(s)
	return err == nil && d >= 0
}
