package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// Trial is what the files of a set that a fleet does not have do to tables that stand: tried on a scratch database, and
// weighed by the fleet's own.
type Trial struct {
	Files []tenants.FileEffects
	// Took is how long the files took in the scratch database, where the tables are empty.
	Took time.Duration
}

// refused lists what keeps a rollout from starting.
func (t *Trial) refused() []string {
	var found []string
	for _, f := range t.Files {
		for _, p := range f.Problems {
			if p.Excused != "" {
				continue
			}
			place := f.File
			if p.Line > 0 {
				place += fmt.Sprintf(":%d", p.Line)
			}
			found = append(found, fmt.Sprintf("%s: %s (%s; %s)", place, p.Reason, p.Rule, p.Hint))
		}
	}
	return found
}

// smallTable is how large a table may be that is locked while it is written anew or looked through: well below a second's work.
const smallTable = 8 << 20

// weigh excuses what does no harm where the tables are as large as they are; sizes are the largest of the databases that were
// looked at, nil where none could be.
func (t *Trial) weigh(sizes map[string]int64) {
	for i := range t.Files {
		for j := range t.Files[i].Problems {
			p := &t.Files[i].Problems[j]
			p.Excused = ""
			size, known := sizes[p.Table]
			switch p.Rule {
			case "locks":
				p.Excused = "the wait for each lock is bounded"
			case "rewrite", "index", "constraint", "not-null":
				if known && size <= smallTable {
					p.Excused = fmt.Sprintf("the largest that was looked at has %d KiB", size>>10)
				}
			case "column":
				if known && size == 0 {
					p.Excused = "the table is empty"
				}
			}
		}
	}
}

// tables are those that a problem depends on the size of.
func (t *Trial) tables() []string {
	var names []string
	for _, f := range t.Files {
		for _, p := range f.Problems {
			if p.Table != "" {
				names = append(names, p.Table)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var pointTried = fp.Point("rollout.tried")

// try brings a scratch database on a server over the files of a set that follow a version, and drops it.
func (r *Runner) try(ctx context.Context, server catalog.ServerID, m *migrations.Migrator, after int64) (*Trial, error) {
	p := &provision{Runner: r, op: &catalog.Operation{}, db: &catalog.Database{Server: server}}
	defer p.close()
	h, err := p.host(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := p.ensureServerRoles(ctx, h); err != nil {
		return nil, err
	}
	from, err := h.templateOf(ctx, p, m.At(after))
	if err != nil {
		return nil, err
	}
	name, trial := "rh_try_"+server.Compact(), (*Trial)(nil)
	err = h.under(ctx, lockKey(r.catalog.ID(), "trials on server "+server.String()), func() error {
		if err := p.openBuilding(ctx, h, name, from); err != nil {
			return err
		}
		if err := fp.Hit(pointTried); err != nil {
			return err
		}
		began := time.Now()
		effects, err := m.Try(ctx, r.target(server, name, templateOwnerOf(server), name), after)
		trial = trialOf(effects, time.Since(began))
		var refused *migrations.Error
		if errors.As(err, &refused) {
			refused.Target = "scratch database"
		}
		dropping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*closing)
		defer cancel()
		if err := p.clearBuilding(dropping, h, name); err != nil {
			r.log.WarnContext(ctx, "scratch database is left until the next trial", "database", name, "err", explain(err))
		}
		return err
	})
	return trial, err
}

// templateOf is the name of a template that is at a version, or of PostgreSQL's own where there is none.
func (h *host) templateOf(ctx context.Context, p *provision, v migrations.Version) (string, error) {
	var name string
	err := h.QueryRow(ctx, `
		select coalesce((select datname::text from pg_database
		  where datistemplate and not datallowconn and starts_with(shobj_description(oid, 'pg_database'), $1) limit 1), 'template0')`,
		p.serverMark()+"template="+v.Chain+" ").Scan(&name)
	if err != nil {
		return "", fmt.Errorf("templates: %w", err)
	}
	return name, nil
}

func trialOf(effects []migrations.FileEffects, took time.Duration) *Trial {
	t := &Trial{Files: []tenants.FileEffects{}, Took: took}
	for _, e := range effects {
		f := tenants.FileEffects{File: e.File.String(), Statements: []tenants.StatementEffect{}}
		for _, s := range e.Statements {
			statement := tenants.StatementEffect{Line: s.Line, Statement: s.Statement, Rewritten: s.Rewritten}
			for _, l := range s.Locks {
				statement.Locks = append(statement.Locks, tenants.TableLock(l))
			}
			f.Statements = append(f.Statements, statement)
		}
		for _, p := range e.Problems {
			f.Problems = append(f.Problems, tenants.EffectProblem{Line: p.Line, Rule: p.Rule, Table: p.Table, Reason: p.Reason, Hint: p.Hint})
		}
		t.Files = append(t.Files, f)
	}
	return t
}

// looked is how many databases are asked how large their tables are.
const looked = 6

// sizes asks some of the databases that a set would be brought to how large tables are in them, shared ones first: there
// they are largest. A database that cannot be asked is left out.
func (r *Runner) sizes(ctx context.Context, members []*catalog.FleetMember, tables []string) map[string]int64 {
	if len(tables) == 0 {
		return nil
	}
	members = slices.Clone(members)
	slices.SortStableFunc(members, func(a, b *catalog.FleetMember) int { return -strings.Compare(string(a.Kind), string(b.Kind)) })
	members = members[:min(len(members), looked)]
	found := make([]map[string]int64, len(members))
	var looking sync.WaitGroup
	for i, m := range members {
		looking.Go(func() {
			var err error
			if found[i], err = r.sizesIn(ctx, m, tables); err != nil {
				r.log.WarnContext(ctx, "database cannot be asked for the size of its tables", "database", m.Name, "err", explain(err))
			}
		})
	}
	looking.Wait()
	var sizes map[string]int64
	for _, f := range found {
		for t, size := range f {
			if sizes == nil {
				sizes = map[string]int64{}
			}
			sizes[t] = max(sizes[t], size)
		}
	}
	return sizes
}

func (r *Runner) sizesIn(ctx context.Context, m *catalog.FleetMember, tables []string) (map[string]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := r.target(m.Server, m.Name, ownerOf(m.ID), m.ID.String()).Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	// A table that is not there yet, or is only in a file between, is empty.
	rows, err := conn.Query(ctx, `
		select t, coalesce(pg_catalog.pg_relation_size(pg_catalog.to_regclass(t)), 0)
		         + coalesce((select sum(pg_catalog.pg_relation_size(relid)) from pg_catalog.pg_partition_tree(pg_catalog.to_regclass(t)) where level > 0), 0)::bigint
		  from unnest($1::text[]) t`, tables)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	sizes := map[string]int64{}
	for rows.Next() {
		var name string
		var size int64
		if err := rows.Scan(&name, &size); err != nil {
			return nil, err
		}
		sizes[name] = size
	}
	return sizes, rows.Err()
}

// trial is what a set does, tried now or before. Nil, where no server has room for a scratch database, comes with the error of the last one.
func (r *Runner) trial(ctx context.Context, servers []catalog.ServerID, m *migrations.Migrator, after int64, members []*catalog.FleetMember) (trial *Trial, err error) {
	chain := m.Latest().Chain
	if after == 0 || after >= m.Latest().Number {
		return &Trial{Files: []tenants.FileEffects{}}, nil // no table stands before the first set
	}
	kept, took, err := r.catalog.Tried(ctx, chain, after)
	if err != nil {
		return nil, err
	}
	if kept != nil {
		trial = &Trial{Took: took}
		if err := json.Unmarshal(kept, &trial.Files); err != nil {
			return nil, fmt.Errorf("trial of the migration set: %w", err)
		}
	}
	for _, server := range servers {
		if trial != nil {
			break
		}
		if trial, err = r.try(ctx, server, m, after); err != nil {
			trial = nil
			if c := classify(ctx, err); c == classPermanent || c == classHistory || c == classTime {
				return nil, err
			}
			continue
		}
		files, jsonErr := json.Marshal(trial.Files)
		if jsonErr != nil {
			return nil, jsonErr
		}
		if err := r.catalog.SetTried(ctx, chain, after, files, trial.Took); err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return nil, err // a set that is only planned is not stored
		}
	}
	if trial != nil {
		trial.weigh(r.sizes(ctx, members, trial.tables()))
		err = nil
	}
	return trial, err
}

// TryRollout tries the files of a plan on a scratch database of one of its servers, and weighs what they do by some of the databases
// that they would be brought to. It leaves nothing behind. A file that PostgreSQL refuses is an error.
func (r *Runner) TryRollout(ctx context.Context, spec RolloutSpec, plan *RolloutPlan) (*Trial, error) {
	m, err := r.migrator(spec.Files)
	if err != nil {
		return nil, err
	}
	var servers []catalog.ServerID
	for _, b := range plan.behind {
		if !slices.Contains(servers, b.Server) {
			servers = append(servers, b.Server)
		}
	}
	return r.trial(ctx, servers, m, plan.From, plan.behind)
}

// Estimate is how long the plan will take: the rest between its rings, and for each server as many turns as its databases need in its
// slots. A turn is as long as those of the rollouts before, or as the files took in the scratch database.
func (r *Runner) Estimate(ctx context.Context, plan *RolloutPlan, trial *Trial) (time.Duration, error) {
	turn, err := r.catalog.TargetDuration(ctx)
	if err != nil {
		return 0, err
	}
	if trial != nil {
		turn = max(turn, trial.Took)
	}
	turn = max(turn, 20*time.Millisecond)
	slots, err := r.catalog.MigrateSlots(ctx)
	if err != nil {
		return 0, err
	}
	var whole time.Duration
	for _, ring := range plan.Rings {
		if ring.Databases == 0 {
			continue
		}
		longest := 0
		for server, n := range ring.Servers {
			at := max(slots[server], 1)
			if bound := plan.rings[ring.Ring].Slots; bound > 0 {
				at = min(at, bound)
			}
			longest = max(longest, (n+at-1)/at)
		}
		whole += time.Duration(longest)*turn + plan.rings[ring.Ring].Soak
	}
	return whole, nil
}
