package tenants_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/tenants"
)

func TestReadLimits(t *testing.T) {
	t.Parallel()
	otherwise := tenants.Limits{RequestsPerSecond: 5, ConcurrentRequests: 8, StatementTimeout: time.Minute, Rows: 10}
	for name, c := range map[string]struct {
		settings map[string]string
		want     tenants.Limits
	}{
		"nothing set":          {nil, otherwise},
		"everything set":       {map[string]string{tenants.LimitRequests: "7", tenants.LimitConcurrent: "2", tenants.LimitStatement: `"3s"`, tenants.LimitRows: "4"}, tenants.Limits{RequestsPerSecond: 7, ConcurrentRequests: 2, StatementTimeout: 3 * time.Second, Rows: 4}},
		"zero lifts the limit": {map[string]string{tenants.LimitRequests: "0", tenants.LimitStatement: `"0s"`}, tenants.Limits{ConcurrentRequests: 8, Rows: 10}},
		"what cannot be read":  {map[string]string{tenants.LimitRequests: `"x"`, tenants.LimitStatement: `"soon"`, tenants.LimitRows: "[]"}, otherwise},
	} {
		got := tenants.ReadLimits(func(key string) json.RawMessage {
			if v, ok := c.settings[key]; ok {
				return json.RawMessage(v)
			}
			return nil
		}, otherwise)
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	for key, bad := range map[string]string{tenants.LimitRequests: "-1", tenants.LimitConcurrent: `"8"`, tenants.LimitRows: "1.5", tenants.LimitStatement: "5"} {
		if tenants.CheckSetting(key, json.RawMessage(bad)) == nil {
			t.Errorf("%s = %s must be refused", key, bad)
		}
		if err := tenants.CheckSetting(key, json.RawMessage(map[bool]string{true: `"5s"`, false: "5"}[key == tenants.LimitStatement])); err != nil {
			t.Error(err)
		}
	}
}
