// Package catalog is the directory of tenants: one PostgreSQL database that maps each tenant to the database holding its data.
//
//	cat, err := catalog.Open(ctx, url, catalog.Config{Keys: keys})
//	t, err := cat.Tenant(ctx, "acme")
//	err = cat.Update(ctx, catalog.Event{Action: "tenant.suspend", Target: t.Ref()}, func(tx *catalog.Tx) error {
//		return tx.SetTenantState(ctx, t.ID, catalog.StateSuspended, "unpaid")
//	})
//
// Update is the only way to write: no change goes without its audit event, and the database itself refuses one that does.
// Every change raises the catalog's revision; Watch follows it.
package catalog
