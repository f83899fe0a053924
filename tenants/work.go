package tenants

import "context"

// Work is one piece of work: a request, or what With runs outside of one. However many transactions it has open in a tenant,
// it counts once against the tenant's limit of concurrent requests.
type Work struct{ _ byte } // two of no size might be one

type workKey struct{}

// InWork marks a context as that of a piece of work, if it does not belong to one.
func InWork(ctx context.Context) context.Context {
	if WorkOf(ctx) != nil {
		return ctx
	}
	return context.WithValue(ctx, workKey{}, &Work{})
}

// WorkOf is the piece of work that a context belongs to; nil for none.
func WorkOf(ctx context.Context) *Work {
	w, _ := ctx.Value(workKey{}).(*Work)
	return w
}
