// Package tenants says which tenant a request is for and what may be asked of a tenant.
//
//	resolver := &tenants.Resolver{Contributors: []tenants.Contributor{
//		tenants.FromDomain("{tenant}.example.com"), tenants.FromHeader("X-Tenant"),
//	}}
//	session, err := resolver.Resolve(r, directory)
//	ctx := tenants.NewContext(r.Context(), session)
//
// A request may say who it is for in several ways; they must all agree, or it is refused. No signal is an error of its own
// and never means the host or some default tenant.
package tenants
