package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// How often a stream looks for events, says that it is alive, and how long it goes on at most: clients come back with the
// last event's id.
const (
	eventsLook  = 300 * time.Millisecond
	eventsAlive = 15 * time.Second
	eventsLast  = 10 * time.Minute
	eventsWrite = 10 * time.Second
)

type eventsInput struct {
	ID        catalog.OperationID `path:"id" maxLength:"36" minLength:"36"`
	After     int64               `query:"after" minimum:"0" doc:"The seq of the last event that is known"`
	LastEvent int64               `header:"Last-Event-ID" minimum:"0"`
	Accept    string              `header:"Accept" hidden:"true"`
}

// registerEvents mounts an operation's events: those of now as a list, or with Accept: text/event-stream those to come too,
// until the operation is finished.
func (s *service) registerEvents(tag string) {
	add(s, route{"list-operation-events", tag, "What happened to an operation; with Accept: text/event-stream, as it happens", http.MethodGet, "/operations/{id}/events", tenants.PermitOpsRead, 0},
		func(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
			if _, err := s.operator.Operation(ctx, in.ID); err != nil {
				return nil, err
			}
			after := max(in.After, in.LastEvent)
			if strings.Contains(in.Accept, "text/event-stream") {
				return &huma.StreamResponse{Body: func(hc huma.Context) { s.stream(hc, in.ID, after) }}, nil
			}
			events, err := s.operator.OperationEvents(ctx, in.ID, after)
			if err != nil {
				return nil, err
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				hc.SetHeader("Content-Type", "application/json")
				_ = s.api.Marshal(hc.BodyWriter(), "application/json", everything(events).Body)
			}}, nil
		})
	content := s.api.OpenAPI().Paths[operationsPath+"/{id}/events"].Get.Responses["200"]
	content.Description = "The events"
	content.Content = map[string]*huma.MediaType{
		"application/json":  {Schema: huma.SchemaFromType(s.api.OpenAPI().Components.Schemas, typeOf[list[*catalog.OperationEvent]]())},
		"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Description: "event: progress, with an event as data, and event: end, with the operation"}},
	}
}

// stream sends events as they come. It ends with the operation, with the client, or after a while.
func (s *service) stream(hc huma.Context, id catalog.OperationID, after int64) {
	ctx, cancel := context.WithTimeout(hc.Context(), eventsLast)
	defer cancel()
	w, ok := hc.BodyWriter().(http.ResponseWriter)
	if !ok {
		return
	}
	hc.SetHeader("Content-Type", "text/event-stream")
	hc.SetHeader("X-Accel-Buffering", "no")
	hc.SetStatus(http.StatusOK)
	look := time.NewTicker(eventsLook)
	defer look.Stop()
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	for alive := time.Now(); ; {
		// The operation before its events: when it is finished, all of them are there.
		op, err := s.operator.Operation(ctx, id)
		if err != nil {
			s.problem(ctx, err)
			return
		}
		events, err := s.operator.OperationEvents(ctx, id, after)
		if err != nil {
			s.problem(ctx, err)
			return
		}
		for _, e := range events {
			after = e.Seq
			out.send("progress", e.Seq, e)
		}
		switch {
		case op.State.Finished():
			out.send("end", after, bodyOf(op))
			return
		case len(events) > 0:
			alive = time.Now()
		case time.Since(alive) > eventsAlive:
			alive = time.Now()
			out.write(": alive\n\n")
		}
		if out.err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// eventWriter writes server-sent events until one cannot be written.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	err     error
}

func (e *eventWriter) send(event string, id int64, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		e.err = err
		return
	}
	e.write(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", id, event, text))
}

func (e *eventWriter) write(text string) {
	if e.err != nil {
		return
	}
	_ = e.control.SetWriteDeadline(time.Now().Add(eventsWrite)) // where there are none, none is needed
	if _, e.err = e.w.Write([]byte(text)); e.err == nil {
		e.err = e.control.Flush()
	}
}
