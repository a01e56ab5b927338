// Package idemhttp answers a repeated HTTP request with the response of the first one. It follows
// draft-ietf-httpapi-idempotency-key-header-07, an expired Internet-Draft.
//
//	m := &idemhttp.Middleware{Pool: pool, Project: tenantOf}
//	mux.Handle("POST /charges", m.Handler(http.HandlerFunc(charge)))
//
//	func charge(w http.ResponseWriter, r *http.Request) {
//		tx := idemhttp.Tx(r.Context())
//		_, err := tx.Exec(r.Context(), `INSERT INTO charges …`)
//		…
//	}
//
// What the handler writes through [Tx] commits together with the record of its response, or not at all; nothing is sent to
// the client before that. The next request with the same key gets the recorded status, header fields and body, byte for
// byte, and Idempotent-Replayed: true.
//
// # What is remembered
//
//   - 2xx and 3xx: the handler's writes commit, the response is recorded.
//   - 4xx: a refusal. The handler's writes are undone, the response is recorded and replayed: the operation was declined
//     once and for all, and a new attempt is a new operation with a new key.
//   - 401, 403, 408, 425, 429: the writes are undone, nothing is recorded. They are true of this attempt only.
//   - 5xx and panics: the writes are undone, nothing is recorded. The client gets the handler's 5xx; its retry runs.
//
// [Middleware].Remember moves the line for statuses from 400 on.
//
// # Order of middleware
//
// Authentication, rate limits, CORS and validation belong outside, before this middleware: a replay is authorised afresh
// like any request, and a request that fails there uses up no key. What changes the response body, such as compression,
// belongs outside too, and so does http.TimeoutHandler: a handler that goes on after its answer was given would share the
// transaction with the rollback. Around a mux the matched pattern is not known yet, so wrap each route, or set Endpoint.
//
// # What the handler must know
//
// It may run more than once for one request (a serialization failure, a connection lost before COMMIT); one run commits.
// Effects outside the database are its own to repeat safely, with keys that [Key] derives. Its request has the whole body, its
// writer holds the response back: it is no http.Flusher and no http.Hijacker, has no Unwrap, and drops 1xx responses. A response that is streamed all the same, by http.ResponseController's Flush, or that is over the limit
// ends in a 500 with everything undone. A handler that answers 5xx after a serialization failure is not run again by this
// package, which sees a response and not the error: use [Handle] and return the error.
package idemhttp
