// Package fp marks the moments at which a test may make the program fail, and the guards that a test may take away.
//
//	if err := fp.Hit("provision.after_create"); err != nil {
//		return err
//	}
//
// Without the build tag "failpoint" all of it is empty: Hit answers nil and Off answers false. With the tag, the variable
// ROWHOUSE_FAILPOINT says what happens where, as in
//
//	ROWHOUSE_FAILPOINT="provision.after_create=kill9,scope=off"
//
// The actions are kill9 (the process kills itself), error (Hit answers ErrInjected), panic, sleep:DURATION, pause (the
// process stops itself until somebody continues it) and off (for Off). An action happens each time its point is passed.
package fp

import "errors"

// ErrInjected is what Hit answers when a test asked for an error.
var ErrInjected = errors.New("injected by a failpoint")
