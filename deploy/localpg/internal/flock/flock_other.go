//go:build !unix || solaris || illumos || aix

package flock

import (
	"errors"
	"fmt"
	"os"
)

func lock(f *os.File, _ Mode) error {
	return fmt.Errorf("lock %s: %w", f.Name(), errors.ErrUnsupported)
}

func unlock(*os.File) {}
