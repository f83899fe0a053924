//go:build unix

package router

import (
	"net"
	"testing"
	"time"
)

// pair is both ends of a connection.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestIsQuiet(t *testing.T) {
	t.Parallel()
	eventually := func(t *testing.T, c net.Conn) {
		for began := time.Now(); isQuiet(c); {
			if time.Since(began) > 5*time.Second {
				t.Fatal("still quiet")
			}
		}
	}
	t.Run("until the server says something", func(t *testing.T) {
		ours, theirs := pair(t)
		if !isQuiet(ours) {
			t.Fatal("not quiet though nothing was said")
		}
		_, _ = theirs.Write([]byte("E"))
		eventually(t, ours)
		if n, err := ours.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("looking has taken what was said: %v", err)
		}
	})
	t.Run("until the server ends it", func(t *testing.T) {
		ours, theirs := pair(t)
		theirs.Close()
		eventually(t, ours)
	})
	t.Run("while somebody waits for something to read", func(t *testing.T) {
		ours, theirs := pair(t)
		read := make(chan struct{})
		go func() { _, _ = ours.Read(make([]byte, 1)); close(read) }()
		time.Sleep(20 * time.Millisecond) // nothing says that a reader waits
		looked := make(chan bool)
		go func() { looked <- isQuiet(ours) }()
		select {
		case quiet := <-looked:
			if !quiet {
				t.Error("not quiet though nothing was said")
			}
		case <-time.After(5 * time.Second):
			t.Error("looking waits behind the reader")
		}
		theirs.Close()
		<-read
	})
	t.Run("a closed one is not", func(t *testing.T) {
		ours, _ := pair(t)
		ours.Close()
		if isQuiet(ours) {
			t.Error("quiet though closed")
		}
	})
}
