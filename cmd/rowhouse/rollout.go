package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/admin"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// rolloutFlags are what plan and up are asked for.
type rolloutFlags struct {
	to       int64
	ring     string
	canaries []string
	soak     time.Duration
	yes      bool
	workers  int
}

// readSet reads the migrations of a directory, which must be sound; none at all, where none was named and none stands here, means the
// active set.
func (a *app) readSet(args []string, to int64) ([]tenants.MigrationText, error) {
	if _, err := os.Stat(migrationsDir); len(args) == 0 && errors.Is(err, fs.ErrNotExist) {
		if !a.quiet {
			fmt.Fprintf(a.stderr, "no ./%s here: the active set\n", migrationsDir)
		}
		return nil, nil
	}
	fsys, closeDir, err := openMigrations(args)
	if err != nil {
		return nil, err
	}
	defer closeDir()
	problems, err := migrations.Lint(fsys)
	if err != nil {
		return nil, err
	}
	for _, p := range problems {
		fmt.Fprintln(a.stderr, p)
	}
	if len(problems) > 0 {
		return nil, &coded{err: fmt.Errorf("%d problems in the migrations; nothing was begun", len(problems)), code: exitFailure, hint: "rowhouse migrate lint"}
	}
	files, err := migrations.ReadSet(fsys)
	if err != nil {
		return nil, err
	}
	if to > 0 && !slices.ContainsFunc(files, func(f migrations.File) bool { return f.Version == to }) {
		return nil, usage("--to %d: no migration has that number", to)
	}
	texts := make([]tenants.MigrationText, len(files))
	for i, f := range files {
		texts[i] = tenants.MigrationText{Version: f.Version, Name: f.Name, Up: f.Up, Down: f.Down}
	}
	return texts, nil
}

func (a *app) rolloutSpec(c *cobra.Command, args []string, f rolloutFlags) (tenants.RolloutSpec, error) {
	spec := tenants.RolloutSpec{Until: f.ring, Confirmed: f.yes, Canaries: f.canaries, To: f.to}
	if c.Flags().Changed("soak") {
		if f.soak < 0 {
			return spec, usage("--soak: want a time that is not negative")
		}
		spec.Soak = f.soak.String()
	}
	var err error
	spec.Files, err = a.readSet(args, f.to)
	return spec, err
}

// fleet is the operator of rollouts, near or far.
func (r *reach) fleet() tenants.RolloutOperator {
	if r.near() {
		return jobs.Fleet{Runner: r.runner}
	}
	return r.Operator.(*admin.Client)
}

func operatorName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

func (f *rolloutFlags) add(c *cobra.Command) {
	c.Flags().Int64Var(&f.to, "to", 0, "the last migration to apply (default all)")
	c.Flags().StringArrayVar(&f.canaries, "canary", nil, "a database, or a tenant's, to migrate before the others; may be repeated")
	c.Flags().DurationVar(&f.soak, "soak", 0, "how long the canaries rest before the other databases (default 10m where only labels say which they are)")
}

type ringRow struct{ tenants.RingPlan }

func (ringRow) columns() []string { return []string{"ring", "name", "databases", "servers", "soak"} }

func (r ringRow) row() []any {
	var servers []string
	for _, name := range slices.Sorted(maps.Keys(r.Servers)) {
		servers = append(servers, fmt.Sprintf("%s %d", name, r.Servers[name]))
	}
	return []any{r.Ring, r.Name, r.Databases, strings.Join(servers, ", "), r.Soak}
}

func (a *app) migratePlan() *cobra.Command {
	var f rolloutFlags
	var exitCode, untried bool
	c := &cobra.Command{
		Use: "plan [DIR]", Short: "Say what up would do, where, and what it would do to tables that stand", Args: atMostOne,
		Long: "Which files would run, in which databases ring by ring, which locks each statement takes, which tables it writes anew, and about how\nlong all of it takes. The files are tried on a scratch database of one of the servers, which is dropped again; with --untried\nthe answer comes from the catalog alone. No database of the fleet is changed.",
	}
	c.RunE = a.doAt(func(ctx context.Context, r *reach, args []string) error {
		spec, err := a.rolloutSpec(c, args, f)
		if err != nil {
			return err
		}
		spec.Untried = untried
		plan, err := r.fleet().PlanRollout(ctx, spec)
		if err != nil {
			return err
		}
		if plan.Untried != "" {
			fmt.Fprintln(a.stderr, "the files were not tried: "+plan.Untried)
		}
		if err := a.printPlan(plan); err != nil {
			return err
		}
		if exitCode && plan.Pending > 0 {
			return &coded{err: fmt.Errorf("%d databases are not at version %d", plan.Pending, plan.To), code: exitPending}
		}
		return nil
	})
	f.add(c)
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit 5 when there is something to do")
	c.Flags().BoolVar(&untried, "untried", false, "do not try the files on a scratch database")
	return c
}

type effectRow struct {
	file string
	tenants.StatementEffect
}

func (effectRow) columns() []string {
	return []string{"file", "line", "statement", "locks", "writes anew"}
}

func (e effectRow) row() []any {
	var locks []string
	for _, l := range e.Locks {
		locks = append(locks, l.Table+" "+strings.TrimSuffix(l.Mode, "Lock"))
	}
	return []any{e.file, e.Line, e.Statement, strings.Join(locks, ", "), strings.Join(e.Rewritten, ", ")}
}

func (a *app) printPlan(plan *tenants.RolloutPlan) error {
	switch a.output {
	case "table":
	case "name":
		for _, f := range plan.Files {
			fmt.Fprintln(a.stdout, f)
		}
		return nil
	default:
		return a.print(plan)
	}
	fmt.Fprintf(a.stdout, "version %d to %d: %d databases to migrate, %d current\n", plan.From, plan.To, plan.Pending, plan.Current)
	if plan.Rollout != nil {
		fmt.Fprintf(a.stdout, "rollout %s to version %d is %s\n", plan.Rollout.ID, plan.Rollout.To, plan.Rollout.State)
	}
	for _, f := range plan.Files {
		fmt.Fprintf(a.stdout, "  %s\n", f)
	}
	if plan.Pending == 0 {
		return nil
	}
	if err := a.print(rows(plan.Rings, func(r tenants.RingPlan) ringRow { return ringRow{r} })); err != nil {
		return err
	}
	if err := a.printEffects(plan.Effects); err != nil {
		return err
	}
	took := time.Duration(plan.Seconds * float64(time.Second))
	fmt.Fprintf(a.stdout, "\nabout %s, longer where tables hold many rows\n", max(took.Round(time.Second), time.Second))
	return nil
}

// printEffects prints what the files do to tables that stand, and what of it is a problem.
func (a *app) printEffects(files []tenants.FileEffects) error {
	var table []effectRow
	var problems []string
	for _, f := range files {
		for _, s := range f.Statements {
			table = append(table, effectRow{f.File, s})
		}
		for _, p := range f.Problems {
			text := fmt.Sprintf("%s:%d: %s: %s (%s)", f.File, p.Line, p.Rule, p.Reason, p.Hint)
			if p.Excused != "" {
				text += "; let through, " + p.Excused
			}
			problems = append(problems, text)
		}
	}
	if len(table) > 0 {
		fmt.Fprintln(a.stdout)
		if err := a.print(rows(table, func(e effectRow) effectRow { return e })); err != nil {
			return err
		}
	}
	for _, p := range problems {
		fmt.Fprintln(a.stdout, p)
	}
	return nil
}

func (a *app) migrateUp() *cobra.Command {
	var f rolloutFlags
	c := &cobra.Command{
		Use: "up [DIR]", Short: "Bring every database to the migrations of DIR (default ./migrations)", Args: atMostOne,
		Long: "Stores the migrations, begins a rollout or takes up the one that runs, and works on it until it is through:\nspares first, then a canary, then databases of one tenant, shared ones last. Ctrl-C stops; the next up goes on.\nExit codes: 0 all is done, 3 databases failed or are held, 1 it is paused, 130 interrupted.",
	}
	c.RunE = a.doAt(func(ctx context.Context, r *reach, args []string) error {
		spec, err := a.rolloutSpec(c, args, f)
		if err != nil {
			return err
		}
		ro, err := r.fleet().StartRollout(ctx, spec)
		if err != nil {
			return err
		}
		if ro == nil {
			return a.nothingToDo(ctx, r)
		}
		return a.followRollout(ctx, r, ro, f.workers)
	})
	f.add(c)
	c.Flags().StringVar(&f.ring, "ring", "", "the last ring to open, by name or number; resume opens the next")
	c.Flags().BoolVar(&f.yes, "yes", false, "begin though databases are so far behind that they are not served until they are migrated")
	c.Flags().IntVar(&f.workers, "workers", 8, "databases migrated at once by this process; each server bounds its own")
	return c
}

func (a *app) nothingToDo(ctx context.Context, r *reach) error {
	status, err := r.fleet().FleetStatus(ctx, "", false)
	if err != nil {
		return err
	}
	if a.output == "json" || a.output == "yaml" {
		return a.print(map[string]any{"state": "done", "current": fleetSize(status), "rollout": nil})
	}
	if !a.quiet {
		fmt.Fprintf(a.stderr, "0 migrated, %d current, 0 failed\n", fleetSize(status))
	}
	return nil
}

func fleetSize(s *tenants.FleetStatus) int {
	n := 0
	for _, v := range s.Versions {
		n += v.Databases
	}
	return n
}

// followRollout works on a rollout here until it is through or paused, or from far looks on, and says how it ended.
func (a *app) followRollout(ctx context.Context, r *reach, ro *catalog.Rollout, workers int) error {
	report, done := a.rolloutReporter(ctx, r, ro)
	follow, hint := a.watchRollout, "rowhouse migrate status"
	if r.near() {
		hint = "rowhouse migrate up"
		follow = func(ctx context.Context, _ *reach, ro *catalog.Rollout, report func(*catalog.RolloutTarget)) error {
			return r.runner.FollowRollout(ctx, ro.ID, workers, report)
		}
	}
	err := follow(ctx, r, ro, report)
	done()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		what := "stopped; rollout %s can go on"
		if !r.near() {
			what = "no longer followed; rollout %s goes on"
		}
		return &coded{err: fmt.Errorf(what, ro.ID), code: exitInterrupted, hint: hint}
	}
	if err != nil && !errors.Is(err, jobs.ErrHeld) {
		return err
	}
	ro, readErr := r.fleet().Rollout(ctx, ro.ID.String())
	if readErr != nil {
		return readErr
	}
	return a.endedRollout(ctx, r, ro, err)
}

// watchRollout looks on while the service works on a rollout, until it is through or paused.
func (a *app) watchRollout(ctx context.Context, r *reach, ro *catalog.Rollout, report func(*catalog.RolloutTarget)) error {
	for after := ro.Seq; ; {
		now, err := r.fleet().Rollout(ctx, ro.ID.String())
		if err != nil {
			return err
		}
		results, err := r.fleet().RolloutResults(ctx, ro.ID, after)
		if err != nil {
			return err
		}
		for _, t := range results {
			after = t.Seq
			report(t)
		}
		running := slices.ContainsFunc(now.Rings, func(ring *catalog.RolloutRing) bool { return ring.Ring == now.Ring && ring.Left() > 0 })
		if now.State.Finished() || now.State == catalog.RolloutPaused && (!running || now.Pause != catalog.PauseOperator) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// endedRollout prints how a rollout stands, and gives the exit code that says it.
func (a *app) endedRollout(ctx context.Context, r *reach, ro *catalog.Rollout, held error) error {
	var done, failed, skipped, left int
	for _, ring := range ro.Rings {
		done, failed, skipped, left = done+ring.Done, failed+ring.Failed, skipped+ring.Skipped, left+ring.Left()
	}
	if a.output == "json" || a.output == "yaml" {
		if err := a.print(ro); err != nil {
			return err
		}
	}
	if !a.quiet {
		status, err := r.fleet().FleetStatus(ctx, ro.ID.String(), false)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%d migrated, %d current, %d failed", done, max(fleetSize(status)-done-failed-skipped-left, 0), failed)
		if skipped > 0 {
			text += fmt.Sprintf(", %d skipped", skipped)
		}
		if left > 0 {
			text += fmt.Sprintf(", %d not begun", left)
		}
		fmt.Fprintln(a.stderr, text)
	}
	switch {
	case held != nil:
		return &coded{err: fmt.Errorf("rollout %s: %w", ro.ID, held), code: exitSomeFailed, hint: "when they are back: rowhouse migrate up"}
	case ro.State == catalog.RolloutDone:
		return nil
	case ro.State == catalog.RolloutPaused && ro.Pause == catalog.PauseThreshold:
		return &coded{
			err: fmt.Errorf("rollout %s is paused: %s", ro.ID, ro.Note), code: exitSomeFailed,
			hint: "rowhouse migrate status says why; after the repair, rowhouse migrate resume",
		}
	case ro.State == catalog.RolloutDoneWithFailures || failed > 0:
		return &coded{
			err: errors.New("some databases are not at the new version"), code: exitSomeFailed,
			hint: "rowhouse migrate status says why; after the repair, rowhouse migrate retry",
		}
	case ro.State == catalog.RolloutPaused:
		return &coded{err: fmt.Errorf("rollout %s is paused (%s) %s", ro.ID, ro.Pause, ro.Note), code: exitFailure, hint: "rowhouse migrate resume"}
	}
	return fmt.Errorf("rollout %s is %s: %s", ro.ID, ro.State, ro.Note)
}

// rolloutReporter tells of each database as it ends: a bar for each ring on a terminal, else a line each. Why nothing
// happens is told too: a ring that rests, a server that is away.
func (a *app) rolloutReporter(ctx context.Context, r *reach, ro *catalog.Rollout) (report func(*catalog.RolloutTarget), done func()) {
	if a.quiet {
		return func(*catalog.RolloutTarget) {}, func() {}
	}
	say := func(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }
	progress, closeBars := func(int) {}, func() {}
	if a.isTerminal(a.stderr) {
		progress, say, closeBars = a.ringBars(ro)
	}
	ctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); tellWaits(ctx, r.fleet(), ro.ID, say) }()
	names := map[int]string{}
	for _, ring := range ro.Rings {
		names[ring.Ring] = ring.Name
	}
	onTerminal := a.isTerminal(a.stderr)
	report = func(t *catalog.RolloutTarget) {
		switch t.State {
		case catalog.TargetDone:
			progress(t.Ring)
			if !onTerminal {
				say("%s: %s at version %d", names[t.Ring], t.Name, *t.To)
			}
		case catalog.TargetFailed, catalog.TargetNeedsRepair:
			progress(t.Ring)
			say("%s: %s failed: %s", names[t.Ring], t.Name, t.Error)
		case catalog.TargetRetryWait:
			if !onTerminal {
				say("%s: %s is tried again: %s", names[t.Ring], t.Name, t.Error)
			}
		}
	}
	return report, func() { stop(); <-watched; closeBars() }
}

func (a *app) ringBars(ro *catalog.Rollout) (progress func(ring int), say func(string, ...any), done func()) {
	bars := mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40))
	of := map[int]*mpb.Bar{}
	for _, ring := range ro.Rings {
		if ring.Total > 0 {
			bar := bars.AddBar(int64(ring.Total), mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-10s", ring.Name))),
				mpb.AppendDecorators(decor.CountersNoUnit("%d of %d")))
			bar.SetCurrent(int64(ring.Done + ring.Failed + ring.Skipped))
			of[ring.Ring] = bar
		}
	}
	progress = func(ring int) {
		if bar := of[ring]; bar != nil {
			bar.Increment()
		}
	}
	say = func(format string, args ...any) { _, _ = fmt.Fprintf(bars, format+"\n", args...) }
	return progress, say, func() {
		for _, bar := range of {
			bar.Abort(false)
		}
		bars.Wait()
	}
}

// tellWaits says once why a rollout waits, until ctx ends.
func tellWaits(ctx context.Context, fleet tenants.RolloutOperator, id catalog.RolloutID, say func(string, ...any)) {
	told := map[string]bool{}
	once := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !told[text] {
			told[text] = true
			say("%s", text)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		status, err := fleet.FleetStatus(ctx, id.String(), false)
		if err != nil {
			continue
		}
		if ro := status.Rollout; ro.State == catalog.RolloutRunning {
			if ring := ro.Open(); ring != nil && ring.ClosedAt != nil && ring.Total > 0 && ring.Since < ring.Soak {
				once("%s: rests for %s; rowhouse migrate pause, or wait", ring.Name, ring.Soak)
			}
		}
		for _, s := range status.Servers {
			once("server %s refuses connections, its databases wait: %s", s.Server, s.Reason)
		}
	}
}

// firstOf is the only argument, or empty.
func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func optionalRollout(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage("%s takes one rollout", c.CommandPath())
	}
	return nil
}

// onRollout is a verb about one rollout, the unfinished one where none is named.
func (a *app) onRollout(use, short string, fn func(ctx context.Context, r *reach, ro *catalog.Rollout) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " [ROLLOUT]", Short: short, Args: optionalRollout,
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			ro, err := r.fleet().Rollout(ctx, firstOf(args))
			if err != nil {
				return err
			}
			return fn(ctx, r, ro)
		}),
	}
}

func (a *app) migratePause() *cobra.Command {
	return a.onRollout("pause", "Begin no further database; what runs may end", func(ctx context.Context, r *reach, ro *catalog.Rollout) error {
		if err := r.fleet().PauseRollout(ctx, ro.ID); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "rollout %s is paused\n", ro.ID)
		return nil
	})
}

// detach is the flag of verbs that follow what they set going.
const detach = "detach"

func (a *app) migrateResume() *cobra.Command {
	var reset, detached bool
	c := a.onRollout("resume", "Go on with a paused rollout, and follow it", func(ctx context.Context, r *reach, ro *catalog.Rollout) error {
		if err := r.fleet().ResumeRollout(ctx, ro.ID, reset); err != nil {
			return err
		}
		return a.goOn(ctx, r, ro.ID, detached)
	})
	c.Long = "After too many failures, the databases that failed are tried again; with --reset they are left as they are and count no\nmore. At a gate the next ring is opened."
	c.Flags().BoolVar(&reset, "reset", false, "count the failures so far no more")
	c.Flags().BoolVar(&detached, detach, false, "do not follow: a running service does the work")
	return c
}

func (a *app) goOn(ctx context.Context, r *reach, id catalog.RolloutID, detached bool) error {
	if detached {
		fmt.Fprintf(a.stderr, "rollout %s goes on\n", id)
		return nil
	}
	ro, err := r.fleet().Rollout(ctx, id.String())
	if err != nil {
		return err
	}
	return a.followRollout(ctx, r, ro, 0)
}

func (a *app) migrateRetry() *cobra.Command {
	var mark, reason string
	var detached bool
	c := &cobra.Command{
		Use: "retry [DATABASE…]", Short: "Try databases again that failed, all of them when none is named", Args: cobra.ArbitraryArgs,
		Long: "A database is named by its name, its id, or a tenant in it. --mark says of one in which a file without a transaction\nbroke off whether the file's effect is there; look first.",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if mark != "" && mark != "applied" && mark != "not-applied" {
				return usage("--mark: want applied or not-applied")
			}
			if mark != "" && len(args) == 0 {
				return usage("--mark needs the databases that it is about")
			}
			ro, err := r.fleet().Rollout(ctx, "")
			if err != nil {
				return err
			}
			done, err := r.fleet().RetryRollout(ctx, ro.ID, tenants.RetrySpec{Databases: args, Mark: mark, Reason: reason})
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(done.Marked)) {
				fmt.Fprintf(a.stderr, "%s: %s is marked %s\n", name, done.Marked[name], mark)
			}
			for _, name := range slices.Sorted(maps.Keys(done.Evidence)) {
				fmt.Fprintf(a.stderr, "%s: %s\n", name, done.Evidence[name])
			}
			fmt.Fprintf(a.stderr, "%d databases are tried again\n", done.Databases)
			if done.Databases == 0 {
				return nil
			}
			return a.goOn(ctx, r, ro.ID, detached)
		}),
	}
	c.Flags().StringVar(&mark, "mark", "", "applied or not-applied: what became of the file that broke off")
	c.Flags().StringVar(&reason, "reason", "", "why, for the audit trail")
	c.Flags().BoolVar(&detached, detach, false, "do not follow: a running service does the work")
	return c
}

func (a *app) migrateSkip() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "skip DATABASE --reason TEXT", Short: "Leave a database behind", Args: exactly("DATABASE"),
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if reason == "" {
				return usage("skip needs --reason: whoever finds the database behind will ask")
			}
			ro, err := r.fleet().Rollout(ctx, "")
			if err != nil {
				return err
			}
			if err := r.fleet().SkipTarget(ctx, ro.ID, args[0], reason); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "%s is left behind\n", args[0])
			return nil
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why")
	return c
}

func (a *app) migrateCancel() *cobra.Command {
	return a.onRollout("cancel", "Give a rollout up; what was migrated stays", func(ctx context.Context, r *reach, ro *catalog.Rollout) error {
		if err := r.fleet().CancelRollout(ctx, ro.ID, "by "+operatorName()); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "rollout %s is cancelled\n", ro.ID)
		return nil
	})
}

// fleetStatus is what status answers.
type fleetStatus = tenants.FleetStatus

// versionRow is how many databases have a version.
type versionRow struct{ tenants.VersionCount }

func (versionRow) columns() []string { return []string{"version", "kind", "databases", "current"} }
func (v versionRow) row() []any      { return []any{v.Version, v.Kind, v.Databases, v.Current} }

type rolloutRingRow struct{ *catalog.RolloutRing }

func (rolloutRingRow) columns() []string {
	return []string{"ring", "name", "databases", "done", "failed", "skipped", "left"}
}

func (r rolloutRingRow) row() []any {
	return []any{r.Ring, r.Name, r.Total, r.Done, r.Failed, r.Skipped, r.Left()}
}

type failureRow struct{ *catalog.RolloutTarget }

func (failureRow) columns() []string {
	return []string{"database", "server", "state", "attempts", "sqlstate", "error"}
}

func (f failureRow) row() []any {
	return []any{f.Name, f.Server, f.State, f.Attempts, f.SQLState, f.Error}
}

type lookRow struct{ tenants.DatabaseLook }

func (lookRow) columns() []string { return []string{"database", "version", "stale", "drift", "error"} }
func (l lookRow) row() []any      { return []any{l.Database, l.Version, l.Stale, l.Drift, l.Error} }

func (a *app) migrateStatus() *cobra.Command {
	var exitCode, drift bool
	c := &cobra.Command{
		Use: "status [ROLLOUT]", Short: "Say which versions the databases have, and how a rollout stands", Args: optionalRollout,
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if _, err := catalog.ParseID[catalog.Rollout](firstOf(args)); len(args) > 0 && err != nil {
				return usage("rollout: want its id of 36 characters")
			}
			s, err := r.fleet().FleetStatus(ctx, firstOf(args), drift)
			if err != nil {
				return err
			}
			if err := a.printStatus(s); err != nil {
				return err
			}
			switch {
			case exitCode && len(s.Behind) > 0:
				return &coded{err: fmt.Errorf("%d databases are not at version %d", len(s.Behind), s.Version), code: exitPending}
			case exitCode && len(s.Drift) > 0:
				return &coded{err: fmt.Errorf("%d databases are not as the catalog says", len(s.Drift)), code: exitPending}
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit 5 when a database is behind, or with --drift differs")
	c.Flags().BoolVar(&drift, "drift", false, "connect to every database and compare it with what the catalog says")
	return c
}

func (a *app) printStatus(s *fleetStatus) error {
	switch a.output {
	case "table":
	case "name":
		for _, b := range s.Behind {
			fmt.Fprintln(a.stdout, b.Database)
		}
		return nil
	default:
		return a.print(s)
	}
	fmt.Fprintf(a.stdout, "version %d; served are %d to %d\n", s.Version, s.Served.Min, s.Served.Max)
	parts := []any{rows(s.Versions, func(v tenants.VersionCount) versionRow { return versionRow{v} })}
	if ro := s.Rollout; ro != nil {
		parts = append(parts, fmt.Sprintf("\nrollout %s to version %d: %s %s", ro.ID, ro.To, ro.State, ro.Note),
			rows(ro.Rings, func(r *catalog.RolloutRing) rolloutRingRow { return rolloutRingRow{r} }))
	}
	if len(s.Failures) > 0 {
		parts = append(parts, "", rows(s.Failures, func(t *catalog.RolloutTarget) failureRow { return failureRow{t} }))
	}
	if len(s.Drift) > 0 {
		parts = append(parts, "\nnot as the catalog says:", rows(s.Drift, func(l tenants.DatabaseLook) lookRow { return lookRow{l} }))
	}
	for _, part := range parts {
		if err := a.print(part); err != nil {
			return err
		}
	}
	return nil
}
