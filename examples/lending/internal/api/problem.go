package api

import (
	"encoding/json"
	"net/http"
)

// problem is an answer of type application/problem+json (RFC 9457).
type problem struct {
	Type      string       `json:"type,omitempty"` // absent means about:blank
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail"`
	Code      string       `json:"code"`                // for programs
	Reference string       `json:"reference,omitempty"` // the partner's own
	Errors    []fieldError `json:"errors,omitempty"`
}

// fieldError says what is wrong with one field of a request.
type fieldError struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

func writeProblem(w http.ResponseWriter, p problem) {
	b, err := json.Marshal(p)
	if err != nil { // strings and numbers marshal
		panic(err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n')) // the client may have gone
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may have gone
	return nil
}

// fail answers 500. The reason goes to the log and not to the client.
func (a *api) fail(w http.ResponseWriter, r *http.Request, reason any) {
	a.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", reason)
	writeProblem(w, problem{
		Title: http.StatusText(http.StatusInternalServerError), Status: http.StatusInternalServerError, Code: "internal",
		Detail: "something went wrong on our side: send the request again with the same Idempotency-Key",
	})
}

// recovered turns a panic into an answer, which net/http alone would not give.
func (a *api) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				panic(v)
			default:
				a.fail(w, r, v)
			}
		}()
		next.ServeHTTP(w, r)
	})
}
