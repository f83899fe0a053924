package admin

import (
	"context"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// permitMigrate is bringing databases to other versions.
const permitMigrate = "tenants.migrate"

// RolloutInput names a rollout. It is exported because what embeds it is read by reflection.
type RolloutInput struct {
	ID catalog.RolloutID `path:"id" maxLength:"36" minLength:"36"`
}

type rolloutOutput struct {
	Location string `header:"Location"`
	Body     rolloutBody
}

// rolloutBody is a rollout; null where there is nothing to do.
type rolloutBody struct {
	Rollout *catalog.Rollout `json:"rollout"`
}

type planOutput struct{ Body *tenants.RolloutPlan }

type fleetInput struct {
	Rollout string `query:"rollout" maxLength:"36" doc:"Id; the unfinished one, else the last, without one"`
	Drift   bool   `query:"drift" doc:"Connect to every database and compare it with what the catalog says"`
}

type fleetOutput struct{ Body *tenants.FleetStatus }

type resultsInput struct {
	RolloutInput
	After int64 `query:"after" minimum:"0" doc:"The seq of the last result that is known"`
}

type resultsOutput struct {
	Body list[*catalog.RolloutTarget]
}

type startInput struct{ Body tenants.RolloutSpec }

type resumeInput struct {
	RolloutInput
	Body struct {
		Reset bool `json:"reset,omitempty" doc:"Failures so far count no more, and are not tried again"`
	}
}

type retryInput struct {
	RolloutInput
	Body tenants.RetrySpec
}

type retryOutput struct{ Body *tenants.Retried }

type skipInput struct {
	RolloutInput
	Body struct {
		Database string `json:"database" maxLength:"64" doc:"Name, id, or a tenant in it"`
		Reason   string `json:"reason" minLength:"1" maxLength:"500"`
	}
}

type cancelRolloutInput struct {
	RolloutInput
	Body struct {
		Reason string `json:"reason,omitempty" maxLength:"500"`
	}
}

func (s *service) registerRollouts() {
	const tag = "Rollouts"
	fleet := s.cfg.Rollouts
	if fleet == nil {
		fleet = noRollouts{}
	}
	shown := func(ctx context.Context, id catalog.RolloutID, err error) (*rolloutOutput, error) {
		if err != nil {
			return nil, err
		}
		ro, err := fleet.Rollout(ctx, id.String())
		return &rolloutOutput{"", rolloutBody{ro}}, err
	}
	add(s, route{"get-fleet", tag, "Show which versions the databases have, and how a rollout stands", http.MethodGet, "/fleet", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *fleetInput) (*fleetOutput, error) {
			status, err := fleet.FleetStatus(ctx, in.Rollout, in.Drift)
			return &fleetOutput{status}, err
		})
	add(s, route{"list-rollouts", tag, "List the last hundred rollouts, the newest first", http.MethodGet, "/rollouts", tenants.PermitServersRead, 0},
		func(ctx context.Context, _ *struct{}) (*listOutput[*catalog.Rollout], error) {
			found, err := fleet.Rollouts(ctx)
			return everything(found), err
		})
	add(s, route{"start-rollout", tag, "Bring the fleet to a set of migrations, or go on with what does so", http.MethodPost, "/rollouts", permitMigrate, http.StatusAccepted},
		func(ctx context.Context, in *startInput) (*rolloutOutput, error) {
			ro, err := fleet.StartRollout(ctx, in.Body)
			if err != nil || ro == nil {
				return &rolloutOutput{}, err
			}
			return &rolloutOutput{basePath + "/rollouts/" + ro.ID.String(), rolloutBody{ro}}, nil
		})
	add(s, route{"plan-rollout", tag, "Say what start-rollout would do; nothing in the fleet is changed", http.MethodPost, "/rollout-plans", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *startInput) (*planOutput, error) {
			plan, err := fleet.PlanRollout(ctx, in.Body)
			return &planOutput{plan}, err
		})
	add(s, route{"get-rollout", tag, "Show a rollout", http.MethodGet, "/rollouts/{id}", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *RolloutInput) (*rolloutOutput, error) { return shown(ctx, in.ID, nil) })
	add(s, route{"list-rollout-results", tag, "List what became of databases, in its order", http.MethodGet, "/rollouts/{id}/results", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *resultsInput) (*resultsOutput, error) {
			found, err := fleet.RolloutResults(ctx, in.ID, in.After)
			return &resultsOutput{everything(found).Body}, err
		})
	add(s, route{"pause-rollout", tag, "Begin no further database; what runs may end", http.MethodPost, `/rollouts/{id}/\:pause`, permitMigrate, 0},
		func(ctx context.Context, in *RolloutInput) (*rolloutOutput, error) {
			return shown(ctx, in.ID, fleet.PauseRollout(ctx, in.ID))
		})
	add(s, route{"resume-rollout", tag, "Go on with a paused rollout", http.MethodPost, `/rollouts/{id}/\:resume`, permitMigrate, http.StatusAccepted},
		func(ctx context.Context, in *resumeInput) (*rolloutOutput, error) {
			return shown(ctx, in.ID, fleet.ResumeRollout(ctx, in.ID, in.Body.Reset))
		})
	add(s, route{"retry-rollout", tag, "Try databases again that failed or need repair", http.MethodPost, `/rollouts/{id}/\:retry`, permitMigrate, http.StatusAccepted},
		func(ctx context.Context, in *retryInput) (*retryOutput, error) {
			done, err := fleet.RetryRollout(ctx, in.ID, in.Body)
			return &retryOutput{done}, err
		})
	add(s, route{"skip-target", tag, "Leave a database behind", http.MethodPost, `/rollouts/{id}/\:skip`, permitMigrate, 0},
		func(ctx context.Context, in *skipInput) (*rolloutOutput, error) {
			return shown(ctx, in.ID, fleet.SkipTarget(ctx, in.ID, in.Body.Database, in.Body.Reason))
		})
	add(s, route{"cancel-rollout", tag, "Give a rollout up; what was migrated stays", http.MethodPost, `/rollouts/{id}/\:cancel`, permitMigrate, 0},
		func(ctx context.Context, in *cancelRolloutInput) (*rolloutOutput, error) {
			return shown(ctx, in.ID, fleet.CancelRollout(ctx, in.ID, in.Body.Reason))
		})
}

// noRollouts answers where nobody migrates the fleet.
type noRollouts struct{}

var errNoRollouts = newProblem(http.StatusNotFound, "", "Nobody brings the fleet to versions here")

func (noRollouts) PlanRollout(context.Context, tenants.RolloutSpec) (*tenants.RolloutPlan, error) {
	return nil, errNoRollouts
}

func (noRollouts) StartRollout(context.Context, tenants.RolloutSpec) (*catalog.Rollout, error) {
	return nil, errNoRollouts
}

func (noRollouts) Rollouts(context.Context) ([]*catalog.Rollout, error) { return nil, errNoRollouts }

func (noRollouts) Rollout(context.Context, string) (*catalog.Rollout, error) {
	return nil, errNoRollouts
}

func (noRollouts) PauseRollout(context.Context, catalog.RolloutID) error { return errNoRollouts }

func (noRollouts) ResumeRollout(context.Context, catalog.RolloutID, bool) error { return errNoRollouts }

func (noRollouts) CancelRollout(context.Context, catalog.RolloutID, string) error {
	return errNoRollouts
}

func (noRollouts) RolloutResults(context.Context, catalog.RolloutID, int64) ([]*catalog.RolloutTarget, error) {
	return nil, errNoRollouts
}

func (noRollouts) FleetStatus(context.Context, string, bool) (*tenants.FleetStatus, error) {
	return nil, errNoRollouts
}

func (noRollouts) RetryRollout(context.Context, catalog.RolloutID, tenants.RetrySpec) (*tenants.Retried, error) {
	return nil, errNoRollouts
}

func (noRollouts) SkipTarget(context.Context, catalog.RolloutID, string, string) error {
	return errNoRollouts
}
