//go:build !unix

package bench

import "os/exec"

func runAs(*exec.Cmd, string, ...string) error { return nil }
