package admin

import (
	"fmt"
	"testing"
	"time"
)

func TestBrake(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	b := newBrake(60)
	b.now = func() time.Time { return now }
	taken := func(principal string) (n int) {
		for b.take(principal) == 0 {
			n++
		}
		return n
	}
	if n := taken("a"); n != 30 {
		t.Errorf("%d at once, want half of what a minute gives", n)
	}
	if wait := b.take("a"); wait != time.Second {
		t.Errorf("wait is %s", wait)
	}
	if n := taken("b"); n != 30 {
		t.Errorf("another caller has %d", n)
	}
	now = now.Add(10 * time.Second)
	if n := taken("a"); n != 10 {
		t.Errorf("%d after ten seconds, want 10", n)
	}
	now = now.Add(time.Hour)
	if n := taken("a"); n != 30 {
		t.Errorf("%d after an hour, want no more than a full bucket", n)
	}
	for i := range 5 * maxBuckets {
		now = now.Add(time.Minute)
		b.take(fmt.Sprint(i))
	}
	if len(b.ready) > maxBuckets {
		t.Errorf("%d callers are remembered", len(b.ready))
	}
	if wait := newBrake(-1).take("a"); wait != 0 {
		t.Errorf("without a limit the wait is %s", wait)
	}
}
