package jobs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// movingTable is a table of which a move takes a tenant's rows along.
type movingTable struct {
	OID  uint32
	Name string // qualified and quoted
	Kind string // bind, bind_optional or reference
	// Columns are all that hold a value of their own, quoted, by name.
	Columns []string
	// Rows is an estimate for all tenants.
	Rows float64
	// Textual tables have a column whose binary form names types by numbers that differ from database to database.
	Textual bool
	// Keyed says that the replica identity holds tenant_id: replication can filter by it.
	Keyed bool
	// Triggers are those that would fire for every row that is loaded.
	Triggers []string
	// Policies are the application's, which bind an owner too.
	Policies []string
	// Parents are the tables that its foreign keys lead to.
	Parents []uint32
	// Loose are tables that a foreign key leads to though nobody declared them.
	Loose []string
}

// movingTables are a database's declared tables, by name.
func movingTables(ctx context.Context, s *side) ([]movingTable, error) {
	rows, err := s.Query(ctx, `
		select c.oid, format('%I.%I', n.nspname, c.relname), t.kind,
		       array(select quote_ident(a.attname) from pg_attribute a
		              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by a.attname),
		       greatest(c.reltuples, 0)::float8 + coalesce((
		         select sum(greatest(p.reltuples, 0)) from pg_partition_tree(c.oid) l join pg_class p on p.oid = l.relid
		          where l.isleaf and c.relkind = 'p'), 0)::float8,
		       exists (select from pg_attribute a join pg_type y on y.oid = a.atttypid left join pg_type e on e.oid = y.typelem
		                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		                  and (y.typtype in ('c', 'd', 'r', 'm') and y.typnamespace <> 'pg_catalog'::regnamespace
		                       or e.typtype in ('c', 'd', 'r', 'm') and e.typnamespace <> 'pg_catalog'::regnamespace)),
		       exists (select from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and a.attnum = any (i.indkey)
		                where i.indrelid = c.oid and (c.relreplident = 'd' and i.indisprimary or c.relreplident = 'i' and i.indisreplident))
		         or c.relreplident = 'f',
		       array(select tgname::text from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgtype & 4 > 0 order by 1),
		       array(select polname::text from pg_policy p where p.polrelid = c.oid and p.polname not in ('rh_tenant', 'rh_all') order by 1),
		       array(select f.confrelid::bigint from pg_constraint f where f.conrelid = c.oid and f.contype = 'f' and f.confrelid <> c.oid),
		       array(select f.confrelid::regclass::text from pg_constraint f
		              where f.conrelid = c.oid and f.contype = 'f' and not exists (select from rowhouse.tables o where o.relation = f.confrelid))
		  from rowhouse.tables t join pg_class c on c.oid = t.relation join pg_namespace n on n.oid = c.relnamespace
		 order by 2`)
	if err != nil {
		return nil, fmt.Errorf("tables of database %q: %w", s.db.Name, err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[movingTable])
	if err != nil {
		return nil, fmt.Errorf("tables of database %q: %w", s.db.Name, err)
	}
	return tables, nil
}

// ofTenants are the tables that hold tenants' rows; the others are common to all.
func ofTenants(tables []movingTable) []movingTable {
	return slices.DeleteFunc(slices.Clone(tables), func(t movingTable) bool { return t.Kind == "reference" })
}

// parentsFirst are the tables with those that foreign keys lead to first. Tables that refer to each other have no order: the
// names of some of them come back.
func parentsFirst(tables []movingTable) (ordered []movingTable, circle []string) {
	placed := map[uint32]bool{}
	waiting := map[uint32]bool{}
	for _, t := range tables {
		waiting[t.OID] = true
	}
	for len(ordered) < len(tables) {
		before := len(ordered)
		for _, t := range tables {
			free := !slices.ContainsFunc(t.Parents, func(parent uint32) bool { return waiting[parent] && !placed[parent] })
			if free && !placed[t.OID] {
				placed[t.OID] = true
				ordered = append(ordered, t)
			}
		}
		if len(ordered) == before {
			for _, t := range tables {
				if !placed[t.OID] {
					circle = append(circle, t.Name)
				}
			}
			return ordered, circle
		}
	}
	return ordered, nil
}

// where picks a tenant's rows.
func (t movingTable) where(tenant catalog.TenantID) string {
	return "tenant_id = " + literal(tenant.String())
}

func (t movingTable) columns() string { return strings.Join(t.Columns, ", ") }

// inhabited says which tables hold rows of the tenant, in one look.
func inhabited(ctx context.Context, s *side, tables []movingTable) (map[string]bool, error) {
	found := make(map[string]bool, len(tables))
	if len(tables) == 0 {
		return found, nil
	}
	asked := make([]string, len(tables))
	for i, t := range tables {
		asked[i] = fmt.Sprintf("exists (select from %s where %s)", t.Name, t.where(s.tenant))
	}
	var there []bool
	err := pgx.BeginFunc(ctx, s.Conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.scoped()+"select 1", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "select array["+strings.Join(asked, ", ")+"]").Scan(&there)
	})
	if err != nil {
		return nil, fmt.Errorf("rows of the tenant in database %q: %w", s.db.Name, err)
	}
	for i, t := range tables {
		found[t.Name] = there[i]
	}
	return found, nil
}
