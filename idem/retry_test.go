package idem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

func TestRun_retriesWhatLostARace(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, state := range []string{"40001", "40P01"} {
			empty(t, pool)
			calls := 0
			r, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				noError(t, insertOrder(ctx, tx, "k"))
				if calls++; calls <= 2 {
					return idem.Response{}, raise(ctx, tx, state)
				}
				return idem.Response{Status: 201}, nil
			})
			noError(t, err)
			if calls != 3 || r.Replayed || r.Status != 201 {
				t.Errorf("%s: %d calls, answer %+v", state, calls, r)
			}
			one(t, pool, "k")
		}
	})
}

// Do leaves retries to its caller.
func TestDo_retriesNothing(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, state := range []string{"40001", "40P01"} {
			calls := 0
			_, err := do(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				calls++
				return idem.Response{}, raise(ctx, tx, state)
			})
			if calls != 1 || !hasState(err, state) {
				t.Errorf("%d calls, error %v", calls, err)
			}
		}
	})
}

// Errors that another transaction would not change come back at once.
func TestRun_doesNotRetry(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, state := range []string{"23505", "23503", "22012", "42501", "25006", "53100", "P0001"} {
			calls := 0
			_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				calls++
				return idem.Response{}, raise(ctx, tx, state)
			})
			if calls != 1 || !hasState(err, state) {
				t.Errorf("%s: %d calls, error %v", state, calls, err)
			}
			for _, sentinel := range []error{idem.ErrConflict, idem.ErrReadOnly, idem.ErrNoSchema} {
				if errors.Is(err, sentinel) {
					t.Errorf("fn's error %s is taken for the package's own: %v", state, err)
				}
			}
		}
	})
}

func TestRun_givesUp(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	calls := 0
	began := time.Now()
	_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		calls++
		return idem.Response{}, serializationFailure(ctx, tx)
	})
	if !hasState(err, "40001") || errors.Is(err, idem.ErrOutcomeUnknown) {
		t.Errorf("error %v", err)
	}
	if calls != idem.MostConflicts+1 {
		t.Errorf("%d calls", calls)
	}
	t.Logf("%d calls in %v", calls, time.Since(began))
	nothing(t, pool, "k")
}

// A caller who goes away ends the retries.
func TestRun_contextEndsTheRetries(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	_, err := idem.Run(ctx, pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		err := serializationFailure(ctx, tx)
		if calls++; calls == 3 {
			cancel()
		}
		return idem.Response{}, err
	})
	if err == nil || calls != 3 {
		t.Errorf("%d calls, error %v", calls, err)
	}
}

// fn may be what ends its connection: it is not run for ever.
func TestRun_fnEndsItsConnection(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		calls := 0
		_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			calls++
			noError(t, insertOrder(ctx, tx, "k"))
			_, err := tx.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())`)
			return idem.Response{}, err
		})
		if calls != idem.MostLostRuns+1 || !hasState(err, "57P01") || errors.Is(err, idem.ErrOutcomeUnknown) {
			t.Errorf("%d calls, error %v", calls, err)
		}
		nothing(t, pool, "k")
	})
}

func TestRun_lostConnections(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		kill := func() {
			exec(t, pool, `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid() AND application_name = 'victim'`)
		}
		for _, at := range []string{"the look", "fn", "the record"} {
			empty(t, pool)
			cfg := pool.Config()
			cfg.ConnConfig.RuntimeParams["application_name"] = "victim"
			s := &spy{}
			cfg.ConnConfig.Tracer = s
			victim, err := pgxpool.NewWithConfig(t.Context(), cfg)
			noError(t, err)
			noError(t, victim.Ping(t.Context()))
			killed := false
			s.on(func(flight string) {
				if !killed && (at == "the look" && isLook(flight) || at == "the record" && flight == "idem: record + commit") {
					killed = true
					kill()
				}
			}, nil)
			var c counter
			_, err = idem.Run(t.Context(), victim, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				r, err := c.order("k")(ctx, tx)
				if at == "fn" && !killed {
					killed = true
					kill()
					_, err = tx.Exec(ctx, `SELECT 1`)
				}
				return r, err
			}, idem.WithWait(untilDone))
			if err != nil || !killed {
				t.Errorf("killed at %s: %v", at, err)
			}
			one(t, pool, "k")
			runs := int64(2)
			if at == "the look" {
				runs = 1
			}
			c.ran(t, runs)
			victim.Close()
		}
	})
}

func TestRun_deadContext(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := idem.Run(cancelled, pool, keyFor("k"), never(t))
		want(t, err, context.Canceled)
		past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
		defer cancel()
		_, err = idem.Run(past, pool, keyFor("k"), never(t))
		want(t, err, context.DeadlineExceeded)

		tx := begin(t, pool)
		_, err = idem.Do(cancelled, tx, keyFor("k"), never(t))
		want(t, err, context.Canceled)
	})
}

func TestRun_closedPool(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	pool.Close()
	_, err := idem.Run(t.Context(), pool, keyFor("k"), never(t))
	if err == nil {
		t.Error("no error")
	}
}

// A server that was never there is the caller's to know at once.
func TestRun_noServer(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?sslmode=disable")
	noError(t, err)
	defer pool.Close()
	began := time.Now()
	_, err = idem.Run(t.Context(), pool, keyFor("k"), never(t))
	if err == nil || errors.Is(err, idem.ErrOutcomeUnknown) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 5*time.Second { // retries would take 10
		t.Errorf("it took %v", took)
	}
}

// A constraint that is checked at COMMIT: the same fn would fail in the same way, so it is not run again.
func TestRun_commitFails(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		exec(t, pool, `CREATE TABLE IF NOT EXISTS public.customers (id bigint PRIMARY KEY)`)
		exec(t, pool, `CREATE TABLE IF NOT EXISTS public.bills (customer bigint REFERENCES public.customers DEFERRABLE INITIALLY DEFERRED)`)
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
			calls := 0
			_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				calls++
				noError(t, insertOrder(ctx, tx, "k"))
				_, err := tx.Exec(ctx, `INSERT INTO public.bills VALUES (7)`)
				return idem.Response{}, err
			}, opts...)
			if calls != 1 || !hasState(err, "23503") || errors.Is(err, idem.ErrOutcomeUnknown) {
				t.Errorf("%d calls, error %v", calls, err)
			}
			nothing(t, pool, "k")
		}
	})
}

// 40001 may also come at COMMIT: that is worth another run.
func TestRun_serializationFailureAtCommit(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		exec(t, pool, `CREATE OR REPLACE FUNCTION public.fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN IF new.ref = 'fails' THEN RAISE EXCEPTION 'at commit' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$`)
		exec(t, pool, `DROP TRIGGER IF EXISTS fail_once ON public.orders`)
		exec(t, pool, `CREATE CONSTRAINT TRIGGER fail_once AFTER INSERT ON public.orders DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION public.fail_once()`)
		calls := 0
		_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			if calls++; calls == 1 {
				return idem.Response{}, insertOrder(ctx, tx, "fails")
			}
			return idem.Response{}, insertOrder(ctx, tx, "k")
		})
		noError(t, err)
		if calls != 2 || orders(t, pool, "fails") != 0 {
			t.Errorf("%d calls", calls)
		}
		one(t, pool, "k")
	})
}

// An fn that leaves a query open cannot commit. It is a bug in fn, which another run would not mend.
func TestRun_rowsLeftOpen(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, opts := range [][]idem.Option{nil, {idem.WithSavepoint()}} {
			calls := 0
			_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				calls++
				noError(t, insertOrder(ctx, tx, "k"))
				_, err := tx.Query(ctx, `SELECT pg_catalog.generate_series(1, 100000)`)
				return idem.Response{}, err
			}, opts...)
			if !errors.Is(err, idem.ErrInvalidCall) || calls != 1 {
				t.Errorf("%d calls, error %v", calls, err)
			}
			nothing(t, pool, "k")
		}
	})
}

// The server's codes at COMMIT speak of the user's own constraints and triggers: they are not taken for the package's.
func TestRun_deferredUniqueConstraint(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		exec(t, pool, `CREATE TABLE IF NOT EXISTS public.seats (seat integer UNIQUE DEFERRABLE INITIALLY DEFERRED)`)
		calls := 0
		_, err := idem.Run(t.Context(), pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			calls++
			_, err := tx.Exec(ctx, `INSERT INTO public.seats VALUES (1), (1)`)
			return idem.Response{}, err
		})
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if calls != 1 || !ok || pg.Code != "23505" || errors.Is(err, idem.ErrConflict) || errors.Is(err, idem.ErrOutcomeUnknown) {
			t.Errorf("%d calls, error %v", calls, err)
		}
		nothing(t, pool, "k")
	})
}

// brokenTracer panics where pgx is about to send a batch.
type brokenTracer struct{}

func (brokenTracer) TraceBatchStart(context.Context, *pgx.Conn, pgx.TraceBatchStartData) context.Context {
	panic("tracer")
}
func (brokenTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (brokenTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (brokenTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (brokenTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A tracer that panics before BEGIN is sent: its panic surfaces, and the connection goes back to the pool.
func TestRun_tracerPanics(t *testing.T) {
	t.Parallel()
	pool := newPool(t, func(c *pgxpool.Config) { c.ConnConfig.Tracer = brokenTracer{} })
	func() {
		defer func() {
			if r := recover(); r != "tracer" {
				t.Errorf("recovered %v", r)
			}
		}()
		var c counter
		_, _ = idem.Run(t.Context(), pool, keyFor("k"), c.order("k"))
	}()
	if n := pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are still acquired", n)
	}
}
