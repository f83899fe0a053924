package catalog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// AuditVerdict is what became of the audit trail since it was written.
type AuditVerdict struct {
	// Events is how many are chained, and Seals how many of its earlier ends are sealed.
	Events int64 `json:"events"`
	Seals  int64 `json:"seals"`
	// Head names the end of the trail. Kept elsewhere, it shows later whether the trail was cut behind it or rewritten.
	Head string `json:"head"`
	// Broken says what is wrong first; nil when nothing is.
	Broken *AuditBreak `json:"broken,omitempty"`
}

// AuditBreak is the first place where the trail is not as it was written.
type AuditBreak struct {
	// Position is the place in the chain, and Event the seq of the event there; 0 where there is none.
	Position int64  `json:"position"`
	Event    int64  `json:"event"`
	What     string `json:"what"`
}

// auditDigest is what stands in rowhouse.audit_digest. It is asked again here, because a function in the database can be
// replaced by who changed the trail.
const auditDigest = `sha256(before || convert_to(jsonb_build_array(e.seq, extract(epoch from e.at), e.txid::text, e.action, e.target_kind, e.target_id, e.target,
    e.side, e.actor, e.impersonator, e.address, e.request_id, e.operation, e.detail)::text, 'UTF8'))`

// VerifyAudit looks through the whole audit trail, as it is at one moment, and names the first event that was changed,
// taken out, put in or moved. A head that was kept elsewhere, from an earlier verdict, shows a trail that was rewritten whole;
// empty: none is compared. Without the catalog's keys the seals are not looked at.
func (c *Catalog) VerifyAudit(ctx context.Context, head string) (*AuditVerdict, error) {
	kept, keptHash, err := parseHead(head)
	if err != nil {
		return nil, err
	}
	v := &AuditVerdict{}
	err = pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, look := range []func(context.Context, pgx.Tx, *AuditVerdict) error{c.verifyChain, c.verifyUnchained, c.verifyHead, c.verifySeals} {
			if err := look(ctx, tx, v); err != nil || v.Broken != nil {
				return err
			}
		}
		if head == "" {
			return nil
		}
		return expectHash(ctx, tx, v, kept, keptHash, "the trail is not the one whose head was kept: it was cut or rewritten")
	})
	if err != nil {
		return nil, refine(err, "audit trail")
	}
	return v, nil
}

func parseHead(head string) (position int64, hash []byte, err error) {
	if head == "" {
		return 0, nil, nil
	}
	number, digest, _ := strings.Cut(head, ":")
	position, err = strconv.ParseInt(number, 10, 64)
	if err == nil {
		hash, err = hex.DecodeString(digest)
	}
	if err != nil || position < 0 || len(hash) != 32 {
		return 0, nil, Invalid("head must be as an earlier verdict told it, such as 17:9f86d0…")
	}
	return position, hash, nil
}

func (c *Catalog) verifyChain(ctx context.Context, tx pgx.Tx, v *AuditVerdict) error {
	var b AuditBreak
	var event *int64
	err := tx.QueryRow(ctx, `
		with links as (
			select c.position, c.event, c.hash, row_number() over (order by c.position) as expected,
			       coalesce(lag(c.hash) over (order by c.position), sha256(convert_to('rowhouse audit ' || (select id from rowhouse.catalog), 'UTF8'))) as before
			  from rowhouse.audit_chain c)
		select l.expected, l.event,
		       case when l.position <> l.expected then 'the chain has no link here: events were taken out'
		            when e.seq is null then 'the event was taken out'
		            else 'the event was changed or moved' end
		  from links l left join rowhouse.audit_events e on e.seq = l.event
		 where l.position <> l.expected or e.seq is null or l.hash <> `+auditDigest+`
		 order by l.position limit 1`).Scan(&b.Position, &event, &b.What)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	if event != nil {
		b.Event = *event
	}
	v.Broken = &b
	return nil
}

// verifyUnchained finds events that were put in past the chain.
func (c *Catalog) verifyUnchained(ctx context.Context, tx pgx.Tx, v *AuditVerdict) error {
	b := AuditBreak{What: "the event was put in past the chain, or its link was taken out"}
	err := tx.QueryRow(ctx, `
		select e.seq from rowhouse.audit_events e
		 where not exists (select from rowhouse.audit_chain c where c.event = e.seq) order by e.seq limit 1`).Scan(&b.Event)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		v.Broken = &b
	}
	return err
}

func (c *Catalog) verifyHead(ctx context.Context, tx pgx.Tx, v *AuditVerdict) error {
	var hash []byte
	err := tx.QueryRow(ctx, `select position, hash from rowhouse.audit_head`).Scan(&v.Events, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		v.Broken = &AuditBreak{What: "the end of the chain was taken out"}
		return nil
	}
	if err != nil {
		return err
	}
	v.Head = fmt.Sprintf("%d:%x", v.Events, hash)
	var last int64
	if err := tx.QueryRow(ctx, `select coalesce(max(position), 0) from rowhouse.audit_chain`).Scan(&last); err != nil {
		return err
	}
	if last != v.Events {
		v.Broken = &AuditBreak{Position: min(last, v.Events) + 1, What: fmt.Sprintf("the chain has %d links and its end says %d: it was cut", last, v.Events)}
		return nil
	}
	return expectHash(ctx, tx, v, v.Events, hash, "the end of the chain is not that of its last link")
}

// expectHash insists that the chain had a hash at a position.
func expectHash(ctx context.Context, tx pgx.Tx, v *AuditVerdict, position int64, hash []byte, otherwise string) error {
	var same bool
	err := tx.QueryRow(ctx, `
		select coalesce((select c.hash = $2 from rowhouse.audit_chain c where c.position = $1),
		                $1 = 0 and $2 = (select sha256(convert_to('rowhouse audit ' || id, 'UTF8')) from rowhouse.catalog))`, position, hash).Scan(&same)
	if err == nil && !same {
		v.Broken = &AuditBreak{Position: position, What: otherwise}
	}
	return err
}

func (c *Catalog) sealBound(position int64) []byte {
	return fmt.Appendf(nil, "rowhouse/v1/audit_seals.sealed\x00%s\x00%d", c.id, position)
}

// verifySeals compares the chain with its sealed heads. Of a seal that is not ours nothing can be said but that.
func (c *Catalog) verifySeals(ctx context.Context, tx pgx.Tx, v *AuditVerdict) error {
	if c.keys == nil {
		return nil
	}
	type seal struct {
		Position int64
		Sealed   []byte
	}
	rows, err := tx.Query(ctx, `select position, sealed from rowhouse.audit_seals order by position`)
	if err != nil {
		return err
	}
	seals, err := pgx.CollectRows(rows, pgx.RowToStructByPos[seal])
	if err != nil {
		return err
	}
	for _, s := range seals {
		hash, err := c.keys.Unseal(s.Sealed, c.sealBound(s.Position))
		if err != nil {
			v.Broken = &AuditBreak{Position: s.Position, What: "a seal does not open under the catalog's keys"}
			return nil
		}
		if err := expectHash(ctx, tx, v, s.Position, hash, "the trail is not the one that was sealed: it was cut or rewritten"); err != nil || v.Broken != nil {
			return err
		}
		v.Seals++
	}
	return nil
}

// SealAudit seals the end of the trail as it is, unless it is sealed already. Without keys it does nothing.
func (c *Catalog) SealAudit(ctx context.Context) error {
	if c.keys == nil {
		return nil
	}
	var position int64
	var hash []byte
	err := c.pool.QueryRow(ctx, `
		select h.position, h.hash from rowhouse.audit_head h
		 where h.position > 0 and not exists (select from rowhouse.audit_seals s where s.position = h.position)`).Scan(&position, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return refine(err, "audit head")
	}
	sealed, err := c.keys.Seal(hash, c.sealBound(position))
	if err != nil {
		return fmt.Errorf("audit seal: %w", err)
	}
	_, err = c.pool.Exec(ctx, `insert into rowhouse.audit_seals (position, sealed) values ($1, $2) on conflict do nothing`, position, sealed)
	return refine(err, "audit seal")
}
