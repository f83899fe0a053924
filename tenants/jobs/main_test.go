package jobs_test

import (
	"os"
	"testing"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

// asChild is what a test that kills its own process runs in it, with the id of an operation.
var asChild func(operation string) int

func TestMain(m *testing.M) {
	if operation := os.Getenv("JOBS_TEST_OPERATION"); operation != "" {
		os.Exit(asChild(operation))
	}
	pgtest.Main(m)
}
