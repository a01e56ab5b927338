package idemhttp

import (
	"errors"
	"net/http"

	"github.com/pgidem/pgidem/idem"
)

// Why a handler's transaction must not commit, for idem.Run. errForgotten is no failure: the response is sent and not
// recorded.
var (
	errForgotten = errors.New("idemhttp: response is not to be remembered")
	errPoolWait  = errors.New("no connection to the database within PoolWait: the pool is exhausted, or the database does not answer")
)

// outcome turns a handler's response into what idem.Run is told.
func (s *server) outcome(rec *recorder) (idem.Response, error) {
	switch {
	case rec.streamed:
		return idem.Response{}, errStreamed
	case rec.tooLarge:
		return idem.Response{}, errTooLarge
	}
	rec.finish()
	resp := idem.Response{Status: rec.status, Header: keep(rec.sent, rec.outer.Header(), s.kept), Body: rec.body}
	switch {
	case rec.status < 400:
		return resp, nil
	case s.remembers(rec.status):
		return idem.Response{}, idem.Refuse(resp)
	default:
		return idem.Response{}, errForgotten
	}
}

// remembers reports whether a response with a status of 400 or above is recorded.
func (s *server) remembers(status int) bool {
	if s.Remember != nil {
		return s.Remember(status)
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false // true of this attempt, not of the operation
	}
	return status < 500
}
