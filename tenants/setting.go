package tenants

import (
	"bytes"
	"encoding/json"
	"net/url"
	"path/filepath"
	"slices"
	"sort"
	"strings"
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
	"rest.schemas":           {fits: areSchemas(1), want: "a list of schema names, of which none is the system's or rowhouse"},
	"rest.extra_search_path": {fits: areSchemas(0), want: "a list of schema names, of which none is the system's or rowhouse"},
	"rest.anon_role":         {fits: isJSON[string], want: "a role name, empty to refuse anonymous requests"},
	"rest.max_rows":          {fits: isJSON[uint32], want: "a number of rows"},
	"rest.max_body":          {fits: isJSON[uint32], want: "a number of bytes"},
	"rest.tx_end":            {fits: isOneOf("commit", "commit-allow-override", "rollback", "rollback-allow-override"), want: "commit, commit-allow-override, rollback or rollback-allow-override"},
	"rest.pre_request":       {fits: isJSON[string], want: "a function's name"},
	"rest.aggregates":        {fits: isJSON[bool], want: "true or false"},
	"rest.server_timing":     {fits: isJSON[bool], want: "true or false"},
	"rest.plan":              {fits: isJSON[bool], want: "true or false"},
	"auth.jwt_secret":        {fits: isSecret, want: "a secret of 32 characters or more", secret: true},
	"auth.jwks_url":          {fits: isKeyURL, want: "an https URL without a password; it needs auth.issuer and auth.audience"},
	"auth.jwks_file":         {fits: isAbsolute, want: "an absolute path of a file that every process has"},
	"auth.issuer":            {fits: isJSON[string], want: "an issuer"},
	"auth.audience":          {fits: isJSON[string], want: "an audience"},
	"auth.tenant_claim":      {fits: isJSON[string], want: "a claim's name"},
	"auth.role_claim":        {fits: isJSON[string], want: "a claim's name"},
	"auth.require_exp":       {fits: isJSON[bool], want: "true or false"},
	"auth.require_audience":  {fits: isJSON[bool], want: "true or false"},
	"auth.leeway":            {fits: isDuration, want: `a duration such as "30s"`},
	SettingOrigins:           {fits: areOrigins, want: `a list of origins such as "https://app.example.com"`},
	"audit.requests":         {fits: isOneOf("off", "writes", "all"), want: "off, writes or all"},
	"audit.retention":        {fits: isRetention, want: `a duration of a day or more, such as "720h", or "0s" for ever`},
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
		return catalog.Invalid("setting %.60q is not known", key)
	case !s.fits(value):
		return catalog.Invalid("setting %q: want %s", key, s.want)
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

// Exposable says whether requests may be let into a schema: never the system's, nor the one that says who may see what.
func Exposable(schema string) bool {
	return schema != "" && len(schema) <= 63 && !strings.ContainsRune(schema, 0) &&
		schema != "rowhouse" && schema != "information_schema" && !strings.HasPrefix(schema, "pg_")
}

func areSchemas(least int) func(json.RawMessage) bool {
	return func(value json.RawMessage) bool {
		var names []string
		if json.Unmarshal(value, &names) != nil || names == nil || len(names) < least {
			return false
		}
		return !slices.ContainsFunc(names, func(name string) bool { return !Exposable(name) })
	}
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

func isSecret(value json.RawMessage) bool {
	var s string
	return json.Unmarshal(value, &s) == nil && len(s) >= 32
}

func isRetention(value json.RawMessage) bool {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return false
	}
	d, err := time.ParseDuration(s)
	return err == nil && (d == 0 || d >= 24*time.Hour)
}

func isKeyURL(value json.RawMessage) bool {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil
}

func isAbsolute(value json.RawMessage) bool {
	var s string
	return json.Unmarshal(value, &s) == nil && filepath.IsAbs(s)
}

func isDuration(value json.RawMessage) bool {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return false
	}
	d, err := time.ParseDuration(s)
	return err == nil && d >= 0
}

// SettingWants says what a key's value must be; empty for a key that there is not.
func SettingWants(key string) string { return settings[key].want }
