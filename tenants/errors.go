package tenants

import (
	"errors"
	"fmt"

	"github.com/rowhouse/rowhouse/catalog"
)

// What resolving a tenant, or asking for one, can answer. They come wrapped with what they are about.
var (
	// ErrNoTenant means that nothing says which tenant is meant. It never means the host.
	ErrNoTenant = errors.New("no tenant is named")
	// ErrInvalid means that something names a tenant in a way that cannot be read, or twice.
	ErrInvalid = errors.New("malformed tenant reference")
	// ErrNotFound means that no tenant is known by that reference, or none that may know of itself.
	ErrNotFound = catalog.ErrNotFound
	// ErrMismatch means that two signals name different tenants.
	ErrMismatch = errors.New("the request names different tenants")
	// ErrSuspended means that the tenant is there and may not be served.
	ErrSuspended = errors.New("tenant is suspended")
	// ErrMaintenance means that the tenant is not served for a while.
	ErrMaintenance = errors.New("tenant is under maintenance")
	// ErrCredential means that a credential was presented and does not hold.
	ErrCredential = errors.New("credential does not hold")
	// ErrUnavailable means that the catalog could not be asked, so that nothing can be said.
	ErrUnavailable = catalog.ErrUnavailable
	// ErrWrongTenant means that a transaction of one tenant was used under the context of another.
	ErrWrongTenant = errors.New("transaction belongs to another tenant")
	// ErrNotPermitted means that somebody of the host side lacks the permission for this.
	ErrNotPermitted = errors.New("the permission for this is missing")
	// ErrNotHost means that only the host side may do this.
	ErrNotHost = errors.New("only the host may do this")
)

// MismatchError is an ErrMismatch that knows which signal disagreed.
type MismatchError struct {
	// Signal is what disagreed, such as `header "X-Tenant"`.
	Signal string
}

func (e *MismatchError) Error() string { return fmt.Sprintf("%s: %v", e.Signal, ErrMismatch) }

// Unwrap makes it an ErrMismatch.
func (e *MismatchError) Unwrap() error { return ErrMismatch }

// CookieError is an error that comes from a cookie: the answer should expire it.
type CookieError struct {
	// Cookie is its name.
	Cookie string
	Err    error
}

func (e *CookieError) Error() string { return e.Err.Error() }

// Unwrap is the error itself.
func (e *CookieError) Unwrap() error { return e.Err }
