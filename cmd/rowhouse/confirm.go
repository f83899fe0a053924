package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// confirm asks on a terminal before something is destroyed. Elsewhere nobody can be asked, and --yes is needed.
func (a *app) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usage("to %s needs --yes where nobody can be asked", what)
	}
	fmt.Fprintf(a.stderr, "%s? [y/N] ", strings.ToUpper(what[:1])+what[1:])
	answer, _ := bufio.NewReader(in).ReadString('\n') // no answer is no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &coded{err: fmt.Errorf("not done"), code: exitFailure}
}
