package router

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
)

// Listener watches what comes in on l's connections, for requests that say in two ways where they end: with
// Transfer-Encoding and Content-Length both. A proxy before us may believe the one; net/http believes the other, and
// deletes the second before any handler sees it. What follows would be somebody else's request. Such a request is made
// one that net/http answers with 400, in its turn, and after which it closes the connection.
func Listener(l net.Listener) net.Listener { return &listener{l} }

type listener struct{ net.Listener }

// Accept wraps the next connection.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &wire{Conn: c}, nil
}

// spoil is a header line that is none, and the end of the block.
const spoil = "\x00\r\n\r\n"

// wire follows the framing of the requests on one connection.
type wire struct {
	net.Conn
	framing framing
	spoiled bool
	rest    string // of spoil, that is still to be read
}

// Read reads, and spoils a header block with two lengths before net/http has the end of it.
func (w *wire) Read(p []byte) (int, error) {
	if w.spoiled {
		if w.rest == "" {
			return 0, io.EOF
		}
		n := copy(p, w.rest)
		w.rest = w.rest[n:]
		return n, nil
	}
	n, err := w.Conn.Read(p)
	good := w.framing.follow(p[:n])
	if good == n {
		return n, err
	}
	w.spoiled, w.rest = true, spoil
	if good == 0 {
		return w.Read(p)
	}
	return good, nil
}

// NetConn is the connection below, for whoever looks for a socket.
func (w *wire) NetConn() net.Conn { return w.Conn }

// framing knows where in a request the bytes of a connection are.
type framing struct {
	part framePart
	head []byte // the header block so far, or a line of the chunked body
	left uint64 // bytes of a body or chunk that are still to come
}

type framePart int

const (
	partHead      framePart = iota
	partBody                // with a length
	partChunkSize           // the line before a chunk
	partChunk               // its data and the line break behind it
	partTrailer             // lines after the last chunk
	partLost                // beyond what can be followed: net/http refuses it by itself, or it is no HTTP/1 any more
)

// maxHead is more than net/http takes, so that what is longer needs no following.
const maxHead = 1 << 20

// follow goes on over b and says how much of it is good: all, or what stands before the end of a header block with two
// lengths.
func (f *framing) follow(b []byte) int {
	all := len(b)
	for len(b) > 0 {
		switch f.part {
		case partLost:
			return all
		case partBody, partChunk:
			n := min(f.left, uint64(len(b)))
			b, f.left = b[n:], f.left-n
			if f.left == 0 {
				f.part = map[framePart]framePart{partBody: partHead, partChunk: partChunkSize}[f.part]
			}
		default:
			end := bytes.IndexByte(b, '\n') + 1
			if end == 0 {
				end = len(b)
			}
			line := b[:end]
			b = b[end:]
			if f.head = append(f.head, line...); len(f.head) > maxHead {
				f.part, f.head = partLost, nil
			} else if line[len(line)-1] == '\n' && !f.line() {
				return all - len(b) - len(line)
			}
		}
	}
	return all
}

// line looks at what is complete with a line. It answers false for a header block with two lengths.
func (f *framing) line() bool {
	switch f.part {
	case partHead:
		if text := bytes.TrimRight(f.head, "\r\n"); len(text) == 0 { // empty lines before a request
			f.head = f.head[:0]
		} else if bytes.HasSuffix(f.head, []byte("\n\r\n")) || bytes.HasSuffix(f.head, []byte("\n\n")) {
			return f.headers(string(text))
		}
	case partChunkSize:
		size, _, _ := strings.Cut(strings.TrimSpace(string(f.head)), ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 62)
		f.head = f.head[:0]
		switch {
		case err != nil:
			f.part = partLost
		case n == 0:
			f.part = partTrailer
		default:
			f.part, f.left = partChunk, n+2
		}
	case partTrailer:
		if len(bytes.TrimRight(f.head, "\r\n")) == 0 {
			f.part = partHead
		}
		f.head = f.head[:0]
	}
	return true
}

// headers decides what follows a header block.
func (f *framing) headers(block string) bool {
	f.head = f.head[:0]
	var length, encoding string
	var hasLength, hasEncoding bool
	for line := range strings.SplitSeq(block, "\n") {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r"), ":")
		if !ok {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "content-length":
			hasLength, length = true, strings.TrimSpace(value)
		case "transfer-encoding":
			hasEncoding, encoding = true, strings.ToLower(strings.TrimSpace(value))
		}
	}
	switch {
	case hasLength && hasEncoding:
		return false
	case hasEncoding && encoding == "chunked":
		f.part = partChunkSize
	case hasEncoding:
		f.part = partLost // net/http refuses any other
	case hasLength:
		n, err := strconv.ParseUint(length, 10, 63)
		if f.left = n; err != nil {
			f.part = partLost
		} else if n > 0 {
			f.part = partBody
		}
	}
	return true
}
