package idemhttp

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// recorder is the http.ResponseWriter of a protected handler. It holds the response back until it is known whether the
// transaction commits. It behaves like net/http's own writer but for streaming: it is no http.Flusher, no http.Hijacker
// and has no Unwrap, and it drops 1xx responses.
type recorder struct {
	outer  http.ResponseWriter
	header http.Header // what Header returns
	limit  int

	status int // 0 until the handler has written the header
	sent   http.Header
	body   []byte

	tooLarge bool
	streamed bool
}

var (
	errStreamed = fmt.Errorf("idemhttp: the response of a protected handler cannot be streamed: it is sent after COMMIT: %w", http.ErrNotSupported)
	errTooLarge = errors.New("idemhttp: response over MaxResponseBody")
)

// newRecorder returns a recorder that starts with the header fields that wrappers outside have set.
func newRecorder(w http.ResponseWriter, outer http.Header, limit int) *recorder {
	header := outer.Clone()
	if header == nil {
		header = make(http.Header)
	}
	return &recorder{outer: w, header: header, limit: limit}
}

// Header is http.ResponseWriter's.
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader is http.ResponseWriter's. Like net/http's it panics on a code that is none, and takes the first of two.
func (w *recorder) WriteHeader(code int) {
	if code < 100 || code > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", code))
	}
	if w.status != 0 || code < 200 && code != http.StatusSwitchingProtocols {
		return
	}
	w.status = code
	w.streamed = w.streamed || code == http.StatusSwitchingProtocols
	w.sent = w.header.Clone()
}

// Write is http.ResponseWriter's.
func (w *recorder) Write(p []byte) (int, error) {
	if err := w.beforeWrite(len(p)); err != nil {
		return 0, err
	}
	w.body = append(w.body, p...)
	return len(p), nil
}

// WriteString is io.StringWriter's.
func (w *recorder) WriteString(s string) (int, error) {
	if err := w.beforeWrite(len(s)); err != nil {
		return 0, err
	}
	w.body = append(w.body, s...)
	return len(s), nil
}

func (w *recorder) beforeWrite(n int) error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case n == 0:
		return nil
	case !bodyAllowed(w.status):
		return http.ErrBodyNotAllowed
	case w.streamed:
		return errStreamed
	case w.tooLarge || n > w.limit-len(w.body):
		w.tooLarge = true
		return errTooLarge
	}
	return nil
}

// FlushError is what http.ResponseController's Flush calls. It refuses, and the response fails as a whole: a handler that
// flushes means to send a part of it now.
func (w *recorder) FlushError() error {
	w.streamed = true
	return errStreamed
}

// SetReadDeadline is http.ResponseController's.
func (w *recorder) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(w.outer).SetReadDeadline(t)
}

// SetWriteDeadline is http.ResponseController's.
func (w *recorder) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(w.outer).SetWriteDeadline(t)
}

// seal returns a recorder with what the handler has written when it returns. A goroutine that it leaves behind may go on
// writing to w: what is recorded and what is sent stay the same all the same.
func (w *recorder) seal() *recorder {
	s := *w
	s.header = w.header.Clone()
	s.body = w.body[:len(w.body):len(w.body)]
	return &s
}

// finish completes the response as net/http would: status 200 where the handler said none, and a guessed Content-Type
// where it gave a body without one. It is guessed here, so that a replay does not depend on a later guess. A
// Content-Encoding that was there before the handler belongs to a wrapper outside that compresses what we send.
func (w *recorder) finish() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if _, typed := w.sent["Content-Type"]; typed || len(w.body) == 0 || w.sent.Get("Transfer-Encoding") != "" {
		return
	}
	if encoding := w.sent["Content-Encoding"]; len(encoding) == 0 || slices.Equal(encoding, w.outer.Header()["Content-Encoding"]) {
		w.sent.Set("Content-Type", http.DetectContentType(w.body))
	}
}

// sendTo sends the whole response of a finished recorder. Errors are not reported: a client that has gone asks again.
func (w *recorder) sendTo(out http.ResponseWriter) {
	h := out.Header()
	measured := lengthIsOurs(h)
	clear(h)
	trailers := w.trailers()
	maps.Copy(h, w.sent)
	for name, values := range trailers {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			h[name] = values // net/http knows it by its name
		} else {
			delete(h, name) // until the header is out
		}
	}
	delete(h, HeaderReplayed)
	expose(h)
	send(out, w.status, w.body, measured && len(trailers) == 0)
	maps.Copy(h, trailers)
}

// trailers returns the fields that the handler has declared or marked as trailers, under the names that make net/http
// send them as such. They are not recorded.
func (w *recorder) trailers() http.Header {
	var t http.Header
	add := func(name string) {
		if values, ok := w.header[name]; ok {
			if t == nil {
				t = make(http.Header)
			}
			t[name] = values
		}
	}
	for _, v := range w.sent["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			add(http.CanonicalHeaderKey(strings.Trim(name, " \t")))
		}
	}
	for name := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			add(name)
		}
	}
	return t
}

// replay sends a recorded response. What wrappers outside have set stays, unless it is recorded.
func replay(out http.ResponseWriter, status int, header http.Header, body []byte) {
	if status < 200 { // recorded by somebody who knows no statuses
		status = http.StatusOK
	}
	h := out.Header()
	measured := lengthIsOurs(h)
	for name, values := range header {
		if !slices.Contains(neverKept, http.CanonicalHeaderKey(name)) { // recorded by somebody else's code
			h[name] = values
		}
	}
	h.Set(HeaderReplayed, "true")
	expose(h)
	send(out, status, body, measured)
}

// lengthIsOurs reports whether the bytes that we write are the bytes on the wire. They are not when a wrapper outside has
// set Content-Encoding in advance: it compresses what is written through it.
func lengthIsOurs(h http.Header) bool { return len(h["Content-Encoding"]) == 0 }

// send writes status and body, and the Content-Length where it is known.
func send(out http.ResponseWriter, status int, body []byte, measured bool) {
	h := out.Header()
	delete(h, "Content-Length")
	if !bodyAllowed(status) {
		out.WriteHeader(status)
		return
	}
	if measured {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	out.WriteHeader(status)
	if len(body) > 0 {
		_, _ = out.Write(body)
	}
}

// bodyAllowed is net/http's bodyAllowedForStatus.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
