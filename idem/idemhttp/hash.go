package idemhttp

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pgidem/pgidem/idem"
)

// requestHash hashes what makes a request the request it is: method, concrete path, query, media type, body and, where
// there is one, the principal. Host, tokens, cookies and tracing fields are not part of it: they differ between attempts.
func requestHash(r *http.Request, body []byte, canonical bool, principal *string) (idem.Hash, error) {
	media, params := mediaType(r.Header)
	form, content, err := bodyForm(media, params, body, canonical)
	if err != nil {
		return idem.Hash{}, err
	}
	who := []byte{0}
	if principal != nil {
		who = append([]byte{1}, *principal...)
	}
	return idem.HashRequest([]byte("idemhttp 1"), []byte(r.Method), []byte(sentPath(r)), []byte(r.URL.EscapedPath()),
		queryForm(r.URL.RawQuery), []byte(media), []byte{form}, content, who), nil
}

// sentPath returns the path as the client sent it. Wrappers outside may have cut a prefix off r.URL that tells two
// operations apart, such as a version.
func sentPath(r *http.Request) string {
	switch {
	case strings.HasPrefix(r.RequestURI, "/"):
		path, _, _ := strings.Cut(r.RequestURI, "?")
		return path
	case r.RequestURI == "": // a request that nobody sent, such as a test's
		return r.URL.EscapedPath()
	}
	u, err := url.ParseRequestURI(r.RequestURI) // "http://host/path", which servers must accept (RFC 9112, section 3.2.2)
	if err != nil {
		return r.RequestURI
	}
	return u.EscapedPath()
}

// queryForm returns the parameters sorted by name, with the order of equal names kept, each behind its length. A query
// that net/url does not understand in whole counts as it is: what it leaves out may mean something to the handler.
func queryForm(raw string) []byte {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return append([]byte("raw "), raw...)
	}
	b := []byte("parsed ")
	for _, name := range slices.Sorted(maps.Keys(query)) {
		b = appendDelimited(b, name)
		b = binary.AppendUvarint(b, uint64(len(query[name])))
		for _, v := range query[name] {
			b = appendDelimited(b, v)
		}
	}
	return b
}

func appendDelimited[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// mediaType returns the media type of a request in lower case, and its parameters.
func mediaType(h http.Header) (string, map[string]string) {
	values := h["Content-Type"]
	if len(values) != 1 {
		return strings.Join(values, "\n"), nil
	}
	media, params, err := mime.ParseMediaType(values[0])
	if err != nil {
		media, _, _ = strings.Cut(values[0], ";")
		media = strings.ToLower(strings.Trim(media, " \t"))
		return media, nil
	}
	return media, params
}

// The forms in which a body is hashed.
const (
	formRaw = iota
	formJSON
	formMultipart
)

func bodyForm(media string, params map[string]string, body []byte, canonical bool) (form byte, content []byte, err error) {
	switch {
	case len(body) == 0:
	case canonical && isJSON(media):
		content, err = CanonicalJSON(body)
		return formJSON, content, err
	case strings.HasPrefix(media, "multipart/"):
		if content, ok := parts(body, params["boundary"]); ok {
			return formMultipart, content, nil
		}
	}
	return formRaw, body, nil
}

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// parts returns the parts of a multipart body without the boundary, which clients make anew for each attempt. ok is false
// when the body cannot be read to its end.
func parts(body []byte, boundary string) (content []byte, ok bool) {
	if boundary == "" {
		return nil, false
	}
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := r.NextRawPart()
		if err == io.EOF {
			return content, true
		}
		if err != nil {
			return nil, false
		}
		data, err := io.ReadAll(part)
		if err != nil {
			return nil, false
		}
		content = binary.AppendUvarint(content, uint64(len(part.Header)))
		for _, name := range slices.Sorted(maps.Keys(part.Header)) {
			content = appendDelimited(content, name)
			content = binary.AppendUvarint(content, uint64(len(part.Header[name])))
			for _, v := range part.Header[name] {
				content = appendDelimited(content, v)
			}
		}
		content = appendDelimited(content, data)
	}
}
