package keeper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rowhouse/rowhouse/deploy/localpg"
)

// room is what must be free in memory before the cluster goes there: a few hundred small databases and their log.
const room = 2 << 30

// chooseBase returns the directory of the shared cluster. Every test process that would start the same server must
// come to the same one, and no other.
func chooseBase(ctx context.Context) (string, error) {
	bin, err := localpg.Find(ctx, localpg.FindOptions{Bin: os.Getenv(binVariable)})
	if err != nil {
		return "", err
	}
	// fmt prints a map in the order of its keys.
	sum := sha256.Sum256(fmt.Append(nil, "1 ", bin.Dir, settings))
	name := fmt.Sprintf("rowhouse-test-%d-%s-%s", os.Geteuid(), bin.Version, hex.EncodeToString(sum[:4]))

	places := []string{"/dev/shm", os.TempDir(), "/var/tmp"}
	for _, place := range places { // free space changes: a server that runs decides
		base := filepath.Join(place, name)
		if _, err := localpg.Running(clusterDir(base)); err == nil {
			return base, ownDir(base)
		}
	}
	for _, place := range places {
		if place == "/dev/shm" && freeBytes(place) < room {
			continue
		}
		if ok, err := localpg.Reachable(place); err != nil || !ok {
			continue
		}
		base := filepath.Join(place, name)
		return base, ownDir(base)
	}
	return "", errors.New("no temporary directory that PostgreSQL's user can enter")
}

// ownDir makes dir in a place that others can write to, and refuses one that somebody else made.
func ownDir(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || !isMine(info) {
		return fmt.Errorf("%s was made by somebody else", dir)
	}
	return os.Chmod(dir, 0o711)
}
