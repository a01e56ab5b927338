package idemhttp

import (
	"net/http"
	"slices"
	"strings"
)

// alwaysKept are the header fields that are recorded and replayed, besides Middleware.KeepHeaders.
var alwaysKept = []string{
	"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition",
	"Location", "Etag", "Last-Modified", "Link",
}

// neverKept are the header fields that are not recorded even if listed: what authenticates somebody, what belongs to one
// message or one connection (RFC 9110, section 7.6.1), and what is computed.
var neverKept = []string{
	"Set-Cookie", "Set-Cookie2", "Cookie", "Authorization", "Www-Authenticate", "Authentication-Info",
	"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info",
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Date", "Content-Length", HeaderReplayed, HeaderKey,
}

// keptNames returns the canonical names of the header fields that are recorded.
func keptNames(more []string) map[string]bool {
	kept := make(map[string]bool, len(alwaysKept)+len(more))
	for _, name := range alwaysKept {
		kept[name] = true
	}
	for _, name := range more {
		kept[http.CanonicalHeaderKey(name)] = true
	}
	for _, name := range neverKept {
		delete(kept, http.CanonicalHeaderKey(name))
	}
	return kept
}

// keep returns what is recorded of a response's header: the kept fields that the handler has set, changed or removed.
// outer is the header as the handler found it: what wrappers outside set, they set again on the replay. A field without
// values stands for one that the handler has removed, or that must not be guessed.
func keep(header, outer http.Header, kept map[string]bool) http.Header {
	named := connectionNames(header)
	var h http.Header
	for name := range kept {
		values, has := header[name]
		before, had := outer[name]
		if has == had && slices.Equal(values, before) || slices.Contains(named, name) {
			continue
		}
		if h == nil {
			h = make(http.Header, 4)
		}
		h[name] = slices.Clone(values)
	}
	return h
}

// connectionNames returns the fields that the Connection field makes hop-by-hop.
func connectionNames(h http.Header) []string {
	var names []string
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			names = append(names, http.CanonicalHeaderKey(strings.Trim(name, " \t")))
		}
	}
	return names
}

// expose lets a browser's script read the marker and Retry-After, where CORS is in use (Fetch standard, section 3.2.3).
func expose(h http.Header) {
	if len(h["Access-Control-Allow-Origin"]) == 0 {
		return
	}
	const field = "Access-Control-Expose-Headers"
	list := strings.Join(h[field], ", ")
	for _, name := range [...]string{HeaderReplayed, "Retry-After"} {
		if listed(list, name) {
			continue
		}
		if list != "" {
			list += ", "
		}
		list += name
	}
	h[field] = []string{list}
}

func listed(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(item, " \t"), name) {
			return true
		}
	}
	return false
}
