//go:build failpoint

package fp

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
)

func TestHit(t *testing.T) {
	if err := Set("here=error,scope=off"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Set("") })
	if err := Hit("here"); !errors.Is(err, ErrInjected) {
		t.Errorf("Hit of a point with an error = %v", err)
	}
	if err := Hit("there"); err != nil {
		t.Errorf("Hit of another point = %v", err)
	}
	if !Off("scope") || Off("here") || Off("there") {
		t.Error("Off must be true for the guard that was taken away, and for it alone")
	}
	Point("registered")
	if got := Points(); !slices.Contains(got, "registered") || !slices.Contains(got, "there") {
		t.Errorf("Points() = %v: want registered and passed ones", got)
	}
}

func TestSet_refuses(t *testing.T) {
	for _, spec := range []string{"here", "here=", "=error", "here=explode", "here=sleep:soon"} {
		if err := Set(spec); err == nil {
			t.Errorf("Set(%q) must be refused", spec)
		}
	}
}

func TestHit_kill9(t *testing.T) {
	if os.Getenv("FP_CHILD") != "" {
		_ = Hit("here")
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=TestHit_kill9")
	cmd.Env = append(os.Environ(), "FP_CHILD=1", "ROWHOUSE_FAILPOINT=here=kill9")
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("child ended with %v, want SIGKILL", err)
	}
}
