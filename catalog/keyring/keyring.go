// Package keyring seals secrets under a set of keys that can be rotated.
//
// A keyset file holds the keys in clear: it is refused when anybody but its owner can read it.
package keyring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrMode means that others than its owner can read a keyset file.
var ErrMode = errors.New("keyset can be read by others; its mode should be 0600")

// Keyset seals under its primary key and opens what any of its keys sealed. It satisfies catalog.Keys.
//
// One that was read from a file follows it: keys that another process adds there are known without a restart.
type Keyset struct {
	file string // empty: it stands in no file

	mu      sync.Mutex // guards the fields below
	current *material
	seen    fs.FileInfo // the file as it was read
	looked  time.Time
}

// material is a keyset as it was at one moment.
type material struct {
	handle *keyset.Handle
	aead   tink.AEAD
}

// lookEvery is how often the file is looked at for what was changed.
const lookEvery = time.Second

// New makes a keyset with one fresh key, AES-256-GCM.
func New() (*Keyset, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("new keyset: %w", err)
	}
	return of(handle)
}

// Open reads a keyset file. One that others can read is ErrMode.
func Open(file string) (*Keyset, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("keyset %s: %w", file, ErrMode)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("keyset %s: %w", file, err)
	}
	k, err := Parse(text)
	if err != nil {
		return nil, err
	}
	k.file, k.seen, k.looked = file, info, time.Now()
	return k, nil
}

// Parse reads a keyset from its text.
func Parse(text []byte) (*Keyset, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		return nil, errors.New("keyset is not one: want Tink's JSON form")
	}
	return of(handle)
}

func of(handle *keyset.Handle) (*Keyset, error) {
	a, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	return &Keyset{current: &material{handle, a}}, nil
}

// material is the keyset as it is now. A file that cannot be read at this moment changes nothing.
func (k *Keyset) material() *material {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == "" || time.Since(k.looked) < lookEvery {
		return k.current
	}
	k.follow()
	return k.current
}

// follow reads the file again if it is another one than before.
func (k *Keyset) follow() {
	k.looked = time.Now()
	info, err := os.Stat(k.file)
	if err != nil || os.SameFile(info, k.seen) && info.ModTime().Equal(k.seen.ModTime()) && info.Size() == k.seen.Size() {
		return
	}
	if fresh, err := Open(k.file); err == nil {
		k.current, k.seen = fresh.current, fresh.seen
	}
}

// Save writes the keyset to a new file that only its owner can read. A file that is there is an error of fs.ErrExist.
func (k *Keyset) Save(file string) error {
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(k.material().handle, keyset.NewJSONWriter(&text)); err != nil {
		return fmt.Errorf("keyset: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("keyset: %w", err)
	}
	_, err = f.Write(text.Bytes())
	return errors.Join(err, f.Sync(), f.Close())
}

// OpenOrCreate reads a keyset file, or makes one where there is none.
func OpenOrCreate(file string) (*Keyset, error) {
	k, err := Open(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = New(); err != nil {
		return nil, err
	}
	if err := k.Save(file); err != nil {
		return nil, err
	}
	return k, nil
}

// Rotate adds a fresh key and makes it the one that seals; what the others sealed still opens.
func (k *Keyset) Rotate() (*Keyset, error) {
	added, err := k.Add()
	if err != nil {
		return nil, err
	}
	return added.Promote()
}

// Add gives a keyset with a fresh key more, which opens and does not seal yet.
func (k *Keyset) Add() (*Keyset, error) {
	return k.changed(func(m *keyset.Manager) error {
		_, err := m.Add(aead.AES256GCMKeyTemplate())
		return err
	})
}

// Promote gives a keyset whose newest key seals.
func (k *Keyset) Promote() (*Keyset, error) {
	ids := k.ids()
	return k.changed(func(m *keyset.Manager) error { return m.SetPrimary(ids[len(ids)-1]) })
}

// Retire gives a keyset that holds only the key that seals.
func (k *Keyset) Retire() (*Keyset, error) {
	info := k.material().handle.KeysetInfo()
	return k.changed(func(m *keyset.Manager) error {
		for _, key := range info.GetKeyInfo() {
			if key.GetKeyId() == info.GetPrimaryKeyId() {
				continue
			}
			if err := m.Delete(key.GetKeyId()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (k *Keyset) changed(change func(*keyset.Manager) error) (*Keyset, error) {
	m := keyset.NewManagerFromHandle(k.material().handle)
	if err := change(m); err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	handle, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("keyset: %w", err)
	}
	return of(handle)
}

func (k *Keyset) ids() []uint32 {
	var ids []uint32
	for _, key := range k.material().handle.KeysetInfo().GetKeyInfo() {
		ids = append(ids, key.GetKeyId())
	}
	return ids
}

// KeyIDs names the keys: the one that seals first, then the others, the newest last. They are no secrets.
func (k *Keyset) KeyIDs() []string {
	primary := k.material().handle.KeysetInfo().GetPrimaryKeyId()
	names := []string{fmt.Sprintf("%08x", primary)}
	for _, id := range k.ids() {
		if id != primary {
			names = append(names, fmt.Sprintf("%08x", id))
		}
	}
	return names
}

// Pending names a key that was added and does not seal yet; empty when there is none.
func (k *Keyset) Pending() string {
	ids := k.ids()
	if newest := ids[len(ids)-1]; newest != k.material().handle.KeysetInfo().GetPrimaryKeyId() {
		return fmt.Sprintf("%08x", newest)
	}
	return ""
}

// IsCurrent says that something was sealed under the key that seals now.
func (k *Keyset) IsCurrent(sealed []byte) bool {
	id := k.material().handle.KeysetInfo().GetPrimaryKeyId()
	return len(sealed) > 5 && sealed[0] == 1 && binary.BigEndian.Uint32(sealed[1:5]) == id
}

// Replace writes the keyset over a file, whole: whoever reads it sees one or the other.
func (k *Keyset) Replace(file string) error {
	fresh := file + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keyset: %w", err)
	}
	if err := k.Save(fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, file); err != nil {
		return fmt.Errorf("keyset: %w", err)
	}
	return nil
}

// Seal encrypts plain, bound to where it stands.
func (k *Keyset) Seal(plain, bound []byte) ([]byte, error) {
	return k.material().aead.Encrypt(plain, bound)
}

// Unseal decrypts what Seal made with the same bound. Before it gives up it looks whether the file knows another key.
func (k *Keyset) Unseal(sealed, bound []byte) ([]byte, error) {
	plain, err := k.material().aead.Decrypt(sealed, bound)
	if err == nil || k.file == "" {
		return plain, err
	}
	k.mu.Lock()
	before := k.current
	k.follow()
	after := k.current
	k.mu.Unlock()
	if after == before {
		return nil, err
	}
	return after.aead.Decrypt(sealed, bound)
}
