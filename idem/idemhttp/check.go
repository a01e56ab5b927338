package idemhttp

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/pgidem/pgidem/idem"
)

// Check decides on a request without running anything: it returns the key that Handler would run it under. It is for
// handlers that own their transaction and call idem.Do. r.Body is read whole, within MaxRequestBody, and can be read again.
// Pool may be nil.
//
// The zero Key and no error mean that the request passes through unprotected: a safe method, or no key with Optional. An
// error is a Problem, ready to be written; log it with its Instance.
func (m *Middleware) Check(r *http.Request) (idem.Key, error) {
	if passes(r.Method) {
		return idem.Key{}, nil
	}
	key, body, p := m.check(nil, r)
	if p != nil {
		return idem.Key{}, *p
	}
	if key.Value != "" {
		setBody(r, body)
	}
	return key, nil
}

// passes reports whether requests with a method pass through: the safe ones (RFC 9110, section 9.2.1).
func passes(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "":
		return true
	}
	return false
}

// check is Check with the body, for a method that does not pass. w may be nil.
func (m *Middleware) check(w http.ResponseWriter, r *http.Request) (key idem.Key, body []byte, p *Problem) {
	refuse := func(code, detail string, cause error) (idem.Key, []byte, *Problem) {
		p := m.problem(r, code, detail, cause)
		return idem.Key{}, nil, &p
	}
	fields := m.keyFields(r)
	switch {
	case len(fields) == 0 && m.Optional:
		return key, nil, nil
	case len(fields) == 0:
		return refuse(CodeKeyMissing, "", nil)
	case len(fields) > 1:
		return refuse(CodeKeyInvalid, "The request has more than one idempotency key. Send one.", nil)
	}
	value, err := ParseKey(fields[0])
	if err == nil {
		err = m.policy(value)
	}
	if err != nil {
		return refuse(CodeKeyInvalid, fmt.Sprintf("The idempotency key cannot be used: %v.", err), nil)
	}

	if m.Project == nil {
		return refuse(CodeMisconfigured, "", errors.New("the Project function is nil: return the authenticated tenant, or say SingleProject where there is one only"))
	}
	key = idem.Key{Project: m.Project(r), Endpoint: m.endpoint(r), Value: value}
	switch {
	case key.Project == "":
		return refuse(CodeMisconfigured, "", errors.New("the Project function returned \"\": every request needs its tenant; authentication belongs outside this middleware"))
	case key.Endpoint == "" && m.Endpoint != nil:
		return refuse(CodeMisconfigured, "", errors.New("the Endpoint function returned \"\": every operation needs a name"))
	case key.Endpoint == "":
		return refuse(CodeMisconfigured, "", errors.New("the request matched no pattern yet (r.Pattern is empty), as around a mux: wrap each route's handler, or set Endpoint"))
	}

	body, code, err := m.readBody(w, r)
	switch {
	case code == CodeRequestTooLarge:
		return refuse(code, fmt.Sprintf("The request's body has more than %d bytes.", m.maxRequestBody()), err)
	case err != nil:
		return refuse(code, "", err)
	}
	var principal *string
	if m.Principal != nil {
		who := m.Principal(r)
		principal = &who
	}
	key.RequestHash, err = requestHash(r, body, m.CanonicalJSON, principal)
	if err != nil {
		return refuse(CodeRequestInvalid, fmt.Sprintf("The request cannot be bound to its key: %v.", err), nil)
	}
	return key, body, nil
}

// keyFields returns the values of all fields that may carry the key.
func (m *Middleware) keyFields(r *http.Request) []string {
	if len(m.HeaderNames) == 0 {
		return r.Header[HeaderKey]
	}
	var fields []string
	seen := make(map[string]bool, len(m.HeaderNames))
	for _, name := range m.HeaderNames {
		name = http.CanonicalHeaderKey(name)
		if !seen[name] {
			seen[name] = true
			fields = append(fields, r.Header[name]...)
		}
	}
	return fields
}

// policy is what this API asks of a key beyond the syntax.
func (m *Middleware) policy(key string) error {
	switch {
	case m.RequireUUID && !isUUID(key):
		return errors.New("it must be a UUID")
	case len(key) < m.MinLength:
		return fmt.Errorf("it has %d bytes, at least %d are required", len(key), m.MinLength)
	}
	return nil
}

func (m *Middleware) endpoint(r *http.Request) string {
	if m.Endpoint != nil {
		return m.Endpoint(r)
	}
	return r.Pattern
}
