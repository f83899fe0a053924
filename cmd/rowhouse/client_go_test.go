package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// devGoClient has postgrest-go ask tenants. It is a module of its own; where that cannot be had, the test is skipped, but not in CI.
func devGoClient(t *testing.T, p *process, asked ...devTenant) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	program := filepath.Join(t.TempDir(), "client")
	tool := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = "testdata/clients/go"
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
		return cmd.CombinedOutput()
	}
	if out, err := tool("mod", "download"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("postgrest-go: %v\n%s", err, out)
		}
		t.Skipf("postgrest-go cannot be had: %v", err)
	}
	if out, err := tool("build", "-o", program, "."); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tenant := range asked {
		t.Run(tenant.Name, func(t *testing.T) {
			cmd := exec.CommandContext(ctx, program)
			cmd.Env = append(os.Environ(), "URL="+p.DataURL, "TENANT="+tenant.Name, "TOKEN="+tenant.Token)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}
