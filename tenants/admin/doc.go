// Package admin serves the operators: an HTTP API over tenants.Operator, a client for it, and the console.
//
//	err := admin.Register(e, service, admin.Config{Authenticate: …}) // the listener's whole Echo instance
//
//	c, err := admin.NewClient("http://127.0.0.1:8081", token) // the same verbs from far
//
// Every route of the API names the permission that it needs; one that named none would not be served. Answers say what is
// wrong with a request and never what stood in it.
package admin
