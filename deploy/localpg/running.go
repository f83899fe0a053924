package localpg

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/flock"
)

var (
	// ErrInUse is what [Start] returns, as an [*InUseError], when another process owns the directory.
	ErrInUse = errors.New("directory is in use")

	// ErrNotRunning is what [Running] returns when nobody owns the directory.
	ErrNotRunning = errors.New("nobody serves this directory")
)

// Instance says who owns a directory and serves from it. It holds no secret.
type Instance struct {
	Dir string // absolute

	// PID is the process that owns the directory. Zero when it could not be read.
	PID int

	// DataURL, AdminURL and ConsoleURL are what the owner wrote into dev.json. Empty while it starts, or when it is
	// not the command.
	DataURL, AdminURL, ConsoleURL string

	// Socket is the directory of PostgreSQL's socket. Empty while the server starts, or where we may not look.
	Socket string
}

// DSN is the connection string of a database of the instance, as superuser. Connecting gives no ownership: the server
// ends when its owner says so.
func (i Instance) DSN(database string) string { return socketDSN(i.Socket, superuser, "", database) }

// DSNAs is the connection string of a database of the instance as another role, which needs its password.
func (i Instance) DSNAs(role, password, database string) string {
	return socketDSN(i.Socket, role, password, database)
}

// InUseError says who has the directory that [Start] was asked to own.
type InUseError struct{ By Instance }

func (e *InUseError) Error() string {
	text := e.By.Dir + " is in use"
	if e.By.PID != 0 {
		text += " by process " + strconv.Itoa(e.By.PID)
	}
	if e.By.DataURL == "" {
		return text
	}
	return fmt.Sprintf("%s, which serves %s (admin %s)", text, e.By.DataURL, e.By.AdminURL)
}

// Is makes errors.Is(err, ErrInUse) true.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// Running says who serves dir now. It returns [ErrNotRunning] when nobody does, whatever files an earlier owner left.
func Running(dir string) (Instance, error) {
	dir = resolve(dir)
	path := filepath.Join(dir, lockFile)
	if _, err := os.Stat(path); err != nil {
		return Instance{}, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	held, err := flock.Try(path, flock.Shared)
	if err == nil {
		held.Release()
		return Instance{}, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	if !errors.Is(err, flock.ErrHeld) {
		return Instance{}, err
	}
	return owner(dir), nil
}

// owner reads what the owner of dir says of itself. All of it can be missing.
func owner(dir string) Instance {
	i := Instance{Dir: dir}
	i.PID, _ = readPID(filepath.Join(dir, lockFile))
	if text, err := os.ReadFile(filepath.Join(dir, recordFile)); err == nil {
		var record struct {
			DataURL    string `json:"data_url"`
			AdminURL   string `json:"admin_url"`
			ConsoleURL string `json:"console_url"`
		}
		if json.Unmarshal(text, &record) == nil {
			i.DataURL, i.AdminURL, i.ConsoleURL = record.DataURL, record.AdminURL, record.ConsoleURL
		}
	}
	base := dir
	if id, err := os.ReadFile(filepath.Join(dir, idFile)); err == nil {
		base = filepath.Join(varLib, "dev-"+strings.TrimSpace(string(id)))
	}
	// Lines of the file: pid, data directory, start time, port, socket directory, …
	if text, err := os.ReadFile(filepath.Join(base, "pg", "postmaster.pid")); err == nil {
		if lines := strings.Split(string(text), "\n"); len(lines) > 5 {
			i.Socket = lines[4]
		}
	}
	return i
}
