package idem

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Response is what an operation answered, and what every later call with its key answers.
type Response struct {
	// Status is an HTTP status, 100 to 999, or 0 where there is none.
	Status int

	// Header holds the header fields to replay, with the order of values kept; it is assignable to http.Header. Names and
	// values may hold any byte. Together they take at most 64 KiB.
	Header map[string][]string

	// Body is replayed byte for byte. Its size is limited by WithMaxBody.
	Body []byte

	// Replayed is set by Do and Run: the response was read back, not produced by this call. What fn puts here is ignored.
	Replayed bool

	// CreatedAt is when the response was first recorded, by the database's clock. Set by Do and Run.
	CreatedAt time.Time
}

// JSON returns a Response with v as its body and the matching Content-Type. On an error return the error from fn: nothing
// is recorded then.
func JSON(status int, v any) (Response, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Response{}, fmt.Errorf("idem: response does not marshal as JSON: %w", err)
	}
	return Response{Status: status, Header: map[string][]string{"Content-Type": {"application/json"}}, Body: b}, nil
}

// Refuse returns an error for fn to return when the answer is a business "no" that must be remembered and fn has written
// already: fn's writes are undone, r is recorded and returned without an error, and every later call replays it.
//
// Run can always do that. Do needs WithSavepoint, since it cannot undo fn's writes in the caller's transaction otherwise.
// A "no" that was found before anything was written needs no Refuse: return the Response.
func Refuse(r Response) error {
	return &refusal{r}
}

type refusal struct{ resp Response }

func (r *refusal) Error() string {
	return fmt.Sprintf("idem: refused with status %d (an answer to record, meant for Do or Run)", r.resp.Status)
}

// asRefusal finds a refusal in what fn returned, wrapped or not.
func asRefusal(err error) (Response, bool) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.resp, true
	}
	return Response{}, false
}

// Limits of a recorded response; the table has CHECKs with the same numbers.
const (
	maxHeader = 64 << 10
	maxBody   = 64 << 20
)
