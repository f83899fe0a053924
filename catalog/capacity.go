package catalog

import (
	"context"
	"fmt"
	"strings"
)

// Capacity is how full a server is.
type Capacity struct {
	Name         string
	State        string
	Databases    int // that stand on it, spares among them
	MaxDatabases int
}

// NearlyFull says that less than a tenth of a server's databases is left to be made.
func (c Capacity) NearlyFull() bool { return c.Databases*10 >= c.MaxDatabases*9 }

func (c Capacity) String() string {
	switch {
	case c.State != "active":
		return fmt.Sprintf("%s is %s", c.Name, c.State)
	case c.Databases >= c.MaxDatabases:
		return fmt.Sprintf("%s is full (%d of %d databases)", c.Name, c.Databases, c.MaxDatabases)
	}
	return fmt.Sprintf("%s holds %d of %d databases", c.Name, c.Databases, c.MaxDatabases)
}

// NoRoomError means that a database can be placed nowhere. It is an ErrConflict.
type NoRoomError struct {
	Labels  map[string]string // that were asked for
	Servers []Capacity        // that have them
}

func (e *NoRoomError) Error() string {
	text := "no server has room for another database"
	if len(e.Labels) > 0 {
		text = "no server with these labels has room for another database"
	}
	if len(e.Servers) == 0 {
		return text + ": there is none"
	}
	var all []string
	for i, c := range e.Servers {
		if i == 5 {
			all = append(all, fmt.Sprintf("%d more", len(e.Servers)-i))
			break
		}
		all = append(all, c.String())
	}
	return text + ": " + strings.Join(all, ", ")
}

// Unwrap makes it an ErrConflict.
func (e *NoRoomError) Unwrap() error { return ErrConflict }

// Hint says what an operator can do.
func (e *NoRoomError) Hint() string {
	return "rowhouse server set NAME --max-databases N, rowhouse server resume NAME, or rowhouse server add"
}

const capacity = `
	select s.name, s.state, count(d.id) databases, s.max_databases
	  from rowhouse.servers s
	  left join rowhouse.databases d on d.server = s.id and d.state <> 'gone'`

// Capacities lists how full the servers are whose labels hold all of labels, by name.
func (c *Catalog) Capacities(ctx context.Context, labels map[string]string) ([]*Capacity, error) {
	return all[Capacity](ctx, c.pool, "servers", capacity+` where s.labels @> $1 group by s.id order by s.name`, orNone(labels))
}

// Capacity says how full a server is.
func (c *Catalog) Capacity(ctx context.Context, id ServerID) (*Capacity, error) {
	return one[Capacity](ctx, c.pool, "server "+id.String(), capacity+` where s.id = $1 group by s.id`, id)
}

func orNone(labels map[string]string) map[string]string {
	if labels == nil {
		return map[string]string{}
	}
	return labels
}

// RoomiestServer finds the server that is not drained, has all of the labels, and most room for another database. None is
// a *NoRoomError.
func (c *Catalog) RoomiestServer(ctx context.Context, labels map[string]string) (*Server, error) {
	found, err := all[Server](ctx, c.pool, "server", selectServer+` s
		 cross join lateral (select max_databases - count(*) as room from rowhouse.databases d where d.server = s.id and d.state <> 'gone') r
		 where state = 'active' and labels @> $1 and room > 0
		 order by room desc, name
		 limit 1`, orNone(labels))
	if err != nil || len(found) == 1 {
		return first(found), err
	}
	return nil, c.noRoom(ctx, labels)
}

// RoomFor says whether a database of its own can be had now, on the server or, with a zero one, on any with all of the
// labels: one that stands ready, or a new one. If not it is a *NoRoomError.
func (c *Catalog) RoomFor(ctx context.Context, server ServerID, labels map[string]string) error {
	var room bool
	err := c.pool.QueryRow(ctx, `
		select exists (
			select from rowhouse.servers s
			 where s.state = 'active' and s.labels @> $2 and ($1::uuid is null or s.id = $1)
			   and ((select count(*) from rowhouse.databases d where d.server = s.id and d.state <> 'gone') < s.max_databases
			        or exists (select from rowhouse.databases d where d.server = s.id and d.state = 'spare')))`,
		server, orNone(labels)).Scan(&room)
	switch {
	case err != nil:
		return refine(err, "servers")
	case room:
		return nil
	case server.IsZero():
		return c.noRoom(ctx, labels)
	}
	full, err := c.Capacity(ctx, server)
	if err != nil {
		return err
	}
	return &NoRoomError{Servers: []Capacity{*full}}
}

func (c *Catalog) noRoom(ctx context.Context, labels map[string]string) error {
	full, err := c.Capacities(ctx, labels)
	if err != nil {
		return err
	}
	e := &NoRoomError{Labels: labels}
	for _, f := range full {
		e.Servers = append(e.Servers, *f)
	}
	return e
}

func first[Row any](found []*Row) *Row {
	if len(found) == 0 {
		return nil
	}
	return found[0]
}
