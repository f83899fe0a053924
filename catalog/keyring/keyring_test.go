package keyring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/catalog/keyring"
)

func TestKeyset(t *testing.T) {
	t.Parallel()
	k, err := keyring.New()
	if err != nil {
		t.Fatal(err)
	}
	plain, bound := []byte("RHCANARY-7"), []byte("row 1")
	sealed, err := k.Seal(plain, bound)
	if err != nil || bytes.Contains(sealed, plain) {
		t.Fatalf("sealed %q, %v", sealed, err)
	}

	t.Run("it opens where it was bound and nowhere else", func(t *testing.T) {
		if got, err := k.Unseal(sealed, bound); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := k.Unseal(sealed, []byte("row 2")); err == nil {
			t.Error("opened in another row")
		}
		broken := bytes.Clone(sealed)
		broken[len(broken)-1] ^= 1
		if _, err := k.Unseal(broken, bound); err == nil {
			t.Error("opened with a flipped bit")
		}
	})

	t.Run("a rotated keyset opens what the old key sealed, and the old one nothing new", func(t *testing.T) {
		rotated, err := k.Rotate()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := rotated.Unseal(sealed, bound); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("got %q, %v", got, err)
		}
		fresh, err := rotated.Seal(plain, bound)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Unseal(fresh, bound); err == nil {
			t.Error("the old keyset opened what the new key sealed")
		}
	})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys.json")
	made, err := keyring.OpenOrCreate(file)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := made.Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyring.OpenOrCreate(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Unseal(sealed, nil); err != nil || string(got) != "x" {
		t.Errorf("read again: %q, %v", got, err)
	}
	if err := made.Save(file); !errors.Is(err, os.ErrExist) {
		t.Errorf("a keyset was written over: %v", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(file); !errors.Is(err, keyring.ErrMode) {
		t.Errorf("a keyset that others can read: %v", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Parse(text[:len(text)/2]); err == nil || strings.Contains(err.Error(), string(text[20:40])) {
		t.Errorf("half a keyset: %v", err)
	}
}
