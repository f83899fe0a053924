//go:build failpoint

package fp

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	mu      sync.Mutex // guards the fields below
	points  = map[string]bool{}
	actions = mustParse(os.Getenv("ROWHOUSE_FAILPOINT"))
)

// Set replaces what ROWHOUSE_FAILPOINT said; it has the same form, and empty means nothing.
func Set(spec string) error {
	parsed, err := parse(spec)
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	actions = parsed
	return nil
}

func mustParse(spec string) map[string]string {
	parsed, err := parse(spec)
	if err != nil {
		panic(err)
	}
	return parsed
}

func parse(spec string) (map[string]string, error) {
	parsed := map[string]string{}
	for pair := range strings.SplitSeq(spec, ",") {
		if pair == "" {
			continue
		}
		point, action, ok := strings.Cut(pair, "=")
		if !ok || point == "" {
			return nil, fmt.Errorf("failpoint %q: want name=action", pair)
		}
		verb, arg, _ := strings.Cut(action, ":")
		switch verb {
		case "kill9", "error", "panic", "pause", "off":
		case "sleep":
			if _, err := time.ParseDuration(arg); err != nil {
				return nil, fmt.Errorf("failpoint %q: %w", pair, err)
			}
		default:
			return nil, fmt.Errorf("failpoint %q: unknown action", pair)
		}
		parsed[point] = action
	}
	return parsed, nil
}

// Point registers a point and answers its name: the value of a package variable that Hit is called with.
func Point(name string) string {
	mu.Lock()
	defer mu.Unlock()
	points[name] = true
	return name
}

// Hit does what a test asked for at this point.
func Hit(point string) error {
	mu.Lock()
	points[point] = true
	action := actions[point]
	mu.Unlock()
	verb, arg, _ := strings.Cut(action, ":")
	switch verb {
	case "kill9":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal arrives before anything else happens
	case "error":
		return fmt.Errorf("%s: %w", point, ErrInjected)
	case "panic":
		panic("failpoint " + point)
	case "sleep":
		d, _ := time.ParseDuration(arg)
		time.Sleep(d)
	case "pause":
		stop()
	}
	return nil
}

// Off says that a test took a guard away.
func Off(name string) bool {
	mu.Lock()
	defer mu.Unlock()
	return actions[name] == "off"
}

// Points lists the points that are registered or were passed, sorted.
func Points() []string {
	mu.Lock()
	defer mu.Unlock()
	return slices.Sorted(maps.Keys(points))
}
