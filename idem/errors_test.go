package idem_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/internal/localpg"
	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

// errorCase makes one error for real.
type errorCase struct {
	name  string
	cause func(t *testing.T, pool *pgxpool.Pool) error
	want  error // the sentinel, nil where none fits
	text  string
	ddl   bool // cause changes the schema
}

const goldenValue = "3b1e9c0a-7d52-4f1e-9a53-0d3f5a1c2b77"

func goldenKey() idem.Key {
	return idem.Key{Project: "acme", Endpoint: "POST /applications", Value: goldenValue, RequestHash: idem.HashRequest([]byte("body"))}
}

// inDo answers the error of Do in a transaction that is rolled back.
func inDo(t *testing.T, pool *pgxpool.Pool, key idem.Key, fn idem.Func, opts ...idem.Option) error {
	tx := begin(t, pool)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err := idem.Do(t.Context(), tx, key, fn, opts...)
	return err
}

func inRun(t *testing.T, pool *pgxpool.Pool, key idem.Key, fn idem.Func, opts ...idem.Option) error {
	_, err := idem.Run(t.Context(), pool, key, fn, opts...)
	return err
}

func ok(context.Context, pgx.Tx) (idem.Response, error) { return idem.Response{Status: 200}, nil }

func withKey(change func(*idem.Key)) func(t *testing.T, pool *pgxpool.Pool) error {
	return func(t *testing.T, pool *pgxpool.Pool) error {
		key := goldenKey()
		change(&key)
		return inRun(t, pool, key, ok)
	}
}

func withOption(o idem.Option) func(t *testing.T, pool *pgxpool.Pool) error {
	return func(t *testing.T, pool *pgxpool.Pool) error { return inRun(t, pool, goldenKey(), ok, o) }
}

func after(sql string) func(t *testing.T, pool *pgxpool.Pool) error {
	return func(t *testing.T, pool *pgxpool.Pool) error {
		exec(t, pool, sql)
		return inRun(t, pool, goldenKey(), ok)
	}
}

func fnThat(sql string) idem.Func {
	return func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		_, err := tx.Conn().Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return idem.Response{}, err
	}
}

func leavesRowsOpen(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
	_, err := tx.Query(ctx, `SELECT pg_catalog.generate_series(1, 100000)`)
	return idem.Response{}, err
}

// asRole runs f with a pool of a new role that has the privileges of grants, in which %s stands for it.
func asRole(t *testing.T, pool *pgxpool.Pool, grants []string, f func(*pgxpool.Pool) error) error {
	t.Helper()
	role := fmt.Sprintf("app_%d", rand.Uint64()) // roles belong to the server, not to the database
	exec(t, pool, `CREATE ROLE `+role+` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() {
		exec(t, pool, `DROP OWNED BY `+role)
		exec(t, pool, `DROP ROLE `+role)
	})
	for _, g := range grants {
		exec(t, pool, strings.ReplaceAll(g, "%s", role))
	}
	cfg := pool.Config()
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SET ROLE `+role)
		return err
	}
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	noError(t, err)
	defer p.Close()
	return f(p)
}

func TestError_texts(t *testing.T) {
	t.Parallel()
	shared := newPool(t)
	for _, tt := range errorCases {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			pool := shared
			if tt.ddl {
				pool = newPool(t)
			}
			empty(t, pool)
			err := tt.cause(t, pool)
			if err == nil {
				t.Fatal("no error")
			}
			if tt.want != nil {
				want(t, err, tt.want)
			}
			got := variable.ReplaceAllString(err.Error(), "$1$3‹…›$2$4")
			if got != tt.text {
				t.Errorf("the error says\n%s\nwant\n%s", got, tt.text)
			}
			e, isError := errors.AsType[*idem.Error](err)
			if !isError || e.Hint == "" {
				t.Errorf("%#v has no hint", err)
			}
			for _, s := range []string{err.Error(), fmt.Sprintf("%v %+v %s", err, err, err)} { // case 104
				if strings.Contains(s, goldenValue) || strings.Contains(s, goldenValue[:19]) {
					t.Errorf("the whole key is in %q", s)
				}
			}
		})
	}
}

// variable is what differs from run to run: a time, and in what way a connection is seen to be lost.
var variable = regexp.MustCompile(`(first used )[-0-9T:]+Z()|(at COMMIT: ).*(; at the look-up)`)

// Every sentinel that a call can answer is in the table.
func TestError_everySentinel(t *testing.T) {
	t.Parallel()
	for _, sentinel := range []error{
		idem.ErrInvalidKey, idem.ErrInvalidCall, idem.ErrKeyReused, idem.ErrInProgress, idem.ErrConflict, idem.ErrNested, idem.ErrNoSchema,
		idem.ErrResponseTooLarge, idem.ErrReadOnly, idem.ErrTxAborted, idem.ErrTxEnded, idem.ErrOutcomeUnknown,
	} {
		if !slices.ContainsFunc(errorCases, func(c errorCase) bool { return c.want == sentinel }) {
			t.Errorf("no case for %v", sentinel)
		}
		if !strings.HasPrefix(sentinel.Error(), "idem: ") {
			t.Errorf("%q does not say whose it is", sentinel)
		}
	}
}

// The causes stay reachable.
func TestError_unwraps(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	exec(t, pool, `DROP TABLE idem.keys`)
	err := inRun(t, pool, goldenKey(), ok)
	if !hasState(err, "42P01") || !errors.Is(err, idem.ErrNoSchema) {
		t.Errorf("%v", err)
	}
	pool = newPool(t)
	e, isError := errors.AsType[*idem.Error](inRun(t, pool, goldenKey(), returns(idem.Response{Status: 1})))
	if !isError || e.Op != "run" || e.Key != goldenKey() {
		t.Errorf("%#v", e)
	}
	e, isError = errors.AsType[*idem.Error](inDo(t, pool, goldenKey(), returns(idem.Response{Status: 1})))
	if !isError || e.Op != "do" {
		t.Errorf("%#v", e)
	}
}

// Case 101: the application's role needs SELECT, INSERT and UPDATE, and nothing else.
func TestRole_case101_dmlOnly(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		grants := []string{`GRANT USAGE ON SCHEMA idem TO %s`, `GRANT SELECT, INSERT, UPDATE ON idem.keys TO %s`, `GRANT INSERT ON public.orders TO %s`}
		noError(t, asRole(t, pool, grants, func(app *pgxpool.Pool) error {
			store(t, pool, keyFor("expired"), "old", "now() - interval '2 days'", "now() - interval '1 day'")
			for name, call := range map[string]caller{"by-run": idem.Run, "by-do": do, "expired": idem.Run} {
				var c counter
				first, err := call(t.Context(), app, keyFor(name), c.order(name))
				noError(t, err)
				for _, opts := range [][]idem.Option{nil, {idem.WithReplicatedReplay()}} {
					replay, err := call(t.Context(), app, keyFor(name), never(t), opts...)
					noError(t, err)
					same(t, first, replay)
				}
				one(t, pool, name)
			}
			return nil
		}))
	})
}

// A row that a policy hides is neither replayed nor run over: the unique constraint knows of it.
func TestRole_rowLevelSecurity(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	for _, sql := range []string{
		`ALTER TABLE idem.keys ENABLE ROW LEVEL SECURITY`,
		`CREATE POLICY others ON idem.keys USING (project <> 'acme') WITH CHECK (true)`,
	} {
		exec(t, pool, sql)
	}
	_, err := idem.Run(t.Context(), pool, keyFor("k"), returns(idem.Response{})) // the owner sees every row
	noError(t, err)
	grants := []string{`GRANT USAGE ON SCHEMA idem TO %s`, `GRANT SELECT, INSERT, UPDATE ON idem.keys TO %s`, `GRANT INSERT ON public.orders TO %s`}
	_ = asRole(t, pool, grants, func(app *pgxpool.Pool) error {
		_, err := idem.Run(t.Context(), app, keyFor("k"), thenFail("k", nil))
		if want(t, err, idem.ErrConflict); !strings.Contains(err.Error(), "row-level security") {
			t.Errorf("no word of the policy: %v", err)
		}
		_, err = do(t.Context(), app, keyFor("k"), thenFail("k", nil))
		if !hasState(err, "42501") {
			t.Errorf("Do answers %v", err)
		}
		return nil
	})
	if n := orders(t, pool, "k"); n != 0 {
		t.Errorf("%d orders", n)
	}
}

// One transaction with more keys than the lock table holds is told what to do.
func TestDo_outOfLocks(t *testing.T) {
	t.Parallel()
	server := pgtest.Cluster(t, localpg.Options{Settings: map[string]string{"max_connections": "5", "max_locks_per_transaction": "10"}})
	url, err := server.CreateDatabase(t.Context(), "locks", "")
	noError(t, err)
	noError(t, migrate(t.Context(), url))
	pool := connect(t, url)
	tx := begin(t, pool)
	for i := range 20000 {
		if _, err = idem.Do(t.Context(), tx, keyFor(fmt.Sprint(i)), ok); err != nil {
			break
		}
	}
	e, isError := errors.AsType[*idem.Error](err)
	if !hasState(err, "53200") || !isError || !strings.Contains(e.Hint, "max_locks_per_transaction") {
		t.Errorf("%v", err)
	}
	_ = tx.Rollback(t.Context())
	pool.Close()
}

// unknownOutcome loses the answer to COMMIT when the caller's time is over: nobody may take that for a failure.
func unknownOutcome(t *testing.T, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lossy, spy := spied(t, alone(t, pool))
	_, err := idem.Run(ctx, lossy, keyFor("k"), ok) // from now on the statements are prepared
	noError(t, err)
	spy.on(func(flight string) {
		if flight == record {
			exec(t, pool, `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
				WHERE datname = current_database() AND state = 'idle in transaction'`)
			cancel()
		}
	}, nil)
	_, err = idem.Run(ctx, lossy, goldenKey(), ok)
	want(t, err, context.Canceled) // the cause is reachable
	return err
}

var errorCases = []errorCase{
	{
		"no project", withKey(func(k *idem.Key) { k.Project = "" }), idem.ErrInvalidKey,
		`idem: invalid key (the project is empty): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"long project", withKey(func(k *idem.Key) { k.Project = strings.Repeat("ä", 128) }), idem.ErrInvalidKey,
		`idem: invalid key (project "ääääääääääääääääääääääääääääääää…", endpoint "POST /applications", key 3b1e…; the project has 256 bytes, at most 255 are allowed): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"project not UTF-8", withKey(func(k *idem.Key) { k.Project = "ac\xffme" }), idem.ErrInvalidKey,
		`idem: invalid key (project "ac\xffme", endpoint "POST /applications", key 3b1e…; the project is not valid UTF-8): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"project with NUL", withKey(func(k *idem.Key) { k.Project = "ac\x00me" }), idem.ErrInvalidKey,
		`idem: invalid key (project "ac\x00me", endpoint "POST /applications", key 3b1e…; the project holds a NUL byte): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"no endpoint", withKey(func(k *idem.Key) { k.Endpoint = "" }), idem.ErrInvalidKey,
		`idem: invalid key (project "acme", endpoint "", key 3b1e…; the endpoint is empty): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"long endpoint", withKey(func(k *idem.Key) { k.Endpoint = strings.Repeat("x", 513) }), idem.ErrInvalidKey,
		`idem: invalid key (project "acme", endpoint "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…", key 3b1e…; the endpoint has 513 bytes, at most 512 are allowed): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"no key", withKey(func(k *idem.Key) { k.Value = "" }), idem.ErrInvalidKey,
		`idem: invalid key (the key is empty): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"long key", withKey(func(k *idem.Key) { k.Value = strings.Repeat("x", 256) }), idem.ErrInvalidKey,
		`idem: invalid key (project "acme", endpoint "POST /applications", key xxxx…; the key has 256 bytes, at most 255 are allowed): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"key with space", withKey(func(k *idem.Key) { k.Value = "a b" }), idem.ErrInvalidKey,
		`idem: invalid key (project "acme", endpoint "POST /applications", key a…; the key has byte 0x20 at offset 1, only printable ASCII (0x21 to 0x7E) is allowed): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"key with line break", withKey(func(k *idem.Key) { k.Value = "\n\x1b[31m red" }), idem.ErrInvalidKey,
		`idem: invalid key (project "acme", endpoint "POST /applications", key \n\x1b[3…; the key has byte 0x0A at offset 0, only printable ASCII (0x21 to 0x7E) is allowed): a key names its project, its endpoint and the client's Idempotency-Key`, false,
	},
	{
		"no hash", withKey(func(k *idem.Key) { k.RequestHash = idem.Hash{} }), idem.ErrInvalidKey,
		`idem: invalid key (project "acme", endpoint "POST /applications", key 3b1e…; the request hash is zero): set it with HashRequest, or say WithoutRequestHash`, false,
	},
	{
		"hash and WithoutRequestHash", withOption(idem.WithoutRequestHash()), idem.ErrInvalidCall,
		`idem: invalid call (a request hash was given together with WithoutRequestHash): leave one of them out`, false,
	},
	{
		"TTL 0", withOption(idem.WithTTL(0)), idem.ErrInvalidCall,
		`idem: invalid call (the TTL is 0s): it must be above 0, and longer than clients retry`, false,
	},
	{
		"negative wait", withOption(idem.WithWait(-1)), idem.ErrInvalidCall,
		`idem: invalid call (the wait is -1ns): it must not be negative; 0 answers at once`, false,
	},
	{
		"negative limit", withOption(idem.WithMaxBody(-1)), idem.ErrInvalidCall,
		`idem: invalid call (the body limit is -1 bytes): it must be between 0 and 67108864`, false,
	},
	{
		"limit too high", withOption(idem.WithMaxBody(64<<20 + 1)), idem.ErrInvalidCall,
		`idem: invalid call (the body limit is 67108865 bytes): it must be between 0 and 67108864`, false,
	},
	{
		"nil option", withOption(nil), idem.ErrInvalidCall,
		`idem: invalid call (option 0 is nil): leave it out`, false,
	},
	{
		"nil fn", func(t *testing.T, pool *pgxpool.Pool) error { return inRun(t, pool, goldenKey(), nil) }, idem.ErrInvalidCall,
		`idem: invalid call (the function is nil): pass the function that does the work`, false,
	},
	{
		"nil pool", func(t *testing.T, _ *pgxpool.Pool) error { return inRun(t, nil, goldenKey(), ok) }, idem.ErrInvalidCall,
		`idem: invalid call (the transaction or pool is nil): pass Do the caller's transaction, Run a pool`, false,
	},
	{
		"nil tx", func(t *testing.T, _ *pgxpool.Pool) error {
			_, err := idem.Do(t.Context(), nil, goldenKey(), ok)
			return err
		}, idem.ErrInvalidCall,
		`idem: invalid call (the transaction or pool is nil): pass Do the caller's transaction, Run a pool`, false,
	},
	{
		"reused", func(t *testing.T, pool *pgxpool.Pool) error {
			noError(t, inRun(t, pool, goldenKey(), ok))
			key := goldenKey()
			key.RequestHash[0]++
			return inRun(t, pool, key, ok)
		}, idem.ErrKeyReused,
		`idem: key reused with a different request (project "acme", endpoint "POST /applications", key 3b1e…; first used ‹…›): a new operation needs a new key`, false,
	},
	{
		"in progress", func(t *testing.T, pool *pgxpool.Pool) error {
			_, err := idem.Do(t.Context(), begin(t, pool), goldenKey(), ok)
			noError(t, err)
			return inRun(t, pool, goldenKey(), ok, idem.WithWait(0))
		}, idem.ErrInProgress,
		`idem: key in progress (project "acme", endpoint "POST /applications", key 3b1e…): another transaction holds it: retry with the same key after a moment`, false,
	},
	{
		"conflict", func(t *testing.T, pool *pgxpool.Pool) error {
			return inDo(t, pool, keyFor("k"), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				return idem.Response{}, recordedByAnother(ctx, tx)
			})
		}, idem.ErrConflict,
		`idem: key recorded by another transaction meanwhile (project "acme", endpoint "POST /orders", key …): roll back and retry with the same key`, false,
	},
	{
		"serialization failure", func(t *testing.T, pool *pgxpool.Pool) error {
			tx := begin(t, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
			_, err := tx.Exec(t.Context(), `SELECT count(*) FROM public.orders`)
			noError(t, err)
			noError(t, inRun(t, pool, goldenKey(), ok))
			_, err = idem.Do(t.Context(), tx, goldenKey(), ok)
			return err
		}, nil,
		`idem: ERROR: could not serialize access due to concurrent update (SQLSTATE 40001) (project "acme", endpoint "POST /applications", key 3b1e…): roll back and retry the whole transaction with the same key`, false,
	},
	{
		"nested", func(t *testing.T, pool *pgxpool.Pool) error {
			return inRun(t, pool, goldenKey(), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				return idem.Do(ctx, tx, goldenKey(), ok)
			})
		}, idem.ErrNested,
		`idem: key used inside its own function (project "acme", endpoint "POST /applications", key 3b1e…): the operation would wait for itself: use another key, or key.Derive`, false,
	},
	{
		"no table", after(`DROP TABLE idem.keys`), idem.ErrNoSchema,
		`idem: table idem.keys does not exist: run "idem migrate up", or goose with the files in migrations/ [error preprocessing batch (prepare): ERROR: relation "idem.keys" does not exist (SQLSTATE 42P01)]`, true,
	},
	{
		"no schema", after(`DROP SCHEMA idem CASCADE`), idem.ErrNoSchema,
		`idem: table idem.keys does not exist: run "idem migrate up", or goose with the files in migrations/ [error preprocessing batch (prepare): ERROR: relation "idem.keys" does not exist (SQLSTATE 42P01)]`, true,
	},
	{
		"no column", after(`ALTER TABLE idem.keys RENAME response_header TO header`), idem.ErrNoSchema,
		`idem: table idem.keys lacks a column: run "idem migrate up", or goose with the files in migrations/ [error preprocessing batch (prepare): ERROR: column "response_header" does not exist (SQLSTATE 42703)]`, true,
	},
	{
		"no unique index", func(t *testing.T, pool *pgxpool.Pool) error {
			exec(t, pool, `ALTER TABLE idem.keys DROP CONSTRAINT keys_pkey`)
			return inDo(t, pool, goldenKey(), ok)
		}, idem.ErrNoSchema,
		`idem: table idem.keys lacks its unique index on (project, endpoint, key): run "idem doctor" [ERROR: there is no unique or exclusion constraint matching the ON CONFLICT specification (SQLSTATE 42P10)]`, true,
	},
	{
		"no privilege", func(t *testing.T, pool *pgxpool.Pool) error {
			return asRole(t, pool, nil, func(app *pgxpool.Pool) error { return inRun(t, app, goldenKey(), ok) })
		}, nil,
		`idem: error preprocessing batch (prepare): ERROR: permission denied for schema idem (SQLSTATE 42501): the application's role needs USAGE on schema idem and SELECT, INSERT, UPDATE on idem.keys; the reaper's SELECT and DELETE, and SELECT, INSERT, UPDATE on idem.reaper`, false,
	},
	{
		"no privilege to insert", func(t *testing.T, pool *pgxpool.Pool) error {
			return asRole(t, pool, []string{`GRANT USAGE ON SCHEMA idem TO %s`, `GRANT SELECT ON idem.keys TO %s`},
				func(app *pgxpool.Pool) error { return inRun(t, app, goldenKey(), ok) })
		}, nil,
		`idem: ERROR: permission denied for table keys (SQLSTATE 42501): the application's role needs USAGE on schema idem and SELECT, INSERT, UPDATE on idem.keys; the reaper's SELECT and DELETE, and SELECT, INSERT, UPDATE on idem.reaper`, false,
	},
	{
		"body too large", func(t *testing.T, pool *pgxpool.Pool) error {
			return inRun(t, pool, goldenKey(), returns(idem.Response{Body: make([]byte, 11)}), idem.WithMaxBody(10))
		}, idem.ErrResponseTooLarge,
		`idem: response too large to record (project "acme", endpoint "POST /applications", key 3b1e…; the body has 11 bytes, at most 10 are allowed): return less, such as a reference to the result, or raise the limit with WithMaxBody`, false,
	},
	{
		"header too large", func(t *testing.T, pool *pgxpool.Pool) error {
			return inRun(t, pool, goldenKey(), returns(idem.Response{Header: map[string][]string{"X": {strings.Repeat("x", 1<<16)}}}))
		}, idem.ErrResponseTooLarge,
		`idem: response too large to record (project "acme", endpoint "POST /applications", key 3b1e…; the header takes 65543 bytes, at most 65536 are allowed): keep fewer header fields`, false,
	},
	{
		"status", func(t *testing.T, pool *pgxpool.Pool) error {
			return inRun(t, pool, goldenKey(), returns(idem.Response{Status: 20}))
		}, idem.ErrInvalidCall,
		`idem: invalid call (project "acme", endpoint "POST /applications", key 3b1e…; the response has status 20): a status is 100 to 999, or 0 for none`, false,
	},
	{
		"refusal in Do", func(t *testing.T, pool *pgxpool.Pool) error {
			return inDo(t, pool, goldenKey(), thenFail("k", idem.Refuse(declined)))
		}, idem.ErrInvalidCall,
		`idem: invalid call (project "acme", endpoint "POST /applications", key 3b1e…; fn refused, and Do cannot undo its writes in the caller's transaction): use WithSavepoint or Run, or return the response where fn has written nothing`, false,
	},
	{
		"read-only", withOption(idem.WithTxOptions(pgx.TxOptions{AccessMode: pgx.ReadOnly})), idem.ErrReadOnly,
		`idem: transaction is read-only (project "acme", endpoint "POST /applications", key 3b1e…): use a read-write transaction on the primary`, false,
	},
	{
		"aborted before", func(t *testing.T, pool *pgxpool.Pool) error {
			tx := begin(t, pool)
			_, _ = tx.Exec(t.Context(), `SELECT 1/0`)
			_, err := idem.Do(t.Context(), tx, goldenKey(), ok)
			return err
		}, idem.ErrTxAborted,
		`idem: transaction is aborted (project "acme", endpoint "POST /applications", key 3b1e…): an earlier statement failed in it: roll back and retry with the same key`, false,
	},
	{
		"aborted in fn", func(t *testing.T, pool *pgxpool.Pool) error {
			return inRun(t, pool, goldenKey(), func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				_, _ = tx.Exec(ctx, `SELECT 1/0`)
				return idem.Response{}, nil
			})
		}, idem.ErrTxAborted,
		`idem: transaction is aborted (project "acme", endpoint "POST /applications", key 3b1e…; a statement of fn failed and fn returned no error): return the error from fn; roll back and retry with the same key`, false,
	},
	{
		"ended before", func(t *testing.T, pool *pgxpool.Pool) error {
			tx := begin(t, pool)
			noError(t, tx.Commit(t.Context()))
			_, err := idem.Do(t.Context(), tx, goldenKey(), ok)
			return err
		}, idem.ErrTxEnded,
		`idem: transaction has ended (project "acme", endpoint "POST /applications", key 3b1e…): begin a new one and pass it to Do`, false,
	},
	{
		"ended in fn", func(t *testing.T, pool *pgxpool.Pool) error { return inRun(t, pool, goldenKey(), fnThat("commit")) }, idem.ErrTxEnded,
		`idem: transaction has ended (project "acme", endpoint "POST /applications", key 3b1e…; fn committed or rolled it back): only the owner of the transaction ends it; what fn committed has no record`, false,
	},
	{
		"ended in fn and begun", func(t *testing.T, pool *pgxpool.Pool) error {
			return inRun(t, pool, goldenKey(), fnThat("commit and chain"))
		}, idem.ErrTxEnded,
		`idem: transaction has ended (project "acme", endpoint "POST /applications", key 3b1e…; fn ended it and began another): only the owner of the transaction ends it; what fn committed has no record`, false,
	},
	{
		"ended in a savepoint and begun", func(t *testing.T, pool *pgxpool.Pool) error {
			return inDo(t, pool, goldenKey(), fnThat("commit and chain"), idem.WithSavepoint())
		}, idem.ErrTxEnded,
		`idem: transaction has ended (project "acme", endpoint "POST /applications", key 3b1e…; fn ended it and began another): only the owner of the transaction ends it; what fn committed has no record`, false,
	},
	{
		"busy before", func(t *testing.T, pool *pgxpool.Pool) error {
			tx := begin(t, pool)
			rows, err := tx.Query(t.Context(), `SELECT pg_catalog.generate_series(1, 100000)`)
			noError(t, err)
			defer rows.Close()
			_, err = idem.Do(t.Context(), tx, goldenKey(), ok)
			return err
		}, idem.ErrInvalidCall,
		`idem: invalid call (project "acme", endpoint "POST /applications", key 3b1e…; a query is open on its connection): close its rows, or the batch's results, before Do`, false,
	},
	{
		"busy in fn", func(t *testing.T, pool *pgxpool.Pool) error { return inRun(t, pool, goldenKey(), leavesRowsOpen) }, idem.ErrInvalidCall,
		`idem: invalid call (project "acme", endpoint "POST /applications", key 3b1e…; fn left a query open): close its rows, or the batch's results, before fn returns`, false,
	},
	{
		"damaged header", func(t *testing.T, pool *pgxpool.Pool) error {
			noError(t, inRun(t, pool, goldenKey(), ok))
			exec(t, pool, `UPDATE idem.keys SET response_header = '\x0203'`)
			return inRun(t, pool, goldenKey(), ok)
		}, nil,
		`idem: stored header is damaged (project "acme", endpoint "POST /applications", key 3b1e…): somebody changed the row by hand: inspect it, then Forget the key`, false,
	},
	{
		"value of another type", func(t *testing.T, pool *pgxpool.Pool) error {
			_, err := idem.RunValue(t.Context(), pool, goldenKey(), func(context.Context, pgx.Tx) (string, error) { return "text", nil })
			noError(t, err)
			_, err = idem.RunValue(t.Context(), pool, goldenKey(), func(context.Context, pgx.Tx) (int, error) { return 0, nil })
			return err
		}, nil,
		`idem: json: cannot unmarshal string into Go value of type int (project "acme", endpoint "POST /applications", key 3b1e…): the recorded value does not fit the type; a type that changed needs a new endpoint name`, false,
	},
	{
		"COMMIT fails", func(t *testing.T, pool *pgxpool.Pool) error {
			exec(t, pool, `CREATE TABLE public.seats (seat integer UNIQUE DEFERRABLE INITIALLY DEFERRED)`)
			return inRun(t, pool, goldenKey(), fnThat(`INSERT INTO public.seats VALUES (1), (1)`))
		}, nil,
		`idem: ERROR: duplicate key value violates unique constraint "seats_seat_key" (SQLSTATE 23505) (project "acme", endpoint "POST /applications", key 3b1e…): COMMIT failed and nothing was written`, true,
	},
	{
		"outcome unknown", unknownOutcome, idem.ErrOutcomeUnknown,
		`idem: outcome of the commit is unknown (project "acme", endpoint "POST /applications", key 3b1e…): retry with the same key: it replays what committed, or runs [at COMMIT: ‹…›; at the look-up: context canceled]`, false,
	},
}

// A short key is not shown whole either, and an invalid one does nothing to the line that it is logged in.
func TestError_case104_shortAndInvalidKeys(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"1", "ab", "abc", "1234", "12345", "a\nb\x1b[31mc", "éééé", "ab\xffcd", "\u202e\u202e\u202eabc"} {
		key := keyFor(value)
		key.RequestHash = idem.Hash{}
		text := inRun(t, new(pgxpool.Pool), key, ok).Error() // nothing is sent
		if !strings.Contains(text, "key ") || strings.Contains(text, "key "+value) ||
			strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(text) {
			t.Errorf("%q: %q", value, text)
		}
	}
}
