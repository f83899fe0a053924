// Package keyring seals secrets under a set of keys that can be rotated.
//
// A keyset file holds the keys in clear: it is refused when anybody but its owner can read it.
package keyring

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrMode means that others than its owner can read a keyset file.
var ErrMode = errors.New("keyset can be read by others; its mode should be 0600")

// Keyset seals under its primary key and opens what any of its keys sealed. It satisfies catalog.Keys.
type Keyset struct {
	handle *keyset.Handle
	aead   tink.AEAD
}

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
	text := make([]byte, 0, 4096)
	buf := bytes.NewBuffer(text)
	if _, err := buf.ReadFrom(f); err != nil {
		return nil, fmt.Errorf("keyset %s: %w", file, err)
	}
	return Parse(buf.Bytes())
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
	return &Keyset{handle, a}, nil
}

// Save writes the keyset to a new file that only its owner can read. A file that is there is an error of fs.ErrExist.
func (k *Keyset) Save(file string) error {
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(k.handle, keyset.NewJSONWriter(&text)); err != nil {
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
	m := keyset.NewManagerFromHandle(k.handle)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err == nil {
		err = m.SetPrimary(id)
	}
	if err != nil {
		return nil, fmt.Errorf("rotate keyset: %w", err)
	}
	handle, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("rotate keyset: %w", err)
	}
	return of(handle)
}

// Seal encrypts plain, bound to where it stands.
func (k *Keyset) Seal(plain, bound []byte) ([]byte, error) { return k.aead.Encrypt(plain, bound) }

// Unseal decrypts what Seal made with the same bound.
func (k *Keyset) Unseal(sealed, bound []byte) ([]byte, error) { return k.aead.Decrypt(sealed, bound) }
