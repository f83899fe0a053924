package router

import "testing"

// However the bytes arrive, they mean the same.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
		"\n\n", "POST / HTTP/1.1\nTransfer-Encoding: gzip\n\n", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, sent []byte, piece int) {
		piece = max(1, piece%16)
		var whole, pieces framing
		want, got := whole.follow(sent), 0
		for got < len(sent) {
			n := min(piece, len(sent)-got)
			good := pieces.follow(sent[got : got+n])
			if got += good; good < n {
				break
			}
		}
		// The carriage return of the last line may have been given away before it was known to be the last.
		if (want == len(sent)) != (got == len(sent)) || got-want > 1 || want == len(sent) && (whole.part != pieces.part || whole.left != pieces.left) {
			t.Errorf("good to %d at once, to %d in pieces", want, got)
		}
	})
}
