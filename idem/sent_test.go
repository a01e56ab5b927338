package idem_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/idem"
)

const (
	runLook  = "begin + idem: lock + idem: look"
	doLook   = "idem: lock + idem: look"
	record   = "idem: record + commit"
	takeover = "idem: record over"
)

// What travels in which flight, for each way that a call can end. Whatever pgx sends to prepare a statement for the first
// time is not in it.
func TestSent(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		pool, spy := spied(t, pool)
		reused := keyFor("run")
		reused.RequestHash[0]++
		ctx := t.Context()
		work := func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, err := tx.Exec(ctx, `SELECT 'work'`)
			return idem.Response{}, err
		}
		fails := func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, _ = work(ctx, tx)
			return idem.Response{}, errOutOfStock
		}
		refuses := func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
			_, _ = work(ctx, tx)
			return idem.Response{}, idem.Refuse(declined)
		}
		business := "SELECT 'work'"
		run := func(value string, fn idem.Func, opts ...idem.Option) func() {
			return func() { _, _ = idem.Run(ctx, pool, keyFor(value), fn, append(opts, idem.WithWait(0))...) }
		}
		inTx := func(value string, fn idem.Func, opts ...idem.Option) func() {
			return func() {
				tx := begin(t, pool)
				_, err := idem.Do(ctx, tx, keyFor(value), fn, opts...)
				if err == nil {
					noError(t, tx.Commit(ctx))
				} else {
					noError(t, tx.Rollback(ctx))
				}
			}
		}
		store(t, pool, keyFor("expired"), "old", "now() - interval '2 days'", "now() - interval '1 day'")
		store(t, pool, keyFor("expired2"), "old", "now() - interval '2 days'", "now() - interval '1 day'")
		for _, tt := range []struct {
			name string
			call func()
			want []string
		}{
			{"Run", run("run", work), []string{runLook, business, record}},
			{"Run replays", run("run", work), []string{runLook, "commit"}},
			{"Run reused", func() { _, _ = idem.Run(ctx, pool, reused, work) }, []string{runLook, "rollback"}},
			{"Run fails", run("fails", fails), []string{runLook, business, "rollback"}},
			{"Run refuses", run("refused", refuses), []string{runLook, business, "rollback", runLook, record}},
			{
				"Run refuses in a savepoint", run("refused2", refuses, idem.WithSavepoint()),
				[]string{runLook, "savepoint sp_1", business, "rollback to savepoint sp_1", record},
			},
			{"Run takes over", run("expired", work), []string{runLook, business, takeover, "commit"}},
			{"Run invalid", run("", work), nil},
			{"Do", inTx("do", work), []string{"begin", doLook, business, takeover, "commit"}},
			{"Do replays", inTx("do", work), []string{"begin", doLook, "commit"}},
			{"Do fails", inTx("fails", fails), []string{"begin", doLook, business, "idem: fail", "rollback"}},
			{
				"Do in a savepoint", inTx("savepoint", work, idem.WithSavepoint()),
				[]string{"begin", doLook, "savepoint sp_1", business, "release savepoint sp_1", takeover, "commit"},
			},
			{
				"Do fails in a savepoint", inTx("fails", fails, idem.WithSavepoint()),
				[]string{"begin", doLook, "savepoint sp_1", business, "rollback to savepoint sp_1", "rollback"},
			},
			{"Do takes over", inTx("expired2", work), []string{"begin", doLook, business, takeover, "commit"}},
			{"Do invalid", inTx("", work), []string{"begin", "rollback"}},
		} {
			spy.taken()
			tt.call()
			if sent := spy.taken(); !slices.Equal(sent, tt.want) {
				t.Errorf("%s sent\n%q, want\n%q", tt.name, sent, tt.want)
			}
		}
	})
}

// A replay is a read: it gives its transaction no id, and so writes no WAL and leaves nothing to vacuum.
func TestSent_replayWritesNothing(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		_, err := idem.Run(t.Context(), pool, keyFor("k"), returns(idem.Response{}))
		noError(t, err)
		reused := keyFor("k")
		reused.RequestHash[0]++
		for _, tt := range []struct {
			key   idem.Key
			opts  []idem.Option
			wrote bool
		}{
			{keyFor("k"), nil, false},
			{reused, nil, false},
			{keyFor("k"), []idem.Option{idem.WithReplicatedReplay()}, true}, // so that COMMIT waits for the standby
		} {
			tx := begin(t, pool)
			_, _ = idem.Do(t.Context(), tx, tt.key, never(t), tt.opts...)
			var wrote bool
			noError(t, tx.QueryRow(t.Context(), `SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL`).Scan(&wrote))
			if wrote != tt.wrote {
				t.Errorf("the transaction of a replay with %d options has an id: %v", len(tt.opts), wrote)
			}
			noError(t, tx.Commit(t.Context()))
		}
	})
}

// A key that was acknowledged survives a crash also in a session that asked for less, and the session is left as it was.
func TestSent_synchronousCommit(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, tt := range []struct{ session, want string }{
			{"off", "on"}, {"on", "on"}, {"local", "local"}, {"remote_write", "remote_write"}, {"remote_apply", "remote_apply"},
		} {
			empty(t, pool)
			cfg := pool.Config()
			cfg.MaxConns = 1
			cfg.ConnConfig.RuntimeParams["synchronous_commit"] = tt.session
			one, err := pgxpool.NewWithConfig(t.Context(), cfg)
			noError(t, err)
			show := func(q interface {
				QueryRow(context.Context, string, ...any) pgx.Row
			},
			) (s string) {
				noError(t, q.QueryRow(t.Context(), `SELECT pg_catalog.current_setting('synchronous_commit')`).Scan(&s))
				return s
			}
			inside := func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
				if got := show(tx); got != tt.want {
					t.Errorf("synchronous_commit is %s in fn where the session has %s, want %s", got, tt.session, tt.want)
				}
				return idem.Response{}, nil
			}
			_, err = idem.Run(t.Context(), one, keyFor("run"), inside)
			noError(t, err)
			if got := show(one); got != tt.session {
				t.Errorf("Run left synchronous_commit at %s, the session had %s", got, tt.session)
			}
			tx := begin(t, one)
			_, err = idem.Do(t.Context(), tx, keyFor("do"), inside)
			noError(t, err)
			if got := show(tx); got != tt.want {
				t.Errorf("synchronous_commit is %s when the caller commits", got)
			}
			noError(t, tx.Commit(t.Context()))
			if got := show(one); got != tt.session {
				t.Errorf("Do left synchronous_commit at %s, the session had %s", got, tt.session)
			}
			one.Close()
		}
	})
}

func TestReadOnly(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		_, err := idem.Run(t.Context(), pool, keyFor("recorded"), returns(idem.Response{}))
		noError(t, err)
		readOnly := pgx.TxOptions{AccessMode: pgx.ReadOnly}
		for _, value := range []string{"k", "recorded"} { // replays are not read there either
			for _, opts := range [][]idem.Option{nil, {idem.WithReplicatedReplay()}} {
				_, err := idem.Run(t.Context(), pool, keyFor(value), never(t), append(opts, idem.WithTxOptions(readOnly))...)
				want(t, err, idem.ErrReadOnly)
				tx := begin(t, pool, readOnly)
				_, err = idem.Do(t.Context(), tx, keyFor(value), never(t), opts...)
				want(t, err, idem.ErrReadOnly)
				noError(t, tx.Rollback(t.Context()))
			}
		}
		// A session that is read-only by default, as on some poolers in front of standbys.
		cfg := pool.Config()
		cfg.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
		standby, err := pgxpool.NewWithConfig(t.Context(), cfg)
		noError(t, err)
		defer standby.Close()
		_, err = idem.Run(t.Context(), standby, keyFor("k"), never(t))
		want(t, err, idem.ErrReadOnly)
		var c counter
		_, err = idem.Run(t.Context(), standby, keyFor("k"), c.order("k"), idem.WithTxOptions(pgx.TxOptions{AccessMode: pgx.ReadWrite}))
		noError(t, err)
		one(t, pool, "k")
	})
}

// The session's search_path and its temporary objects cannot put other tables, functions, types or operators in the place of those
// that are meant: that is how the same payment is taken twice.
func TestSent_shadowedNames(t *testing.T) {
	inAllModes(t, func(t *testing.T, pool *pgxpool.Pool) {
		first, err := idem.Run(t.Context(), pool, keyFor("k"), returns(idem.Response{Body: []byte("x")}))
		noError(t, err)
		exec(t, pool, `DROP SCHEMA IF EXISTS evil CASCADE`)
		for _, sql := range []string{
			`CREATE SCHEMA evil`,
			`CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '3000-01-01'::timestamptz $$`,
			`CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '3000-01-01'::timestamptz $$`,
			`CREATE FUNCTION evil.pg_try_advisory_xact_lock(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
			`CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'on'::text $$`,
			`CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'on'::text $$`,
			`CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'`,
			`CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never)`,
			`CREATE FUNCTION evil.late(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
			`CREATE OPERATOR evil.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.late)`,
			`CREATE OPERATOR evil.= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.late)`,
			`CREATE FUNCTION evil.zero(integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT 0'`,
			`CREATE OPERATOR evil./ (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.zero)`,
			`CREATE TABLE evil.keys (LIKE idem.keys INCLUDING ALL)`,
			`CREATE DOMAIN evil.text AS pg_catalog.text CHECK (value = '')`,
			`CREATE DOMAIN evil.bytea AS pg_catalog.bytea CHECK (value = '')`,
			`CREATE DOMAIN evil.timestamptz AS pg_catalog.date`,
		} {
			exec(t, pool, sql)
		}
		cfg := pool.Config()
		cfg.ConnConfig.RuntimeParams["search_path"] = "evil, pg_catalog, idem, public"
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `CREATE TEMPORARY TABLE keys (LIKE idem.keys INCLUDING ALL); CREATE TEMPORARY TABLE text (t pg_catalog.int4)`, pgx.QueryExecModeSimpleProtocol)
			return err
		}
		trapped, err := pgxpool.NewWithConfig(t.Context(), cfg)
		noError(t, err)
		defer trapped.Close()
		for _, call := range []caller{idem.Run, do} {
			replay, err := call(t.Context(), trapped, keyFor("k"), never(t))
			noError(t, err)
			same(t, first, replay)
			reused := keyFor("k")
			reused.RequestHash[0]++
			_, err = call(t.Context(), trapped, reused, never(t))
			want(t, err, idem.ErrKeyReused)
		}
		for name, call := range map[string]caller{"by-run": idem.Run, "by-do": do} {
			first, err := call(t.Context(), trapped, keyFor(name), returns(idem.Response{Status: 201}))
			noError(t, err)
			if records(t, pool, name) != 1 {
				t.Errorf("the record of %s is not in idem.keys", name)
			}
			replay, err := idem.Run(t.Context(), pool, keyFor(name), never(t))
			noError(t, err)
			same(t, first, replay)
		}
	})
}

// Settings that an application may have for its sessions change nothing.
func TestSent_sessionSettings(t *testing.T) {
	both(t, func(t *testing.T, pool *pgxpool.Pool, call caller) {
		for name, value := range map[string]string{
			"timezone": "Asia/Kathmandu", "lock_timeout": "1", "plan_cache_mode": "force_generic_plan", "enable_indexscan": "off",
			"default_transaction_isolation": "repeatable read", "default_transaction_deferrable": "on", "row_security": "off",
			"client_min_messages": "debug5", "extra_float_digits": "-5", "standard_conforming_strings": "on", "transform_null_equals": "on",
		} {
			empty(t, pool)
			cfg := pool.Config()
			cfg.ConnConfig.RuntimeParams[name] = value
			session, err := pgxpool.NewWithConfig(t.Context(), cfg)
			noError(t, err)
			var c counter
			first, err := call(t.Context(), session, keyFor("k"), c.order("k"))
			if err != nil {
				t.Errorf("%s = %s: %v", name, value, err)
			}
			replay, err := call(t.Context(), pool, keyFor("k"), never(t))
			noError(t, err)
			same(t, first, replay)
			session.Close()
		}
	})
}

// With many records the look reads the index of the primary key, whatever plan PostgreSQL makes: for these values, or one
// for all values.
func TestSent_case106_lookIsAnIndexLookup(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	exec(t, pool, `INSERT INTO idem.keys (project, endpoint, key, request_hash, response_status, response_header, response_body, created_at, expires_at)
		SELECT 'p' || i % 7, 'POST /' || i % 3, md5(i::text), decode(repeat('00', 32), 'hex'), 200, '', '', now(), now() - interval '1 day' + i * interval '10 s' + interval '2 days'
		FROM generate_series(1, 50000) AS i`)
	exec(t, pool, `ANALYZE idem.keys`)
	conn, err := pool.Acquire(t.Context())
	noError(t, err)
	defer conn.Release()
	for _, name := range []string{"look", "look replicated"} {
		for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
			statement := strings.ReplaceAll(name, " ", "_") + mode
			for _, sql := range []string{
				`SET plan_cache_mode = ` + mode,
				`PREPARE ` + statement + ` (text, text, text) AS ` + idem.Statements[name],
			} {
				_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
				noError(t, err)
			}
			var plan []byte
			noError(t, conn.QueryRow(t.Context(), `EXPLAIN (FORMAT JSON) EXECUTE `+statement+` ('p1', 'POST /1', 'k')`, pgx.QueryExecModeSimpleProtocol).Scan(&plan))
			var nodes []map[string]any
			noError(t, json.Unmarshal(plan, &nodes))
			node := nodes[0]["Plan"].(map[string]any)
			if node["Node Type"] == "LockRows" {
				node = node["Plans"].([]any)[0].(map[string]any)
			}
			cond := fmt.Sprint(node["Index Cond"])
			if node["Node Type"] != "Index Scan" || node["Index Name"] != "keys_pkey" ||
				!strings.Contains(cond, "project") || !strings.Contains(cond, "endpoint") || !strings.Contains(cond, "key") || node["Filter"] != nil {
				t.Errorf("%s, %s: %s", name, mode, plan)
			}
		}
	}
}
