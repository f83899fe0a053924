// Package flock locks files so that the lock ends with the process that holds it, however that process ends.
package flock

import (
	"context"
	"errors"
	"os"
	"time"
)

// ErrHeld says that somebody else holds the lock.
var ErrHeld = errors.New("lock is held by another process")

// Mode is how a lock is shared.
type Mode int

const (
	Shared    Mode = iota // any number of holders
	Exclusive             // one holder
)

// Lock is a held lock.
type Lock struct{ f *os.File }

// Try takes the lock on the file at path, making the file (0600) when there is none. It returns [ErrHeld] at once when
// somebody else, in this process or another, has it.
//
// A file that serves as a lock must never be deleted: whoever waits for the deleted one would not meet whoever makes it anew.
func Try(path string, mode Mode) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f, mode); err != nil {
		f.Close()
		return nil, err
	}
	return &Lock{f}, nil
}

// Wait is Try, repeated until the lock is free or ctx ends. It polls, because a blocked flock cannot be cancelled.
func Wait(ctx context.Context, path string, mode Mode) (*Lock, error) {
	for {
		l, err := Try(path, mode)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Write replaces what the locked file says. It is for people and for error texts; the lock is the truth.
func (l *Lock) Write(text string) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt([]byte(text), 0)
	return err
}

// Release gives the lock back.
func (l *Lock) Release() error {
	// Closing alone is not enough: a child that is being forked at this moment has the file too, until it executes its
	// program, and the lock would be held as long.
	unlock(l.f)
	return l.f.Close()
}
