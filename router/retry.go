package router

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Work that was not started is started again: at once, and then after up to so long. What else is retried is decided by
// those who know what they sent: the data API repeats a read whose connection was lost, and a transaction that the engine
// refused for another one's sake or for a stale plan. pgconn.SafeToRetry decides nothing: it says so of a COMMIT that was
// executed.
var pauses = []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond}

// again says whether to try once more, after the pause.
func (s *server) again(ctx context.Context, try int) bool {
	if try >= len(pauses) || ctx.Err() != nil || s.breaker.isOpen() || !s.retries.take() {
		return false
	}
	s.retried.Add(1)
	if pauses[try] == 0 {
		return true
	}
	return pause(ctx, rand.N(pauses[try]))
}

// isBroken says that work was not started because its connection broke, and not because the server refused it.
func isBroken(err error) bool {
	var pg *pgconn.PgError
	return outcomeOf(err) == notStarted && (!errors.As(err, &pg) || strings.HasPrefix(pg.Code, "57P") || strings.HasPrefix(pg.Code, "08"))
}

// allowance keeps retries below a tenth of the requests, with some in hand for when a server restarts.
type allowance struct{ tenths atomic.Int64 }

const (
	inHand  = 1000 // tenths of retries
	aRetry  = 10
	forEach = 1 // request
)

// earn is called for each request.
func (a *allowance) earn() {
	if a.tenths.Load() < inHand {
		a.tenths.Add(forEach)
	}
}

func (a *allowance) take() bool {
	for {
		have := a.tenths.Load()
		if have < aRetry {
			return false
		}
		if a.tenths.CompareAndSwap(have, have-aRetry) {
			return true
		}
	}
}

// confirming is how often a server is asked whether it still takes writes.
const confirming = time.Second

// doubtWrites hears that a transaction that we began READ WRITE was told that it is not. The server may have become a
// standby, while its connections stay; or a function has said so, for which a server is no standby. So it is asked.
func (s *server) doubtWrites(p *pool, conn *pgconn.PgConn) {
	last, now := s.confirmed.Load(), time.Now().UnixNano()
	if now-last < int64(confirming) || !s.confirmed.CompareAndSwap(last, now) {
		return
	}
	address := conn.Conn().RemoteAddr()
	s.router.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), s.router.cfg.AcquireTimeout+s.router.cfg.ConnectTimeout)
		defer cancel()
		readOnly, err := p.isReadOnly(ctx, address.Network(), address.String())
		switch {
		case err != nil:
			s.router.log.Warn("server refuses writes, and cannot be asked why", "server", s.id, "error", bare(err).Error())
		case readOnly:
			s.router.log.Error("server does not take writes any more: all its connections are replaced", "server", s.id)
			s.reset()
		}
	})
}

// reset has every connection to the server replaced before it is used again.
func (s *server) reset() {
	s.resets.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.pools {
		p.reset()
	}
}

// isReadOnly asks the very host that is doubted, by a connection of its own.
func (p *pool) isReadOnly(ctx context.Context, network, address string) (bool, error) {
	cc := p.Config().ConnConfig
	tlsConfigs := []*pgconn.FallbackConfig{{TLSConfig: cc.TLSConfig}}
	tlsConfigs = append(tlsConfigs, cc.Fallbacks...) // which of them is that host's shows when it is spoken to
	deadline, _ := ctx.Deadline()
	var err error
	for _, fallback := range tlsConfigs {
		a := &acquisition{Context: ctx}
		a.ticket.Deadline, a.ticket.Key = deadline, p
		cc := cc.Copy()
		cc.TLSConfig, cc.Fallbacks, cc.ValidateConnect, cc.Tracer, cc.OnPgError = fallback.TLSConfig, nil, nil, nil, nil
		cc.DialFunc = p.dialer(network, address)
		var conn *pgx.Conn
		if conn, err = pgx.ConnectConfig(a, cc); err != nil {
			continue
		}
		defer conn.Close(ctx)
		a.ticket.Connected()
		var on string
		err = conn.QueryRow(ctx, "show transaction_read_only", pgx.QueryExecModeExec).Scan(&on)
		return on == "on", err
	}
	return false, err
}
