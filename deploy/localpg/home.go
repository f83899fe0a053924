package localpg

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Files of a DIR. dev.json and keys.json are written by the command.
const (
	lockFile   = "lock"
	recordFile = "dev.json"
	idFile     = "id" // there when the data stand elsewhere
	logFile    = "postgres.log"
)

// longestSocket is what a socket's address can hold on Linux.
const longestSocket = 107

// home is one DIR, and the place where its cluster stands.
type home struct {
	dir     string // absolute
	base    string // holds pg and run: dir itself, or a directory of ours that the server's user can reach
	account account
}

func (h home) data() string    { return filepath.Join(h.base, "pg") }
func (h home) newData() string { return filepath.Join(h.base, "pg.tmp") }
func (h home) log() string     { return filepath.Join(h.dir, logFile) }
func (h home) pidFile() string { return filepath.Join(h.data(), "postmaster.pid") }

// major is the version that made the cluster, 0 when there is none yet.
func (h home) major() (int, error) {
	text, err := os.ReadFile(filepath.Join(h.data(), "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION: %.20q is not a version that can be served here", h.data(), text)
	}
	return major, nil
}

// makeDir makes DIR, or sees that an existing one is fit to be one. It does not place the cluster: that needs the lock.
func makeDir(dir string, acct account) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o700)
	if acct.other {
		mode = 0o711 // the server's user passes through; what is secret in DIR is 0600
	}
	err := os.Mkdir(dir, mode)
	if err == nil {
		err = os.Chmod(dir, mode) // whatever the umask says
	} else if errors.Is(err, fs.ErrExist) {
		err = adoptDir(dir, acct)
	}
	if err != nil {
		return err
	}
	ignore, err := os.OpenFile(filepath.Join(dir, ".gitignore"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = ignore.WriteString("*\n")
	return errors.Join(err, ignore.Close())
}

// ours are the names that a DIR can hold before it was ever locked.
var ours = map[string]bool{".gitignore": true, recordFile: true, "keys.json": true, "lost+found": true, ".DS_Store": true}

// adoptDir refuses a directory that is full of other things: a mistyped DIR would hide them from git.
func adoptDir(dir string, acct account) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, lockFile)); err != nil {
		for _, e := range entries {
			if !ours[e.Name()] {
				return fmt.Errorf("%s holds other things (%s): choose an empty directory", dir, e.Name())
			}
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if uid, _ := ownerOf(info); acct.other && uid == os.Geteuid() && !acct.mayEnter(info) {
		return os.Chmod(dir, 0o711)
	}
	return nil
}

var idText = regexp.MustCompile(`^[0-9a-f]{16}$`)

// settle decides where the cluster of a DIR stands. It is called under the lock.
//
// The way out is a directory named by a random id that DIR keeps, not by a hash of DIR's path: a DIR that was deleted
// and made again must start empty.
func settle(dir string, acct account, log *slog.Logger) (home, error) {
	h := home{dir: dir, base: dir, account: acct}
	id, err := os.ReadFile(filepath.Join(dir, idFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	barred, err := acct.closed(dir)
	if err != nil {
		return h, err
	}
	if len(id) == 0 && barred == "" {
		return h, nil
	}
	if len(id) == 0 {
		if _, err := os.Stat(h.data()); err == nil {
			return h, fmt.Errorf("%s holds a cluster, but user %s cannot enter %s", dir, acct.name, barred)
		}
		id = make([]byte, 8)
		_, _ = rand.Read(id) // never fails
		id = []byte(hex.EncodeToString(id))
		if err := os.WriteFile(filepath.Join(dir, idFile), append(id, '\n'), 0o600); err != nil {
			return h, err
		}
	}
	name := strings.TrimSpace(string(id))
	if !idText.MatchString(name) {
		return h, fmt.Errorf("%s is not an id of ours", filepath.Join(dir, idFile))
	}
	h.base = filepath.Join(varLib, "dev-"+name)
	if err := os.MkdirAll(varLib, 0o755); err != nil {
		return h, err
	}
	if err := os.Mkdir(h.base, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return h, err
	}
	if err := os.Chmod(h.base, 0o711); err != nil {
		return h, err
	}
	if barred, err := acct.closed(h.base); err != nil || barred != "" {
		return h, errors.Join(fmt.Errorf("user %s cannot enter %s", acct.name, barred), err)
	}
	if err := os.WriteFile(filepath.Join(h.base, "dir"), []byte(dir+"\n"), 0o600); err != nil {
		return h, err
	}
	namePossiblyAbandoned(h.base, log)
	return h, nil
}

// namePossiblyAbandoned logs the directories below /var/lib/rowhouse whose DIR no longer refers to them. They are
// never deleted by us: DIR may be on a volume that is not mounted now.
func namePossiblyAbandoned(mine string, log *slog.Logger) {
	bases, _ := filepath.Glob(filepath.Join(varLib, "dev-*"))
	for _, base := range bases {
		if base == mine {
			continue
		}
		owner, err := os.ReadFile(filepath.Join(base, "dir"))
		if err != nil {
			continue
		}
		dir := strings.TrimSpace(string(owner))
		id, _ := os.ReadFile(filepath.Join(dir, idFile))
		if "dev-"+strings.TrimSpace(string(id)) != filepath.Base(base) {
			log.Info("data that no directory refers to any more", "data", base, "was", dir)
		}
	}
}

// socketDir makes the directory of the socket and returns it. Its owner and mode are the only protection of a server
// that trusts whoever connects, so they are looked at before every start.
func (h home) socketDir(runtimeDir string) (string, error) {
	hash := sha256.Sum256([]byte(h.data()))
	short := hex.EncodeToString(hash[:6])
	candidates := []string{filepath.Join(h.base, "run")}
	if h.account.other {
		candidates = append(candidates, "/run/rowhouse-"+short) // /run/user/0 is closed to the server's user
	} else if runtimeDir != "" {
		candidates = append(candidates, filepath.Join(runtimeDir, "rowhouse-"+short))
	}
	candidates = append(candidates, fmt.Sprintf("/tmp/rowhouse-%d-%s", h.account.uid, short))

	var errs []error
	for _, dir := range candidates {
		if len(socketFile(dir)) > longestSocket {
			errs = append(errs, fmt.Errorf("%s is too long for a socket", dir))
			continue
		}
		if strings.ContainsAny(dir, `,"`) {
			errs = append(errs, fmt.Errorf("%s would be read as a list", dir))
			continue
		}
		if err := h.account.privateDir(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		return dir, nil
	}
	return "", fmt.Errorf("no place for a socket: %w", errors.Join(errs...))
}

func socketFile(dir string) string { return dir + "/.s.PGSQL.5432" }
