//go:build failpoint

package jobs_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
)

// pointsOf are the points that an operation's steps pass, but for the steps that it passes over, with those inside a step.
func pointsOf(kind string, steps, over []string, inside ...string) []string {
	var points []string
	for _, step := range steps {
		if slices.Contains(over, step) {
			continue
		}
		points = append(points, kind+"."+step+".before")
		for _, p := range inside {
			if strings.HasPrefix(p, kind+"."+step+".") {
				points = append(points, p)
			}
		}
		points = append(points, kind+"."+step+".after")
	}
	return points
}

// Of each operation at a tenant's end, the points that are passed in each placement.
var (
	deletePoints = map[catalog.Placement][]string{
		catalog.Dedicated: pointsOf("delete", tenants.DeleteSteps, []string{"exported"}, "delete.retired.renamed"),
		catalog.Shared:    pointsOf("delete", tenants.DeleteSteps, []string{"exported", "retired"}),
	}
	undeletePoints = map[catalog.Placement][]string{
		catalog.Dedicated: pointsOf("undelete", tenants.UndeleteSteps, nil, "undelete.restored.renamed"),
		catalog.Shared:    pointsOf("undelete", tenants.UndeleteSteps, []string{"restored", "migrated"}),
	}
	purgePoints = map[catalog.Placement][]string{
		catalog.Dedicated: pointsOf("purge", tenants.PurgeSteps, []string{"emptied"}, "purge.dropped.database"),
		catalog.Shared:    pointsOf("purge", tenants.PurgeSteps, []string{"dropped"}, "purge.emptied.batch"),
	}
)

// Whoever adds a point is reminded of the lists above.
func TestPoints_end(t *testing.T) {
	for _, p := range fp.Points() {
		for kind, known := range map[string]map[catalog.Placement][]string{"delete.": deletePoints, "undelete.": undeletePoints, "purge.": purgePoints} {
			if strings.HasPrefix(p, kind) && !slices.Contains(slices.Concat(known[catalog.Shared], known[catalog.Dedicated]), p) && !strings.HasPrefix(p, "delete.exported") {
				t.Errorf("no test ends a process at %s", p)
			}
		}
	}
}

// killedAt has a process work on an operation that is killed at a point, and another one finish it.
func (h *house) killedAt(t testing.TB, op *catalog.Operation, point string) {
	t.Helper()
	err := h.child(t, op.ID, point+"=kill9").Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child was not killed at %s: %v", point, err)
	}
	_, err = h.catalog.Pool().Exec(t.Context(), `update rowhouse.operations set lease_until = '-infinity' where id = $1`, op.ID)
	must(t, err) // it would end by itself in a second
	h.done(t, op, nil)
}

func bothPlacements(t *testing.T, test func(*testing.T, catalog.Placement)) {
	for _, placement := range []catalog.Placement{catalog.Shared, catalog.Dedicated} {
		t.Run(string(placement), func(t *testing.T) {
			t.Parallel()
			test(t, placement)
		})
	}
}

// A process that is killed at any point of a deletion or of its taking back is followed by another, and no row is lost.
func TestDelete_afterKill(t *testing.T) {
	t.Parallel()
	bothPlacements(t, func(t *testing.T, placement catalog.Placement) {
		h := twoShops(t, placement)
		before := h.rows(t, "acme")
		_, db := h.tenant(t, "acme")
		deletes, undeletes := deletePoints[placement], undeletePoints[placement]
		for i := range max(len(deletes), len(undeletes)) {
			op, err := h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{NoExport: true})
			must(t, err)
			h.killedAt(t, op, deletes[i%len(deletes)])
			if placement == catalog.Dedicated {
				h.checkPutAway(t, db)
			}
			op, err = h.service.UndeleteTenant(t.Context(), "acme")
			must(t, err)
			h.killedAt(t, op, undeletes[i%len(undeletes)])
			if diff := cmp.Diff(before, h.rows(t, "acme")); diff != "" {
				t.Fatalf("killed at %s and %s (-before +after):\n%s", deletes[i%len(deletes)], undeletes[i%len(undeletes)], diff)
			}
		}
	})
}

// A purge that is killed at any point ends with nothing left, and could not be taken back once it had begun.
func TestPurge_afterKill(t *testing.T) {
	t.Parallel()
	bothPlacements(t, func(t *testing.T, placement catalog.Placement) {
		h := twoShops(t, placement)
		neighbours := h.rows(t, "globex")
		for i, point := range purgePoints[placement] {
			name := fmt.Sprintf("tenant-%d", i)
			tenant, db := h.made(t, tenants.TenantSpec{Name: name, Placement: placement})
			h.fill(t, name, 3)
			op, err := h.service.DeleteTenant(t.Context(), name, tenants.DeleteSpec{NoExport: true})
			h.done(t, op, err)
			op, err = h.service.PurgeTenant(t.Context(), name)
			must(t, err)
			h.killedAt(t, op, point)
			h.checkPurged(t, tenant, db)
		}
		if diff := cmp.Diff(neighbours, h.rows(t, "globex")); diff != "" {
			t.Errorf("the neighbour has other rows (-before +after):\n%s", diff)
		}
	})
}
