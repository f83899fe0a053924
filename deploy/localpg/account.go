package localpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// account is the user that PostgreSQL runs as.
type account struct {
	name     string
	uid, gid int
	other    bool // not ourselves: we are root and PostgreSQL must not be
}

// serverAccount is ourselves, or when we are root the first of rowhouse, postgres and nobody that this machine has.
// nobody is last because whatever else runs as nobody shares its files.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{name: "uid " + strconv.Itoa(os.Geteuid()), uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"rowhouse", "postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		if errUID != nil || errGID != nil || uid == 0 {
			continue
		}
		return account{name: name, uid: uid, gid: gid, other: true}, nil
	}
	return account{}, errors.New("postgres does not run as root, and there is no user rowhouse, postgres or nobody")
}

// own gives path to the account.
func (a account) own(path string) error {
	if !a.other {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// closed returns the first directory on the way to dir, dir included, that the account may not enter; "" when it
// may enter all of them. It judges by mode bits; access lists are not looked at.
func (a account) closed(dir string) (string, error) {
	if !a.other {
		return "", nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	for _, d := range ancestors(real) {
		info, err := os.Stat(d)
		if err != nil {
			return "", err
		}
		if !a.mayEnter(info) {
			return d, nil
		}
	}
	return "", nil
}

func (a account) mayEnter(info fs.FileInfo) bool {
	uid, gid := ownerOf(info)
	mode := info.Mode().Perm()
	switch {
	case uid == a.uid:
		return mode&0o100 != 0
	case gid == a.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}

// ancestors lists "/", "/a", "/a/b" for "/a/b".
func ancestors(dir string) []string {
	var list []string
	for {
		list = append([]string{dir}, list...)
		parent := filepath.Dir(dir)
		if parent == dir {
			return list
		}
		dir = parent
	}
}

// privateDir makes path a directory that only the account can enter. What is there already must be a directory of
// the account's own: in a shared place somebody else may have been there first.
func (a account) privateDir(path string) error {
	err := os.Mkdir(path, 0o700)
	if err == nil {
		return a.own(path)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(path) // not Stat: a link could lead anywhere
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	if uid, _ := ownerOf(info); uid != a.uid && uid >= 0 {
		return fmt.Errorf("%s belongs to uid %d, not to %s", path, uid, a.name)
	}
	if info.Mode().Perm() != 0o700 {
		return os.Chmod(path, 0o700)
	}
	return nil
}

// oneLine makes a program's output fit into an error text.
func oneLine(out []byte) string { return strings.Join(strings.Fields(string(out)), " ") }

// Reachable says whether the server's user can enter dir, so that a server on a directory made below it keeps its
// data there.
func Reachable(dir string) (bool, error) {
	acct, err := serverAccount()
	if err != nil {
		return false, err
	}
	barred, err := acct.closed(dir)
	return barred == "", err
}
