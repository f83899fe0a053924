package router_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/router"
)

func TestListener(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q\n", r.Method, r.URL.Path, body)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(router.Listener(inner)) }()
	t.Cleanup(func() { _ = server.Close(); <-served })

	const (
		get     = "GET /get HTTP/1.1\r\nHost: a\r\n\r\n"
		post    = "POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
		chunked = "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"
		both    = "POST /both HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"
		smuggle = "POST /s HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nCONTENT-LENGTH: 4\r\n\r\n0\r\n\r\n"
		// What only looks like it: the text stands in a body.
		quoted = "POST /quoted HTTP/1.1\r\nHost: a\r\nContent-Length: 62\r\n\r\nX: y\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0123456"
	)
	for _, c := range []struct {
		name  string
		sent  string
		want  []int
		never string
	}{
		{"a get", get, []int{200}, ""},
		{"pipelined", get + post + chunked + get, []int{200, 200, 200, 200}, ""},
		{"both lengths", both, []int{400}, "/both"},
		{"both lengths, otherwise written", smuggle, []int{400}, "/s"},
		{"both lengths behind others", post + chunked + both, []int{200, 200, 400}, "/both"},
		{"the words in a body", quoted + get, []int{200, 200}, ""},
	} {
		for _, piece := range []int{1 << 20, 1, 7} {
			t.Run(fmt.Sprintf("%s, %d bytes at a time", c.name, piece), func(t *testing.T) {
				t.Parallel()
				conn, err := net.Dial("tcp", inner.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				go func() {
					for rest := c.sent; rest != ""; {
						n := min(piece, len(rest))
						if _, err := io.WriteString(conn, rest[:n]); err != nil {
							return
						}
						rest = rest[n:]
					}
				}()
				r := bufio.NewReader(conn)
				for i, want := range c.want {
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatalf("answer %d: %v", i, err)
					}
					body, _ := io.ReadAll(resp.Body)
					if resp.StatusCode != want || c.never != "" && strings.Contains(string(body), c.never) {
						t.Errorf("answer %d: %d %s, want %d", i, resp.StatusCode, body, want)
					}
				}
				if c.want[len(c.want)-1] == 400 {
					if _, err := r.ReadByte(); err == nil {
						t.Error("the connection goes on")
					}
				}
			})
		}
	}
}
