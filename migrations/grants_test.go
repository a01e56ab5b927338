package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// What the documentation says that roles need.
var (
	grantsOfApplication = []string{"USAGE ON SCHEMA idem", "SELECT ON idem.keys", "INSERT ON idem.keys", "UPDATE ON idem.keys"}
	grantsOfReaper      = []string{
		"USAGE ON SCHEMA idem", "SELECT ON idem.keys", "DELETE ON idem.keys",
		"SELECT ON idem.reaper", "INSERT ON idem.reaper", "UPDATE ON idem.reaper",
	}
)

// asRole returns a pool whose sessions have a new role with these grants.
func asRole(t *testing.T, owner *pgxpool.Pool, grants []string) *pgxpool.Pool {
	t.Helper()
	name := fmt.Sprintf("idem_test_%016x", rand.Uint64()) // roles are the server's, which other tests share
	exec(t, owner, `CREATE ROLE `+name)
	for _, g := range grants {
		exec(t, owner, "GRANT "+g+" TO "+name)
	}
	// Registered before the pool: it is gone by then. The owner's pool is closed later still.
	t.Cleanup(func() {
		ctx := context.Background()
		_, _ = owner.Exec(ctx, `DROP OWNED BY `+name)
		_, _ = owner.Exec(ctx, `DROP ROLE `+name)
	})
	return open(t, owner.Config().ConnString(), func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `SET ROLE `+name)
			return err
		}
	})
}

func without(all []string, i int) []string {
	return append(append([]string{}, all[:i]...), all[i+1:]...)
}

// callAll makes the calls of an application: run, replay, reuse, takeover of an expired record, in Run and in Do.
func callAll(t *testing.T, pool *pgxpool.Pool) error {
	fn := func(context.Context, pgx.Tx) (idem.Response, error) { return idem.Response{Status: 201}, nil }
	key := func(value string) idem.Key {
		return idem.Key{Project: "acme", Endpoint: "e", Value: value, RequestHash: idem.HashRequest([]byte(value))}
	}
	do := func(k idem.Key) error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := idem.Do(t.Context(), tx, k, fn)
			return err
		})
	}
	run := func(k idem.Key, opts ...idem.Option) error {
		_, err := idem.Run(t.Context(), pool, k, fn, opts...)
		return err
	}
	reused := key("a")
	reused.RequestHash = idem.HashRequest([]byte("other"))
	if err := run(reused); err != nil && !errors.Is(err, idem.ErrKeyReused) {
		return err
	}
	return errors.Join(run(key("b")), run(key("b")), run(key("b"), idem.WithReplicatedReplay()), do(key("c")), do(key("c")), run(key("dead0")), do(key("dead1")))
}

func TestGrants_case101_application(t *testing.T) {
	t.Parallel()
	owner := open(t, pgtest.New(t))
	seed(t, owner, "dead", 2, -time.Hour)
	noError(t, callAll(t, asRole(t, owner, grantsOfApplication)))
	for i, g := range grantsOfApplication {
		t.Run("without "+g, func(t *testing.T) {
			t.Parallel()
			owner := open(t, pgtest.New(t))
			seed(t, owner, "dead", 2, -time.Hour)
			refused(t, callAll(t, asRole(t, owner, without(grantsOfApplication, i))), "the application's role needs USAGE on schema idem and SELECT, INSERT, UPDATE on idem.keys")
		})
	}
}

func TestGrants_case101_reaper(t *testing.T) {
	t.Parallel()
	const hint = "the reaper's SELECT and DELETE, and SELECT, INSERT, UPDATE on idem.reaper"
	reapAll := func(t *testing.T, pool *pgxpool.Pool) error {
		for range 2 { // the first pass inserts its report, the second updates it
			if _, err := (&idem.Reaper{DB: pool, BatchSize: 2}).Reap(t.Context()); err != nil {
				return err
			}
		}
		_, err := idem.Forget(t.Context(), pool, idem.Key{Project: "acme", Endpoint: "e", Value: "live0"})
		return err
	}
	callProcedure := func(t *testing.T, pool *pgxpool.Pool) error {
		_, err := pool.Exec(t.Context(), `CALL idem.reap(2)`)
		if err == nil {
			_, err = pool.Exec(t.Context(), `CALL idem.reap(2)`)
		}
		return err
	}
	for name, reap := range map[string]func(*testing.T, *pgxpool.Pool) error{"Reaper": reapAll, "procedure": callProcedure} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			owner := open(t, pgtest.New(t))
			seed(t, owner, "dead", 5, -time.Hour)
			seed(t, owner, "live", 2, time.Hour)
			noError(t, reap(t, asRole(t, owner, grantsOfReaper)))
			if like(t, owner, "dead") != 0 {
				t.Error("expired records are left")
			}
			for i, g := range grantsOfReaper {
				t.Run("without "+g, func(t *testing.T) {
					t.Parallel()
					owner := open(t, pgtest.New(t))
					seed(t, owner, "dead", 5, -time.Hour)
					err := reap(t, asRole(t, owner, without(grantsOfReaper, i)))
					if name == "procedure" {
						refused(t, err, "permission denied")
						return
					}
					refused(t, err, hint)
				})
			}
		})
	}
}

func refused(t *testing.T, err error, says string) {
	t.Helper()
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Code != "42501" || !strings.Contains(err.Error(), says) {
		t.Errorf("error is %v, want 42501 and %q", err, says)
	}
}
