package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// maxProblem is how much of an answer that refuses is read.
const maxProblem = 1 << 20

// ExportTenant writes a tenant's rows. It has no limit of time but the context's.
func (c *Client) ExportTenant(ctx context.Context, ref string, spec tenants.ExportSpec, w io.Writer) error {
	query := url.Values{}
	if spec.WithCredentials {
		query.Set("with_credentials", "true")
	}
	answer, err := c.stream(ctx, http.MethodGet, tenantPath(ref, "/export"), query, nil)
	if err != nil {
		return about("tenant", ref, err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("export was cut off: %w", err)
	}
	return nil
}

// ImportTenant sends an export, of which a tenant is made.
func (c *Client) ImportTenant(ctx context.Context, spec tenants.ImportSpec, r io.Reader) (*catalog.Operation, error) {
	query := url.Values{}
	for key, value := range map[string]string{
		"name": spec.Name, "placement": string(spec.Placement), "server": spec.Server, "database": spec.Database, "edition": spec.Edition,
	} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if spec.KeepID {
		query.Set("keep_id", "true")
	}
	answer, err := c.stream(ctx, http.MethodPost, "/imports", query, r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	op := new(catalog.Operation)
	if err := json.NewDecoder(io.LimitReader(answer.Body, answerSize)).Decode(op); err != nil {
		return nil, fmt.Errorf("answer to the import cannot be read: %w", err)
	}
	return op, nil
}

// stream sends a request whose body or answer is too large for memory and takes as long as it takes.
func (c *Client) stream(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", catalog.ErrInvalid, err)
	}
	request.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	if body != nil {
		request.Header.Set("Content-Type", "application/zip")
	}
	unlimited := *c.http
	unlimited.Timeout = 0
	answer, err := unlimited.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tenants.ErrUnavailable, err)
	}
	if answer.StatusCode < 300 {
		return answer, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxProblem)) // what could be read says enough
	return nil, refusal(answer, text)
}
