package admin

import (
	"context"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// operationBody is an operation and how far it has come.
type operationBody struct {
	catalog.Operation
	Progress progress `json:"progress"`
}

type progress struct {
	Done  int `json:"done"`
	Total int `json:"total"`
}

func bodyOf(op *catalog.Operation) *operationBody {
	done, total := op.Progress()
	return &operationBody{*op, progress{done, total}}
}

// operationOutput is an operation; one that was just accepted says where to look for it, and when.
type operationOutput struct {
	Location   string `header:"Location"`
	RetryAfter string `header:"Retry-After"`
	Body       *operationBody
}

func accepted(op *catalog.Operation, err error) (*operationOutput, error) {
	if err != nil {
		return nil, err
	}
	return &operationOutput{operationsPath + "/" + op.ID.String(), "1", bodyOf(op)}, nil
}

type operationInput struct {
	ID catalog.OperationID `path:"id" maxLength:"36" minLength:"36"`
}

type cancelOperationInput struct {
	ID   catalog.OperationID `path:"id" maxLength:"36" minLength:"36"`
	Undo bool                `query:"undo" doc:"Take back what it did"`
}

type listOperationsInput struct {
	PageInput
	Tenant string `query:"tenant" maxLength:"64" doc:"Name or id; everybody's without one"`
}

func (s *service) registerOperations() {
	const tag = "Operations"
	add(s, route{"list-operations", tag, "List operations, the newest first", http.MethodGet, "/operations", tenants.PermitOpsRead, 0},
		func(ctx context.Context, in *listOperationsInput) (*listOutput[*operationBody], error) {
			return paged("/operations", filters("tenant", in.Tenant), in.PageInput, func(b *operationBody) string { return b.ID.String() },
				func(p catalog.Page) ([]*operationBody, error) {
					found, err := s.operator.OperationsPage(ctx, in.Tenant, p)
					bodies := make([]*operationBody, len(found))
					for i, op := range found {
						bodies[i] = bodyOf(op)
					}
					return bodies, err
				})
		})
	add(s, route{"get-operation", tag, "Show an operation", http.MethodGet, "/operations/{id}", tenants.PermitOpsRead, 0},
		func(ctx context.Context, in *operationInput) (*operationOutput, error) {
			op, err := s.operator.Operation(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return &operationOutput{Body: bodyOf(op)}, nil
		})
	add(s, route{"retry-operation", tag, "Make a failed operation go on at its step", http.MethodPost, `/operations/{id}/\:retry`, tenants.PermitOpsRetry, http.StatusAccepted},
		func(ctx context.Context, in *operationInput) (*operationOutput, error) {
			return accepted(s.operator.RetryOperation(ctx, in.ID))
		})
	add(s, route{"cancel-operation", tag, "Ask for an operation to end early", http.MethodPost, `/operations/{id}/\:cancel`, tenants.PermitOpsCancel, http.StatusAccepted},
		func(ctx context.Context, in *cancelOperationInput) (*operationOutput, error) {
			return accepted(s.operator.CancelOperation(ctx, in.ID, in.Undo))
		})
	s.registerEvents(tag)
}
