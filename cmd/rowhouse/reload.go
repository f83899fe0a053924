package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// followConfig reads the configuration anew at each signal, until ctx ends.
func (a *app) followConfig(ctx context.Context, hup <-chan os.Signal, h *house) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			a.reload(h)
		}
	}
}

// reload takes over what can change while we run, all of it at once. A configuration with anything wrong in it changes
// nothing.
func (a *app) reload(h *house) {
	cfg, err := a.loadConfig(nil)
	if err != nil {
		for problem := range strings.SplitSeq(err.Error(), "\n") {
			h.log.Error("configuration is not taken over: the one before stays", "problem", problem)
		}
		return
	}
	options := cfg.restDefaults()
	options.AnonRole = h.restDefaults.Load().AnonRole // which the router has as well
	h.restDefaults.Store(&options)
	if err := a.level.UnmarshalText([]byte(cfg.String("log.level"))); err != nil {
		h.log.Error("log level is not taken over", "error", err)
	}
	later := []string{}
	for _, k := range keys {
		if !isLive(k.name) && fmt.Sprint(cfg.Get(k.name)) != fmt.Sprint(h.config.Get(k.name)) {
			later = append(later, k.name)
		}
	}
	h.log.Info("configuration is taken over", "at_next_start", later)
}

// isLive says that a key takes effect without a new start.
func isLive(name string) bool {
	return name == "log.level" || strings.HasPrefix(name, "rest.") && name != "rest.anon_role"
}
