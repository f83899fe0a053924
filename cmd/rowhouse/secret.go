package main

import (
	"io"
	"os"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
)

// maxSecret is the largest secret that is read from a file or standard input.
const maxSecret = 64 << 10

// secretFlag reads the value of a flag that takes a secret: the text itself, - for standard input, @FILE for a file.
func (a *app) secretFlag(flag, value string) (catalog.Secret, error) {
	var source io.Reader
	switch {
	case value == "":
		return catalog.Secret{}, usage("%s is needed", flag)
	case value == "-":
		source = a.stdin
	case strings.HasPrefix(value, "@"):
		f, err := os.Open(value[1:])
		if err != nil {
			return catalog.Secret{}, usage("%s: the file cannot be read", flag)
		}
		defer f.Close()
		source = f
	default:
		return catalog.NewSecret(value), nil
	}
	text, err := io.ReadAll(io.LimitReader(source, maxSecret))
	if err != nil {
		return catalog.Secret{}, usage("%s: cannot be read", flag)
	}
	return catalog.NewSecret(strings.TrimRight(string(text), "\r\n")), nil
}
