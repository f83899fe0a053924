package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type tokenInput struct {
	ID string `path:"id" maxLength:"64"`
}

type tokenOutput struct{ Body *catalog.Token }

type createTokenInput struct {
	Body struct {
		Subject     string   `json:"subject" minLength:"1" maxLength:"200" doc:"Whom the audit trail names"`
		Permissions []string `json:"permissions" nullable:"false" maxItems:"100" doc:"What it permits; * is everything, none at all is nothing"`
		TTL         string   `json:"ttl" maxLength:"40" doc:"How long it holds, such as 720h"`
	}
}

type createTokenOutput struct {
	Location string `header:"Location"`
	Body     newToken
}

// newToken is a token with its text, which is shown this once.
type newToken struct {
	catalog.Token
	Text string `json:"token" doc:"The token's text, shown this once"`
}

func (s *service) registerTokens() {
	const tag = "Tokens"
	add(s, route{"list-tokens", tag, "List operators' tokens, the newest first", http.MethodGet, "/tokens", tenants.PermitTokensRead, 0},
		func(ctx context.Context, in *PageInput) (*listOutput[*catalog.Token], error) {
			return paged("/tokens", nil, *in, (*catalog.Token).Key, func(p catalog.Page) ([]*catalog.Token, error) { return s.operator.TokensPage(ctx, p) })
		})
	add(s, route{"get-token", tag, "Show an operator's token, without its text", http.MethodGet, "/tokens/{id}", tenants.PermitTokensRead, 0},
		func(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
			t, err := s.operator.Token(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return &tokenOutput{t}, nil
		})
	add(s, route{"create-token", tag, "Make an operator's token", http.MethodPost, "/tokens", tenants.PermitTokensManage, http.StatusCreated},
		func(ctx context.Context, in *createTokenInput) (*createTokenOutput, error) {
			ttl, err := time.ParseDuration(in.Body.TTL)
			if err != nil {
				return nil, fmt.Errorf("ttl must be a duration such as 720h: %w", catalog.ErrInvalid)
			}
			if err := mayGive(callerFrom(ctx), in.Body.Permissions); err != nil {
				return nil, err
			}
			text, token, err := s.operator.CreateToken(ctx, tenants.TokenSpec{Subject: in.Body.Subject, Permissions: in.Body.Permissions, TTL: ttl})
			if err != nil {
				return nil, err
			}
			return &createTokenOutput{basePath + "/tokens/" + token.ID, newToken{*token, text.Reveal()}}, nil
		})
	add(s, route{"revoke-token", tag, "End an operator's token", http.MethodDelete, "/tokens/{id}", tenants.PermitTokensManage, http.StatusNoContent},
		func(ctx context.Context, in *tokenInput) (*struct{}, error) {
			return nil, s.operator.RevokeToken(ctx, in.ID)
		})
}

// mayGive refuses permissions that there are not, and those that whoever asks does not have: nobody raises themselves by a
// token.
func mayGive(own *caller, wanted []string) error {
	for i, p := range wanted {
		switch {
		case p != tenants.PermitAll && !slices.Contains(tenants.Permissions, p):
			return fmt.Errorf("permission %d is not one there is: %w", i, catalog.ErrInvalid)
		case !own.permit(p):
			return newProblem(http.StatusForbidden, "", "A token can be given no permission that its maker lacks")
		}
	}
	return nil
}
