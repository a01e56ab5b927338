package idemhttp_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
)

// A goroutine that the handler leaves behind writes on, here between COMMIT and the answer: the first answer is what was
// recorded, like every later one.
func TestHandler_writesAfterItReturned(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var kept http.ResponseWriter
	b.m.Observer = idem.ObserverFunc(func(context.Context, idem.Event) {
		_, _ = io.WriteString(kept, " and more")
		kept.Header().Set("Location", "/elsewhere")
	})
	b.protect("POST /charges", b.charge(func(w http.ResponseWriter, _ *http.Request) {
		kept = w
		w.Header().Set("Location", "/charges/1")
		_, _ = io.WriteString(w, "charged")
	}))
	first := b.post("/charges", "k", "")
	if first.body != "charged" || first.header.Get("Location") != "/charges/1" {
		t.Errorf("the first answer is %q, Location %q", first.body, first.header.Get("Location"))
	}
	same(t, first, b.post("/charges", "k", ""))
}

// Case 36: a handler that ends the transaction behind our back is told of, whatever it answers.
func TestHandler_case36_endsTheTransactionAndFails(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 429, 500} {
		b := newBench(t)
		b.protect("POST /charges", b.charge(func(w http.ResponseWriter, r *http.Request) {
			if _, err := idemhttp.Tx(r.Context()).Conn().Exec(r.Context(), "COMMIT"); err != nil {
				t.Error(err)
			}
			w.WriteHeader(status)
		}))
		b.post("/charges", "k", "").is(t, idemhttp.CodeHandlerFailed, 500)
		if !strings.Contains(b.logs.String(), "transaction has ended") {
			t.Errorf("%d: the log says %s", status, b.logs.String())
		}
	}
}

// The same through Handle, with an error: nobody says that anything was undone, or that a retry does no harm.
func TestHandle_case36_endsTheTransactionAndFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mux.Handle("POST /charges", idemhttp.Handle(b.m, func(ctx context.Context, tx pgx.Tx, _ http.ResponseWriter, _ *http.Request) error {
		if _, err := tx.Conn().Exec(ctx, "INSERT INTO public.charges (note) VALUES ('x'); COMMIT"); err != nil {
			t.Error(err)
		}
		return errors.New("and then it failed")
	}))
	got := b.post("/charges", "k", "")
	got.is(t, idemhttp.CodeHandlerFailed, 500)
	if p := problemOf(t, got); p.Retryable || strings.Contains(p.Detail, "undone") {
		t.Errorf("got %s", got.body)
	}
	if !strings.Contains(b.logs.String(), "and then it failed") {
		t.Errorf("the log says %s", b.logs.String())
	}
}

// Case 11 with the request target in absolute form, which servers must accept: what a wrapper cuts off still counts.
func TestHandler_case11_absoluteTarget(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inner := http.NewServeMux()
	inner.Handle("POST /charges", b.m.Handler(b.charge(b.status(201))))
	b.mux.Handle("/v1/", http.StripPrefix("/v1", inner))
	b.mux.Handle("/v2/", http.StripPrefix("/v2", inner))
	addr := b.server().Listener.Addr().String()
	send := func(target string) int {
		c, err := net.Dial("tcp", addr)
		noError(t, err)
		defer c.Close()
		noError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		_, err = io.WriteString(c, "POST "+target+" HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n")
		noError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		noError(t, err)
		defer resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		target string
		status int
	}{
		{"http://x/v1/charges", 201},
		{"http://x/v2/charges", 422},
		{"/v1/charges", 201},
	} {
		if got := send(c.target); got != c.status {
			t.Errorf("%s answers %d, want %d", c.target, got, c.status)
		}
	}
	b.left(1, 1)
}
