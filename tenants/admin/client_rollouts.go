package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

var _ tenants.RolloutOperator = (*Client)(nil)

// PlanRollout says what StartRollout would do.
func (c *Client) PlanRollout(ctx context.Context, spec tenants.RolloutSpec) (*tenants.RolloutPlan, error) {
	return one[tenants.RolloutPlan](ctx, c, http.MethodPost, "/rollout-plans", spec)
}

// StartRollout begins to bring the fleet to a set, or goes on with what does so already. Nil: the fleet is there.
func (c *Client) StartRollout(ctx context.Context, spec tenants.RolloutSpec) (*catalog.Rollout, error) {
	return c.rollout(ctx, http.MethodPost, "/rollouts", spec)
}

func (c *Client) rollout(ctx context.Context, method, path string, in any) (*catalog.Rollout, error) {
	body, err := one[rolloutBody](ctx, c, method, path, in)
	if err != nil {
		return nil, err
	}
	return body.Rollout, nil
}

// Rollouts lists the newest hundred without their rings, the newest first.
func (c *Client) Rollouts(ctx context.Context) ([]*catalog.Rollout, error) {
	found, err := one[list[*catalog.Rollout]](ctx, c, http.MethodGet, "/rollouts", nil)
	if err != nil {
		return nil, err
	}
	return found.Items, nil
}

// Rollout finds one by its id; without one it is the unfinished one, else the last.
func (c *Client) Rollout(ctx context.Context, id string) (*catalog.Rollout, error) {
	if id == "" {
		status, err := c.FleetStatus(ctx, "", false)
		if err == nil && status.Rollout == nil {
			return nil, about("rollout", "the last", catalog.ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		return status.Rollout, nil
	}
	ro, err := c.rollout(ctx, http.MethodGet, "/rollouts/"+url.PathEscape(id), nil)
	return ro, about("rollout", id, err)
}

// RolloutResults lists what was written since the result numbered after, in its order.
func (c *Client) RolloutResults(ctx context.Context, id catalog.RolloutID, after int64) ([]*catalog.RolloutTarget, error) {
	var found list[*catalog.RolloutTarget]
	err := c.do(ctx, http.MethodGet, "/rollouts/"+id.String()+"/results", url.Values{"after": {strconv.FormatInt(after, 10)}}, nil, &found)
	return found.Items, about("rollout", id.String(), err)
}

// FleetStatus says which versions the databases have, and how a rollout stands.
func (c *Client) FleetStatus(ctx context.Context, id string, drift bool) (*tenants.FleetStatus, error) {
	query := url.Values{"drift": {strconv.FormatBool(drift)}}
	if id != "" {
		query.Set("rollout", id)
	}
	status := &tenants.FleetStatus{}
	if err := c.do(ctx, http.MethodGet, "/fleet", query, nil, status); err != nil {
		return nil, about("rollout", id, err)
	}
	return status, nil
}

func (c *Client) tell(ctx context.Context, id catalog.RolloutID, verb string, in, out any) error {
	return about("rollout", id.String(), c.do(ctx, http.MethodPost, "/rollouts/"+id.String()+":"+verb, nil, in, out))
}

// PauseRollout lets what runs end and begins nothing more.
func (c *Client) PauseRollout(ctx context.Context, id catalog.RolloutID) error {
	return c.tell(ctx, id, "pause", nil, nil)
}

// ResumeRollout lets a paused rollout go on.
func (c *Client) ResumeRollout(ctx context.Context, id catalog.RolloutID, reset bool) error {
	return c.tell(ctx, id, "resume", map[string]any{"reset": reset}, nil)
}

// RetryRollout tries databases again that failed or need repair.
func (c *Client) RetryRollout(ctx context.Context, id catalog.RolloutID, spec tenants.RetrySpec) (*tenants.Retried, error) {
	done := &tenants.Retried{}
	if err := c.tell(ctx, id, "retry", spec, done); err != nil {
		return nil, err
	}
	return done, nil
}

// SkipTarget leaves a database behind, and says why.
func (c *Client) SkipTarget(ctx context.Context, id catalog.RolloutID, database, reason string) error {
	err := c.do(ctx, http.MethodPost, "/rollouts/"+id.String()+":skip", nil, map[string]any{"database": database, "reason": reason}, nil)
	return about("database or tenant in this rollout", database, err)
}

// CancelRollout gives a rollout up; what was migrated stays.
func (c *Client) CancelRollout(ctx context.Context, id catalog.RolloutID, why string) error {
	return c.tell(ctx, id, "cancel", map[string]any{"reason": why}, nil)
}
