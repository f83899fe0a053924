package localpg

import (
	"fmt"
	"regexp"
	"strconv"
)

// leastMajor is the first PostgreSQL with CREATE DATABASE … STRATEGY.
const leastMajor = 15

// leastMinor holds, by major, the first minor release without a known defect that matters here.
var leastMinor = map[int]int{15: 14, 16: 10, 17: 6}

// Version is a PostgreSQL version, compared as numbers: as text "9.6" would beat "15".
type Version struct{ Major, Minor int }

// String is "15.18"; a development version has the minor 0.
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Less says whether v is older than w.
func (v Version) Less(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

// Outdated says whether a newer minor release of the same major should be installed.
func (v Version) Outdated() bool { return v.Minor < leastMinor[v.Major] }

var versionText = regexp.MustCompile(`\(PostgreSQL\) (\d+)(?:\.(\d+))?`)

// parseVersion reads what "postgres -V" prints: "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "… 18beta1".
func parseVersion(text string) (Version, error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("no version in %.80q", text)
	}
	var v Version
	v.Major, _ = strconv.Atoi(m[1])
	v.Minor, _ = strconv.Atoi(m[2])
	return v, nil
}
