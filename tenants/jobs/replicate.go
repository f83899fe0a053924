package jobs

import "context"

// canReplicate says why the tenant's rows cannot be brought over by logical replication.
func (m *move) canReplicate(context.Context) error {
	return permanently("mode replicate is not available; allow a longer --max-pause")
}
