package rest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/rowhouse/rowhouse/router/rest/internal/exec"
	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

const (
	keyHeader      = "Idempotency-Key"
	replayedHeader = "Idempotent-Replayed"
	longestKey     = 255
)

// readKey takes the key of a write; reads need none.
func (x *exchange) readKey() error {
	keys := x.r.Header.Values(keyHeader)
	if len(keys) == 0 || !isWrite(x.r.Method) {
		return nil
	}
	if len(keys) > 1 || !legalKey(keys[0]) {
		return (&apiError{status: http.StatusBadRequest, code: "invalid_idempotency_key", message: "the Idempotency-Key cannot be used"}).
			with("", "One header of 1 to 255 visible ASCII characters.")
	}
	x.key = keys[0]
	return nil
}

func legalKey(key string) bool {
	for i := 0; i < len(key); i++ {
		if key[i] <= ' ' || key[i] > '~' {
			return false
		}
	}
	return key != "" && len(key) <= longestKey
}

// digest is of a list of texts, as unlike another list's as the lists are.
func digest(texts ...string) [sha256.Size]byte {
	h := sha256.New()
	for _, s := range texts {
		h.Write(strconv.AppendInt(nil, int64(len(s)), 10))
		h.Write([]byte{':'})
		h.Write([]byte(s))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// keyDigest is of the key and of who sent it: nobody is answered with what somebody else was told.
func (x *exchange) keyDigest() [sha256.Size]byte {
	var claims struct {
		Sub any `json:"sub"`
	}
	_ = json.Unmarshal(x.options.Claims, &claims) // without a subject it is the role's
	return digest(x.options.Role, fmt.Sprint(claims.Sub), x.key)
}

// requestDigest is of all that the write and its answer depend on.
func (x *exchange) requestDigest() [sha256.Size]byte {
	header := x.r.Header
	return digest(x.r.Method, x.path, x.r.URL.RawQuery, x.schema, fmt.Sprint(header["Content-Type"]), fmt.Sprint(header["Accept"]),
		fmt.Sprint(header["Prefer"]), string(x.raw))
}

// perform runs a write and builds its answer: after COMMIT, or before it where the answer is kept with the data.
func (x *exchange) perform(job exec.Job, m media, build func(exec.Row) (*answer, error)) (*answer, error) {
	if x.key == "" || job.ReadOnly || m.plan != nil {
		row, err := x.run(job, m)
		if err != nil {
			return nil, err
		}
		if m.plan != nil {
			return x.planAnswer(row, m), nil
		}
		return build(*row)
	}
	var a *answer
	x.held = true
	keep := &exec.Keep{Key: x.keyDigest(), Request: x.requestDigest()}
	keep.Answer = func(row exec.Row) (kept *exec.Kept, err error) {
		if m.handler != nil && m.handler.Bytes {
			if row[sqlgen.Body], err = rawBytes(row[sqlgen.Body]); err != nil {
				return nil, err
			}
		}
		if err := x.fits(row, exec.RolledBack); err != nil {
			return nil, err
		}
		if a, err = build(row); err != nil {
			return nil, err
		}
		kept = &exec.Kept{Status: a.status, Header: encode(a.header)}
		if !a.empty {
			kept.Body = append([]byte{}, a.body...)
		}
		return kept, nil
	}
	job.Keep = keep
	if _, err := x.run(job, m); err != nil {
		return nil, keyProblem(err)
	}
	if keep.Found != nil {
		return replay(keep.Found)
	}
	return a, nil
}

// replay makes an answer of what was kept.
func replay(kept *exec.Kept) (*answer, error) {
	a := &answer{status: kept.Status, body: kept.Body, empty: kept.Body == nil}
	if err := json.Unmarshal(kept.Header, &a.header); err != nil {
		return nil, fmt.Errorf("read the header of a kept answer: %w", err)
	}
	a.header.Set(replayedHeader, "true")
	return a, nil
}

// keyProblem explains why a key could not be claimed.
func keyProblem(err error) error {
	refuse := func(status int, code string, cause error, hint string) *apiError {
		e := (&apiError{status: status, code: code, message: cause.Error()}).with("", hint)
		e.outcome = exec.NotStarted
		return e
	}
	switch {
	case errors.Is(err, exec.ErrKeyBusy):
		e := refuse(http.StatusConflict, "idempotency_key_in_flight", exec.ErrKeyBusy, "Ask again when it has been answered.")
		e.header = http.Header{"Retry-After": {"1"}}
		return e
	case errors.Is(err, exec.ErrKeyOther):
		return refuse(http.StatusUnprocessableEntity, "idempotency_key_reused", exec.ErrKeyOther, "Take a new key for each write.")
	case errors.Is(err, exec.ErrNoKeys):
		return refuse(http.StatusBadRequest, "idempotency_unsupported", exec.ErrNoKeys, "Send the write without Idempotency-Key.")
	}
	return err
}
