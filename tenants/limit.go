package tenants

import (
	"encoding/json"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// Limits are how much of the house one tenant may use at once. A zero field is no limit.
type Limits struct {
	// RequestsPerSecond is how many requests each router takes of the tenant a second; a second's worth may come at once.
	RequestsPerSecond int
	// ConcurrentRequests is how many of its transactions each router runs at a time.
	ConcurrentRequests int
	// StatementTimeout is how long one statement may run.
	StatementTimeout time.Duration
	// Rows is how many rows one answer may have.
	Rows int64
}

// The settings that limit a tenant, for everybody or for one.
const (
	LimitRequests   = "limits.requests_per_second"
	LimitConcurrent = "limits.concurrent_requests"
	LimitStatement  = "limits.statement_timeout"
	LimitRows       = "limits.rows"
)

// ReadLimits are the limits that settings name, and otherwise's where they name none. A setting of 0 lifts the limit. One
// that cannot be read counts as none: what a host decides is checked when it is stored.
func ReadLimits(setting func(key string) json.RawMessage, otherwise Limits) Limits {
	l := otherwise
	read(setting(LimitRequests), &l.RequestsPerSecond)
	read(setting(LimitConcurrent), &l.ConcurrentRequests)
	read(setting(LimitRows), &l.Rows)
	var text string
	if read(setting(LimitStatement), &text) {
		if d, err := time.ParseDuration(text); err == nil && d >= 0 {
			l.StatementTimeout = d
		}
	}
	return l
}

func read[T any](value json.RawMessage, into *T) bool {
	if value == nil {
		return false
	}
	var own T
	if json.Unmarshal(value, &own) != nil {
		return false
	}
	*into = own
	return true
}

// Limits are what the host allows a tenant, and otherwise's where it has decided nothing.
func (d *Directory) Limits(t *catalog.Tenant, otherwise Limits) Limits {
	return ReadLimits(func(key string) json.RawMessage { return d.Setting(t, key) }, otherwise)
}
