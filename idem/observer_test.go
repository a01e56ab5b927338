package idem_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

// collect appends the events of a call to seen.
func collect(seen *[]idem.Event) idem.Option {
	var mu sync.Mutex
	return idem.WithObserver(idem.ObserverFunc(func(_ context.Context, e idem.Event) {
		mu.Lock()
		defer mu.Unlock()
		*seen = append(*seen, e)
	}))
}

func TestObserver_outcomes(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		op := "run"
		if reflect.ValueOf(call).Pointer() == reflect.ValueOf(do).Pointer() {
			op = "do"
		}
		holder := begin(t, pool)
		_, err := idem.Do(t.Context(), holder, keyFor("held"), returns(idem.Response{}))
		noError(t, err)
		reused := keyFor("k")
		reused.RequestHash[0]++
		const slow = 5 * time.Millisecond
		tests := []struct {
			name string
			key  idem.Key
			fn   idem.Func
			opts []idem.Option
			want idem.Event
		}{
			{"executed", keyFor("k"), func(context.Context, pgx.Tx) (idem.Response, error) {
				time.Sleep(slow)
				return idem.Response{Body: []byte("12345")}, nil
			}, nil, idem.Event{Outcome: idem.Executed, Tries: 1, Body: 5, Fn: slow}},
			{"replayed", keyFor("k"), never(t), nil, idem.Event{Outcome: idem.Replayed, Tries: 1, Body: 5}},
			{"reused", reused, never(t), nil, idem.Event{Outcome: idem.Reused, Tries: 1}},
			{"refused", keyFor("r"), func(context.Context, pgx.Tx) (idem.Response, error) {
				return idem.Response{}, idem.Refuse(idem.Response{Body: []byte("no")})
			}, []idem.Option{idem.WithSavepoint()}, idem.Event{Outcome: idem.Refused, Tries: 1, Body: 2}},
			{"refusal replayed", keyFor("r"), never(t), nil, idem.Event{Outcome: idem.Replayed, Tries: 1, Body: 2}},
			{"in progress", keyFor("held"), never(t), []idem.Option{idem.WithWait(0)}, idem.Event{Outcome: idem.InProgress, Tries: 1}},
			{"failed", keyFor("f"), thenFail("f", errOutOfStock), nil, idem.Event{Outcome: idem.Failed, Tries: 1}},
			{"invalid key", keyFor(""), never(t), nil, idem.Event{Outcome: idem.Failed}},
			{"invalid call", keyFor("f"), nil, nil, idem.Event{Outcome: idem.Failed}},
		}
		for _, tt := range tests {
			var seen []idem.Event
			began := time.Now()
			_, _ = call(t.Context(), pool, tt.key, tt.fn, append(tt.opts, collect(&seen))...)
			took := time.Since(began)
			if len(seen) != 1 {
				t.Errorf("%s: %d events", tt.name, len(seen))
				continue
			}
			e := seen[0]
			if e.Duration <= 0 || e.Duration > took || e.Fn > e.Duration || e.Fn < tt.want.Fn || e.Waited != 0 {
				t.Errorf("%s: took %v, event %+v", tt.name, took, e)
			}
			e.Duration, e.Fn, tt.want.Fn = 0, 0, 0
			tt.want.Op, tt.want.Endpoint = op, "POST /orders"
			if e != tt.want {
				t.Errorf("%s: event\n%+v, want\n%+v", tt.name, e, tt.want)
			}
		}
	})
}

func TestObserver_waiting(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	holder := begin(t, pool)
	_, err := idem.Do(t.Context(), holder, keyFor("held"), returns(idem.Response{}))
	noError(t, err)
	for name, call := range map[string]caller{"Run": idem.Run, "Do": do} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const wait = time.Second
			var seen []idem.Event
			_, err := call(t.Context(), pool, keyFor("held"), never(t), idem.WithWait(wait), collect(&seen))
			want(t, err, idem.ErrInProgress)
			e := seen[0]
			if e.Outcome != idem.InProgress || e.Tries < 2 || e.Waited <= 0 || e.Waited > e.Duration || e.Duration < wait {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestObserver_case105_panic(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		noisy := idem.WithObserver(idem.ObserverFunc(func(context.Context, idem.Event) { panic("observer") }))
		var c counter
		first, err := call(t.Context(), pool, keyFor("k"), c.order("k"), noisy)
		noError(t, err)
		replay, err := call(t.Context(), pool, keyFor("k"), never(t), noisy)
		noError(t, err)
		same(t, first, replay)
		_, err = call(t.Context(), pool, keyFor("f"), thenFail("f", errOutOfStock), noisy)
		want(t, err, errOutOfStock)
		one(t, pool, "k")
		nothing(t, pool, "f")
	})
}

// The observer runs with the caller's context, in the caller's goroutine, also when that context is dead.
func TestObserver_context(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	type ctxKey struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "value"))
	cancel()
	called := false
	_, err := idem.Run(ctx, pool, keyFor("k"), never(t), idem.WithObserver(idem.ObserverFunc(func(ctx context.Context, e idem.Event) {
		called = ctx.Value(ctxKey{}) == "value" && e.Outcome == idem.Failed
	})))
	if want(t, err, context.Canceled); !called {
		t.Error("the observer was not called with the caller's context")
	}
}

// No field of an event holds the key, the project or the hash, whatever the call came to.
func TestObserver_case104_noKeyNoProject(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	key := idem.Key{Project: "secret-project", Endpoint: "POST /orders", Value: "secret-value", RequestHash: idem.HashRequest(nil)}
	var seen []idem.Event
	for _, fn := range []idem.Func{thenFail("x", errOutOfStock), returns(idem.Response{}), returns(idem.Response{}), nil} {
		_, _ = idem.Run(t.Context(), pool, key, fn, collect(&seen))
	}
	key.RequestHash[0]++
	_, _ = idem.Run(t.Context(), pool, key, never(t), collect(&seen))
	if len(seen) != 5 {
		t.Fatalf("%d events", len(seen))
	}
	for _, e := range seen {
		v := reflect.ValueOf(e)
		for i := range v.NumField() {
			switch f := v.Field(i); f.Kind() {
			case reflect.String:
				if s := f.String(); strings.Contains(s, "secret") {
					t.Errorf("%s is %q", v.Type().Field(i).Name, s)
				}
			case reflect.Int, reflect.Int64:
			default:
				t.Errorf("%s is a %v: may it hold a key?", v.Type().Field(i).Name, f.Kind())
			}
		}
	}
}

func TestObserver_ofSeveralTries(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	calls := 0
	var seen []idem.Event
	_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		if calls++; calls < 3 {
			return idem.Response{}, serializationFailure(ctx, tx)
		}
		return idem.Response{}, nil
	}, collect(&seen))
	noError(t, err)
	if len(seen) != 1 || seen[0].Tries != 3 || seen[0].Outcome != idem.Executed {
		t.Errorf("%+v", seen)
	}
}

// serializationFailure makes the transaction fail as the server would fail it above READ COMMITTED.
func serializationFailure(ctx context.Context, tx pgx.Tx) error {
	return raise(ctx, tx, "40001")
}

func raise(ctx context.Context, tx pgx.Tx, state string) error {
	_, err := tx.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION 'raised by the test' USING ERRCODE = '`+state+`'; END $$`)
	if err == nil {
		return errors.New("RAISE raised nothing")
	}
	return err
}

// A call that ends by a panic of fn has failed.
func TestObserver_panic(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for _, end := range []func(){func() { panic("surprise") }, goexit} {
			var seen []idem.Event
			done := make(chan any)
			go func() {
				defer func() { done <- recover() }()
				_, _ = call(t.Context(), pool, keyFor("k"), func(context.Context, pgx.Tx) (idem.Response, error) {
					end()
					return idem.Response{}, nil
				}, collect(&seen))
			}()
			<-done
			if len(seen) != 1 || seen[0].Outcome != idem.Failed {
				t.Errorf("fn panicked, the observer saw %+v", seen)
			}
		}
	})
}
