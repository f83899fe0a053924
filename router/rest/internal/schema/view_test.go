package schema

import (
	"slices"
	"testing"
)

func TestOrigins(t *testing.T) {
	// A rule's text, shortened: a subquery's own target list stands before the top one; names are escaped.
	action := `({QUERY :commandType 1 :rtable ({RTE :subquery {QUERY :targetList ({TARGETENTRY :expr {VAR :varno 1} :resno 1 :resorigtbl 99 :resorigcol 9 :resjunk false})}}) ` +
		`:targetList ({TARGETENTRY :expr {VAR :varno 2} :resno 1 :resname id :ressortgroupref 0 :resorigtbl 16389 :resorigcol 1 :resjunk false} ` +
		`{TARGETENTRY :expr {FUNCEXPR :args ({VAR :varno 1})} :resno 2 :resname a\ \)\ \:resorigtbl\ 5 :resorigtbl 0 :resorigcol 0 :resjunk false} ` +
		`{TARGETENTRY :expr {VAR :varno 2} :resno 3 :resname c :resorigtbl 16400 :resorigcol 12 :resjunk false}) :override 0})`
	want := []origin{{"16389", 1}, {"0", 0}, {"16400", 12}}
	if got := origins(action); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range action { // a text cut anywhere is no reason to panic
		origins(action[:i])
	}
}
