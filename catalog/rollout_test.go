package catalog_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
)

// rolloutOf is a catalog with n databases on one server, and a rollout of them in one ring.
func rolloutOf(t testing.TB, n int) (*catalog.Catalog, *catalog.Rollout) {
	t.Helper()
	ctx := t.Context()
	cat, _ := catalogtest.New(t)
	server := addServer(t, cat)
	ro := &catalog.Rollout{
		ID: catalog.NewID[catalog.Rollout](), Operation: catalog.NewID[catalog.Operation](), Chain: "new", From: 1, To: 2,
		Rings: []*catalog.RolloutRing{{Name: "all", Selectors: []string{"all"}, MaxFailures: 5, Soak: time.Minute}},
	}
	var ids []catalog.DatabaseID
	for range n {
		ids = append(ids, addDatabase(t, cat, server))
	}
	err := cat.Update(ctx, catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		added, late := 0, 0
		return errors.Join(
			tx.ActivateSet(ctx, &catalog.MigrationSet{Version: 2, Chain: "new"}),
			tx.CreateOperation(ctx, &catalog.Operation{ID: ro.Operation, Kind: "fleet.migrate"}),
			tx.CreateRollout(ctx, ro),
			func() (err error) { added, err = tx.AddTargets(ctx, ro.ID, 0, ids); return err }(),
			func() (err error) { late, err = tx.AddTargets(ctx, ro.ID, 0, ids); return err }(),
			tx.RolloutPrepared(ctx, ro),
			func() error {
				if added != n || late != 0 {
					return fmt.Errorf("%d targets, then %d, of %d databases", added, late, n)
				}
				return nil
			}(),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	return cat, ro
}

func claim(t testing.TB, cat *catalog.Catalog, ro *catalog.Rollout, n int, lease time.Duration) []*catalog.RolloutClaim {
	t.Helper()
	var claims []*catalog.RolloutClaim
	err := cat.Turn(t.Context(), ro.ID, func(tx *catalog.Tx, ro *catalog.Rollout) (err error) {
		claims, err = tx.ClaimTargets(t.Context(), ro, catalog.NewID[catalog.Instance](), n, lease)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// record writes a result; one of a claim that was lost is errLost.
func record(t *testing.T, cat *catalog.Catalog, id catalog.RolloutID, r *catalog.TargetResult) error {
	t.Helper()
	return cat.Turn(t.Context(), id, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		lost, err := tx.RecordTargets(t.Context(), ro, []*catalog.TargetResult{r})
		if err == nil && len(lost) > 0 {
			return errLost
		}
		return err
	})
}

var errLost = errors.New("claim was lost")

func TestTx_ClaimTargets(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cat, ro := rolloutOf(t, 6)
	first := claim(t, cat, ro, 3, time.Minute)
	if len(first) != 3 {
		t.Fatalf("%d claims of 3", len(first))
	}
	if second := claim(t, cat, ro, 3, time.Minute); len(second) != 1 {
		t.Errorf("%d more claims on a server of 4 slots", len(second))
	}
	record := func(r *catalog.TargetResult) error { return record(t, cat, ro.ID, r) }
	schema := catalog.Migrated{Version: 2, Chain: "new", Fingerprint: "f"}
	done := &catalog.TargetResult{RolloutClaim: first[0], State: catalog.TargetDone, Schema: schema}
	if err := record(done); err != nil {
		t.Fatal(err)
	}
	if err := record(done); !errors.Is(err, errLost) {
		t.Errorf("a result that was recorded gives %v", err)
	}
	db, err := cat.Database(ctx, first[0].Database)
	if err != nil || db.SchemaVersion != 2 || db.SchemaChain != "new" || db.PlanEpoch != 2 {
		t.Errorf("database %+v, %v", db, err)
	}
	read, err := cat.Rollout(ctx, ro.ID)
	if err != nil || read.Rings[0].Done != 1 || read.Rings[0].Failed != 0 || read.Rings[0].Left() != 5 || read.Rings[0].Soak != time.Minute {
		t.Errorf("ring %+v, %v", read.Rings[0], err)
	}
	if err := record(&catalog.TargetResult{RolloutClaim: first[1], State: catalog.TargetFailed, Schema: catalog.Migrated{Version: 1, Error: "no"}, Error: "no"}); err != nil {
		t.Fatal(err)
	}
	results, err := cat.RolloutResults(ctx, ro.ID, 1)
	if err != nil || len(results) != 1 || results[0].Error != "no" || results[0].Seq != 2 {
		t.Errorf("results after the first: %v, %v", results, err)
	}
}

// A claim that lapsed is another's, and the one before can record nothing more.
func TestTx_ClaimTargets_lapsed(t *testing.T) {
	t.Parallel()
	cat, ro := rolloutOf(t, 1)
	lapsed := claim(t, cat, ro, 1, -time.Second)
	second := claim(t, cat, ro, 1, time.Minute)
	if len(lapsed) != 1 || len(second) != 1 || second[0].Epoch != lapsed[0].Epoch+1 || second[0].Attempts != 2 {
		t.Fatalf("claims %+v, %+v", lapsed, second)
	}
	for want, c := range map[error]*catalog.RolloutClaim{errLost: lapsed[0], nil: second[0]} {
		err := record(t, cat, ro.ID, &catalog.TargetResult{RolloutClaim: c, State: catalog.TargetDone, Schema: catalog.Migrated{Version: 2, Chain: "new"}})
		if !errors.Is(err, want) {
			t.Errorf("recording under epoch %d gives %v, want %v", c.Epoch, err, want)
		}
	}
	if again := claim(t, cat, ro, 1, time.Minute); len(again) != 0 {
		t.Errorf("a database that is done is claimed again: %+v", again[0])
	}
}

func TestTx_CreateRollout_oneAtATime(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cat, ro := rolloutOf(t, 1)
	second := &catalog.Rollout{ID: catalog.NewID[catalog.Rollout](), Operation: catalog.NewID[catalog.Operation](), Chain: "new"}
	create := func() error {
		return cat.Update(ctx, catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
			if err := tx.CreateOperation(ctx, &catalog.Operation{ID: second.Operation, Kind: "fleet.migrate"}); err != nil {
				return err
			}
			return tx.CreateRollout(ctx, second)
		})
	}
	if err := create(); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("a second rollout gives %v", err)
	}
	err := cat.Update(ctx, catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		ro, err := tx.LockRollout(ctx, ro.ID)
		if err != nil {
			return err
		}
		return tx.FinishRollout(ctx, ro, catalog.RolloutCancelled, "over")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := create(); err != nil {
		t.Errorf("after the first is over: %v", err)
	}
	op, err := cat.Operation(ctx, ro.Operation)
	if err != nil || op.State != catalog.OperationCancelled || op.FinishedAt == nil {
		t.Errorf("operation %+v, %v", op, err)
	}
}

func TestCatalog_FleetState(t *testing.T) {
	t.Parallel()
	cat, ro := rolloutOf(t, 3)
	state, err := cat.FleetState(t.Context(), "new")
	if err != nil || state.Active != "new" || state.Version != 2 || state.Rollout != ro.ID || state.RolloutChain != "new" || state.Behind != 3 || state.Current != 0 {
		t.Errorf("%+v, %v", state, err)
	}
	if state, err = cat.FleetState(t.Context(), ""); err != nil || state.Behind != 0 || state.Current != 3 {
		t.Errorf("%+v, %v", state, err)
	}
}
