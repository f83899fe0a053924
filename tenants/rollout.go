package tenants

import (
	"context"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// RolloutOperator brings the databases of the fleet to a set of migrations, near (jobs.Fleet) or far (admin.Client). A database is
// named by its name, its id, or a tenant in it.
type RolloutOperator interface {
	// PlanRollout says what StartRollout would do. Nothing in the fleet is changed.
	PlanRollout(ctx context.Context, spec RolloutSpec) (*RolloutPlan, error)
	// StartRollout begins to bring the fleet to a set, or goes on with what does so already. Nil: the fleet is there.
	StartRollout(ctx context.Context, spec RolloutSpec) (*catalog.Rollout, error)
	// Rollouts lists the newest hundred without their rings, the newest first.
	Rollouts(ctx context.Context) ([]*catalog.Rollout, error)
	// Rollout finds one by its id; without one it is the unfinished one, else the last.
	Rollout(ctx context.Context, id string) (*catalog.Rollout, error)
	// RolloutResults lists what was written since the result numbered after, in its order.
	RolloutResults(ctx context.Context, id catalog.RolloutID, after int64) ([]*catalog.RolloutTarget, error)
	// FleetStatus says which versions the databases have; id as in Rollout, drift connects to every database.
	FleetStatus(ctx context.Context, id string, drift bool) (*FleetStatus, error)
	PauseRollout(ctx context.Context, id catalog.RolloutID) error
	ResumeRollout(ctx context.Context, id catalog.RolloutID, reset bool) error
	RetryRollout(ctx context.Context, id catalog.RolloutID, spec RetrySpec) (*Retried, error)
	SkipTarget(ctx context.Context, id catalog.RolloutID, database, reason string) error
	CancelRollout(ctx context.Context, id catalog.RolloutID, why string) error
}

// RolloutSpec says what a rollout is to do.
type RolloutSpec struct {
	// Files are the set. None: the active one, up to version To.
	Files []MigrationText `json:"files,omitempty" maxItems:"10000"`
	// To is the last version that is wanted; 0 is all of them.
	To int64 `json:"to,omitempty" minimum:"0"`
	// Canaries are databases to go before the others.
	Canaries []string `json:"canaries,omitempty" maxItems:"100"`
	// Soak is how long the canaries rest, such as 10m; empty is as the ring has it.
	Soak string `json:"soak,omitempty" maxLength:"20"`
	// Until names the last ring that is opened without being asked again.
	Until string `json:"until,omitempty" maxLength:"64"`
	// Confirmed begins though databases are so far behind that they are not served until they are migrated.
	Confirmed bool `json:"confirmed,omitempty"`
	// Untried leaves the scratch database of a plan out.
	Untried bool `json:"untried,omitempty"`
}

// MigrationText is one file of a set.
type MigrationText struct {
	Version int64  `json:"version" minimum:"1"`
	Name    string `json:"name" maxLength:"200"`
	Up      string `json:"up"`
	Down    string `json:"down,omitempty"`
}

// RolloutPlan is what a rollout of a set would do.
type RolloutPlan struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// Files are those that some database does not have, as far as the catalog knows.
	Files []string `json:"files" nullable:"false"`
	// Rings are gone through in this order.
	Rings   []RingPlan `json:"rings" nullable:"false"`
	Pending int        `json:"pending"`
	Current int        `json:"current"`
	// Rollout is the one that is not finished.
	Rollout *catalog.Rollout `json:"rollout,omitempty"`
	// Effects are what the files do to tables that stand, found on a scratch database; Untried says why there are none.
	Effects []FileEffects `json:"effects" nullable:"false"`
	Untried string        `json:"untried,omitempty"`
	// Seconds is about how long all of it takes.
	Seconds float64 `json:"estimate_seconds"`
}

// RingPlan is how many databases of each server a ring would reach.
type RingPlan struct {
	Ring      int            `json:"ring"`
	Name      string         `json:"name"`
	Databases int            `json:"databases"`
	Servers   map[string]int `json:"servers,omitempty"`
	Soak      string         `json:"soak,omitempty"`
}

// FileEffects is what one file does to tables that stood before it.
type FileEffects struct {
	File       string            `json:"file"`
	Statements []StatementEffect `json:"statements" nullable:"false"`
	Problems   []EffectProblem   `json:"problems,omitempty"`
}

// StatementEffect is what one statement does.
type StatementEffect struct {
	Line      int         `json:"line"`
	Statement string      `json:"statement"`
	Locks     []TableLock `json:"locks,omitempty"`
	// Rewritten are the tables that it writes anew.
	Rewritten []string `json:"rewritten,omitempty"`
}

// TableLock is a lock that is kept until the file's transaction ends, by PostgreSQL's name.
type TableLock struct {
	Table string `json:"table"`
	Mode  string `json:"mode"`
}

// EffectProblem is what a database with rows and readers must not be asked to bear.
type EffectProblem struct {
	Line   int    `json:"line,omitempty"`
	Rule   string `json:"rule"`
	Table  string `json:"table,omitempty"`
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
	// Excused says why it does not keep a rollout from starting; empty where it does.
	Excused string `json:"excused,omitempty"`
}

// FleetStatus is how the databases and a rollout stand.
type FleetStatus struct {
	Version  int64                  `json:"version"`
	Current  bool                   `json:"current"`
	Served   catalog.ServedVersions `json:"served"`
	Versions []VersionCount         `json:"versions" nullable:"false"`
	// Behind are the databases that are not at the active set.
	Behind   []FleetBehind            `json:"behind" nullable:"false"`
	Rollout  *catalog.Rollout         `json:"rollout"`
	Failures []*catalog.RolloutTarget `json:"failures" nullable:"false"`
	Servers  []*catalog.HeldServer    `json:"held_servers,omitempty"`
	Drift    []DatabaseLook           `json:"drift,omitempty"`
	// Looked is when the databases were looked at last, without anybody asking.
	Looked *time.Time `json:"looked_at,omitempty"`
}

// VersionCount is how many databases have a version.
type VersionCount struct {
	Version   int64             `json:"version"`
	Kind      catalog.Placement `json:"kind"`
	Databases int               `json:"databases"`
	Current   bool              `json:"current"`
}

// FleetBehind is a database that is not at the active set.
type FleetBehind struct {
	Database string             `json:"database"`
	ID       catalog.DatabaseID `json:"id"`
	Server   string             `json:"server"`
	Kind     catalog.Placement  `json:"kind"`
	Version  int64              `json:"version"`
	Error    string             `json:"error,omitempty"`
}

// DatabaseLook is what a database itself says, beside what the catalog does.
type DatabaseLook struct {
	Database string             `json:"database"`
	ID       catalog.DatabaseID `json:"id"`
	Version  int64              `json:"version"`
	// Stale says that the catalog thinks it at another version, Drift that it looks otherwise than its migrations left it.
	Stale bool   `json:"stale"`
	Drift bool   `json:"drift"`
	Error string `json:"error,omitempty"`
}

// Odd says that it is not as the catalog says.
func (l DatabaseLook) Odd() bool { return l.Stale || l.Drift || l.Error != "" }

// RetrySpec says which databases are tried again, and what became of a file that broke off in them.
type RetrySpec struct {
	// Databases that failed or need repair; none means all.
	Databases []string `json:"databases,omitempty" maxItems:"10000"`
	// Mark is applied or not-applied, for files without a transaction that broke off; empty lets the evidence decide.
	Mark   string `json:"mark,omitempty" enum:",applied,not-applied"`
	Reason string `json:"reason,omitempty" maxLength:"500"`
}

// Retried is what came of it.
type Retried struct {
	Databases int `json:"databases"`
	// Marked says of each database that was named with a mark which file it was about, and Evidence of each that needed repair
	// what was found.
	Marked   map[string]string `json:"marked,omitempty"`
	Evidence map[string]string `json:"evidence,omitempty"`
}
