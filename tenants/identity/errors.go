package identity

import (
	"fmt"

	"github.com/rowhouse/rowhouse/tenants"
)

// The codes of a CredentialError, by what failed.
const (
	codeNoKey     = "PGRST300" // the server can verify nothing
	codeToken     = "PGRST301" // the token itself
	codeAnonymous = "PGRST302" // there is none, and there must be
	codeClaims    = "PGRST303" // what the token says
)

// CredentialError is a tenants.ErrCredential that knows how to be answered. It says which check failed and holds neither
// the token, nor what stood in it, nor anything of a key.
type CredentialError struct {
	code, message, details string
}

// AnonymousRefused is the answer to a request without a credential where anonymous ones are not served.
func AnonymousRefused() *CredentialError {
	return &CredentialError{code: codeAnonymous, message: "Anonymous access is disabled"}
}

func (e *CredentialError) Error() string { return e.message }

// Unwrap makes it a tenants.ErrCredential.
func (e *CredentialError) Unwrap() error { return tenants.ErrCredential }

// Code is what clients know the failure by.
func (e *CredentialError) Code() string { return e.code }

// Message is what clients are told; it is part of the code's contract.
func (e *CredentialError) Message() string { return e.message }

// Details says more, or is empty.
func (e *CredentialError) Details() string { return e.details }

// Status is the HTTP status: the server's fault when it has no key, the client's otherwise.
func (e *CredentialError) Status() int {
	if e.code == codeNoKey {
		return 500
	}
	return 401
}

// Challenge is the value of the answer's WWW-Authenticate header, or empty when it should have none.
func (e *CredentialError) Challenge() string {
	switch e.code {
	case codeNoKey:
		return ""
	case codeAnonymous:
		return "Bearer"
	}
	return fmt.Sprintf(`Bearer error="invalid_token", error_description="%s"`, e.message)
}

func badToken(message, details string) error {
	return &CredentialError{codeToken, message, details}
}

func badClaims(message, details string) error {
	return &CredentialError{codeClaims, message, details}
}

// Failures that more than one check answers with.
var (
	errNoKey       = &CredentialError{code: codeNoKey, message: "Server lacks JWT secret"}
	errUnsuitable  = badToken("No suitable key or wrong key type", "None of the keys was able to decode the JWT")
	errUnreadable  = badToken("JWT cryptographic operation failed", "")
	errUnparseable = badClaims("Parsing claims failed", "")
)
