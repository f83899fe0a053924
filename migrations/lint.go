package migrations

import "io/fs"

// Lint judges a directory of migration files by their text, without a server. It finds what ReadSet would refuse; what a file would do
// to tables that exist is seen only by applying it. Nil means that nothing was found; the error is about reading the directory.
func Lint(fsys fs.FS) ([]Problem, error) {
	_, err := ReadSet(fsys)
	if set, ok := err.(*SetError); ok {
		return set.Problems, nil
	}
	return nil, err
}
