package main

import (
	"context"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the linker when a release is built.
var release = "0.1.0-dev"

type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (build) columns() []string { return []string{"version", "revision", "go", "platform"} }
func (b build) row() []any      { return []any{b.Version, b.Revision, b.Go, b.Platform} }
func (b build) name() string    { return b.Version }

func buildInfo() build {
	b := build{Version: release, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Revision = s.Value
			}
		}
	}
	return b
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which rowhouse this is", Args: exactly(),
		RunE: a.show(func(context.Context, []string) (any, error) { return buildInfo(), nil }),
	}
}
