// Package pgtest gives every test a PostgreSQL database of its own.
//
//	func TestMain(m *testing.M) {
//		os.Exit(pgtest.Main(m, localpg.Options{}, migrate))
//	}
//
//	func TestTransfer(t *testing.T) {
//		t.Parallel()
//		pool, err := pgxpool.New(t.Context(), pgtest.New(t))
//		…
//	}
//
// One server serves a test binary (package localpg says where it comes from). It
// is started when the first test asks for a database, so that tests that need none
// run without. The migrations run once, on a template; a test gets a copy of it.
//
// Without any server the tests fail, with a message that says what to do.
//
//   - IDEM_TEST_SKIP_DB=1 skips the tests that need a database.
//   - IDEM_TEST_KEEP=1 keeps the database of a failed test and logs its URL.
package pgtest
