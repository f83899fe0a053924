package admin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// keepTime is how long the answer of a request that has been carried out may take to be kept.
const keepTime = 5 * time.Second

// once carries a request out under its Idempotency-Key: what was answered before is answered again, and what was asked
// under another matter is refused. Only what succeeded is kept; what failed did nothing and may be tried again.
func once[In, Out any](ctx context.Context, s *service, c *caller, r route, in *In, fn func(context.Context, *In) (*Out, error)) (*Out, error) {
	request, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(request)
	o, err := s.operator.BeginOnce(ctx, c.principal, r.method+" "+r.path, c.key, sum[:])
	if errors.Is(err, catalog.ErrAnswerLost) {
		return lost[Out](ctx, s, c, o)
	}
	if err != nil {
		return nil, err
	}
	if o.Answer != nil {
		out := new(Out)
		if err := json.Unmarshal(o.Answer, out); err != nil {
			return nil, err
		}
		c.setHeader("Idempotent-Replayed", "true")
		return out, nil
	}
	out, err := fn(o.Context(ctx), in)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancel()
	if err != nil {
		return nil, errors.Join(err, o.Release(after))
	}
	answer, err := json.Marshal(out)
	if err == nil {
		err = o.Keep(after, answer)
	}
	if err != nil { // it is done: only a second one like it would be told that its answer is lost
		s.cfg.Logger.Error("answer is not kept under its idempotency key", "request_id", requestID(ctx), "error", err)
	}
	return out, nil
}

// lost answers a request that was carried out by a process that died before it answered: with its operation, as it would
// have been, or by saying that it was carried out.
func lost[Out any](ctx context.Context, s *service, c *caller, o *catalog.Once) (*Out, error) {
	p := newProblem(http.StatusConflict, "answer_lost", "The request was carried out before, and its answer is lost; read what it changed")
	if o.Operation.IsZero() {
		return nil, p
	}
	op, err := s.operator.Operation(ctx, o.Operation)
	if err != nil {
		return nil, err
	}
	out, _ := accepted(op, nil)
	if same, ok := any(out).(*Out); ok {
		c.setHeader("Idempotent-Replayed", "true")
		return same, nil
	}
	return nil, p
}
