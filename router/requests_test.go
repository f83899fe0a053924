package router

import (
	"net/http"
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
)

// Whatever comes in, no more waits than there is place for, and no tenant takes the place of all others.
func TestRecords_Bounded(t *testing.T) {
	t.Parallel()
	rs := newRecords()
	loud, quiet := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant]()}, &catalog.Tenant{ID: catalog.NewID[catalog.Tenant]()}
	for range 2 * maxTenantRecords {
		rs.add(loud, 0, record{})
	}
	rs.add(quiet, 0, record{})
	if st := rs.stat(); st.Waiting != maxTenantRecords+1 || st.Dropped != maxTenantRecords {
		t.Fatalf("got %+v", st)
	}
	for range 2 * maxRecords {
		rs.add(&catalog.Tenant{ID: catalog.NewID[catalog.Tenant]()}, 0, record{})
	}
	if st := rs.stat(); st.Waiting != maxRecords {
		t.Errorf("got %+v", st)
	}

	// The loud one fills batches, and is written by one recorder at a time; what waits no second waits on.
	of, batch, _ := rs.take(false)
	if of == nil || of.tenant != loud || len(batch) != batchRecords {
		t.Fatalf("got %v, %d", of, len(batch))
	}
	if again, _, wait := rs.take(false); again != nil || wait <= 0 || wait > recordLinger {
		t.Errorf("got %v after %s", again, wait)
	}
	rs.done(of)
	if of, batch, _ = rs.take(false); of == nil || of.tenant != loud || len(batch) != batchRecords {
		t.Errorf("got %v, %d", of, len(batch))
	}
	rs.done(of)
	taken := 2 * batchRecords
	for {
		of, batch, _ := rs.take(true)
		if of == nil {
			break
		}
		taken += len(batch)
		rs.done(of)
	}
	if st := rs.stat(); st.Waiting != 0 || taken != maxRecords || len(rs.tenants) != 0 {
		t.Errorf("%d taken, got %+v, %d tenants", taken, st, len(rs.tenants))
	}
}

func TestRecord_Parts(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]int64{"0-24/*": 25, "5-5/100": 1, "0-0/1": 1, "*/0": -1, "": -1, "*/*": -1, "7-3/*": -1, "a-b/1": -1} {
		got := rowsIn(header)
		if want < 0 && got != nil || want >= 0 && (got == nil || *got != want) {
			t.Errorf("%q: got %v", header, got)
		}
	}
	trace := strings.Repeat("4b", 16)
	for header, want := range map[string]string{"00-" + trace + "-00f067aa0ba902b7-01": trace, "": "", "00-" + strings.ToUpper(trace) + "-00f067aa0ba902b7-01": "", "00-" + trace: ""} {
		if got := traceIn(header); got != want {
			t.Errorf("%q: got %q", header, got)
		}
	}
	if got := bounded("a\x00b\xffc", 99); got != "a?b?c" {
		t.Errorf("got %q", got)
	}
	if got := peer(&http.Request{RemoteAddr: "[2001:db8::1]:4711"}); got != "2001:db8::1" {
		t.Errorf("got %q", got)
	}
}
