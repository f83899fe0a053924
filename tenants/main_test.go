package tenants_test

import (
	"testing"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
