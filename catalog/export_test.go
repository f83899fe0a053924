package catalog

import "testing"

// SetSecretDirs lets files of secrets stand in dir alone, for one test.
func SetSecretDirs(t testing.TB, dir string) {
	before := secretDirs
	secretDirs = []string{dir}
	t.Cleanup(func() { secretDirs = before })
}
