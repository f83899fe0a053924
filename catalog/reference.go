package catalog

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// A password may stand somewhere else, and the catalog then holds a reference to it: env:ROWHOUSE_SECRET_NAME is a variable of
// the process that connects, file:/run/secrets/name a file beside it. Both are read anew for each new connection configuration,
// so that whoever changes them changes the password.
var (
	envReference  = regexp.MustCompile(`^env:(` + SecretVariables + `[A-Z0-9_]+)$`)
	fileReference = regexp.MustCompile(`^file:(/.+)$`)
)

// SecretVariables is how the names of variables begin that may hold passwords. No other variable can be referred to.
const SecretVariables = "ROWHOUSE_SECRET_"

// secretDirs are where files of secrets may stand. Whoever may register a server could otherwise have any file of this machine
// sent to a server of their own.
var secretDirs = []string{"/run/secrets", "/etc/rowhouse/secrets"}

// maxSecretFile is more than any password has, in bytes.
const maxSecretFile = 4096

// resolve gives the password that s is or refers to. A reference that leads nowhere is ErrInvalid, which names it and not what
// it leads to.
func (s Secret) resolve() (string, error) {
	text := s.Reveal()
	switch {
	case strings.HasPrefix(text, "env:"):
		return fromEnvironment(text)
	case strings.HasPrefix(text, "file:"):
		return fromFile(text)
	}
	return text, nil
}

func fromEnvironment(reference string) (string, error) {
	match := envReference.FindStringSubmatch(reference)
	if match == nil {
		return "", Invalid("password: a reference to the environment is env:ROWHOUSE_SECRET_NAME")
	}
	password := os.Getenv(match[1])
	if password == "" {
		return "", Invalid("password: this process has no variable %s", match[1])
	}
	return password, nil
}

func fromFile(reference string) (string, error) {
	match := fileReference.FindStringSubmatch(reference)
	if match == nil {
		return "", Invalid("password: a reference to a file is file:/run/secrets/NAME")
	}
	for _, dir := range secretDirs {
		name, err := filepath.Rel(dir, match[1])
		if err != nil || !filepath.IsLocal(name) || match[1] != filepath.Join(dir, name) {
			continue
		}
		return readSecret(dir, name)
	}
	return "", Invalid("password: a file of a secret stands in %s", strings.Join(secretDirs, " or "))
}

// readSecret reads a file without leaving its directory, by no link either, and not one that everybody may read.
func readSecret(dir, name string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", Invalid("password: file %s %s", filepath.Join(dir, name), why)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return refuse("cannot be read")
	}
	defer func() { _ = root.Close() }()
	// Without O_NONBLOCK a pipe would keep us waiting.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return refuse("cannot be read")
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil, !info.Mode().IsRegular():
		return refuse("is no file")
	case info.Mode().Perm()&0o007 != 0:
		return refuse("can be read or changed by everybody (chmod o-rwx)")
	case info.Size() > maxSecretFile:
		return refuse(fmt.Sprintf("has more than %d bytes", maxSecretFile))
	}
	text := make([]byte, maxSecretFile)
	n, _ := f.Read(text)
	password := strings.TrimRight(string(text[:n]), "\r\n")
	if password == "" {
		return refuse("is empty")
	}
	return password, nil
}
