package idemhttp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
)

func (m *Middleware) maxRequestBody() int64 {
	if m.MaxRequestBody > 0 {
		return m.MaxRequestBody
	}
	return defaultBody
}

// readBody reads the whole body, whatever its declared length, and nothing of one that is declared too large.
func (m *Middleware) readBody(w http.ResponseWriter, r *http.Request) (body []byte, code string, err error) {
	limit := m.maxRequestBody()
	if r.ContentLength > limit {
		return nil, CodeRequestTooLarge, fmt.Errorf("the Content-Length is %d", r.ContentLength)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil, "", nil
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead) // what is declared may never come
	_, err = b.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, CodeRequestTooLarge, err
	}
	if err != nil {
		return nil, CodeRequestUnreadable, err
	}
	// A body that somebody outside has read must not count as an empty one: all requests would be the same then.
	if n := int64(b.Len()); n < r.ContentLength || n == 0 && (len(r.PostForm) > 0 || r.MultipartForm != nil) {
		return nil, CodeMisconfigured, fmt.Errorf("the body has %d bytes left of %d: something outside this middleware has read it; let it put the body back, or move it inside", n, r.ContentLength)
	}
	return b.Bytes(), "", nil
}

// setBody gives r a body that can be read from its beginning.
func setBody(r *http.Request, body []byte) {
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	r.Body = http.NoBody
	if len(body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
}
