package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"unicode/utf8"
)

const maxRequest = 64 << 10

type inputKey struct{}

func inputOf[In input](ctx context.Context) In {
	in, _ := ctx.Value(inputKey{}).(In)
	return in
}

// validated reads the body, turns away what cannot be accepted, and hands on the rest: decoded in the context, and as it
// came in the body, which the idempotency key is bound to.
func validated[In input](next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
			invalid(w, http.StatusUnsupportedMediaType, "send application/json")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			invalid(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxRequest))
			return
		}
		if err != nil {
			invalid(w, http.StatusBadRequest, "the body did not arrive completely")
			return
		}
		var in In
		if err := decode(body, &in); err != nil {
			invalid(w, http.StatusBadRequest, "the body is not the JSON that is expected here: "+err.Error())
			return
		}
		if errs := in.check(); len(errs) > 0 {
			invalid(w, http.StatusBadRequest, "some fields cannot be accepted", errs...)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), inputKey{}, in))
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func invalid(w http.ResponseWriter, status int, detail string, errs ...fieldError) {
	writeProblem(w, problem{Title: http.StatusText(status), Status: status, Code: "invalid_request", Detail: detail, Errors: errs})
}

// decode accepts one JSON value with known fields and nothing after it.
func decode(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("it is empty")
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return nil
}

// checks collects what is wrong with an input.
type checks []fieldError

func (c *checks) require(ok bool, field, format string, args ...any) {
	if !ok {
		*c = append(*c, fieldError{field, fmt.Sprintf(format, args...)})
	}
}

func (c *checks) text(field, s string, most int) {
	n := utf8.RuneCountInString(s)
	c.require(n >= 1 && n <= most && strings.TrimSpace(s) == s && !strings.ContainsRune(s, 0), field,
		"must have 1 to %d characters, with no space around them", most)
}

func (c *checks) between(field string, n, least, most int64) {
	c.require(n >= least && n <= most, field, "must be between %d and %d", least, most)
}

func (c *checks) oneOf(field, s string, allowed []string) {
	c.require(slices.Contains(allowed, s), field, "must be one of %s", strings.Join(allowed, ", "))
}

func (c *checks) email(field, s string) {
	a, err := mail.ParseAddress(s)
	c.require(err == nil && a.Address == s && len(s) <= 254, field, "must be an e-mail address")
}

func (c *checks) money(amount int64, currency string) {
	c.between("amount", amount, 1, 10_000_000_00)
	c.oneOf("currency", currency, currencies)
}

func (c *checks) reference(s string) { c.text("reference", s, 80) }

var currencies = []string{"EUR", "GBP", "INR", "USD"}
