// Package localpg provides a private PostgreSQL for demos and tests.
//
// [Start] takes the first of these that there is:
//
//  1. the server that IDEM_DATABASE_URL names: databases are created on it and
//     dropped again, nothing else on it is touched;
//  2. server binaries on this machine: IDEM_PG_BINDIR, PATH, pg_config, and the
//     places where packages put them;
//  3. Docker, by its command line; IDEM_TEST_IMAGE names the image;
//  4. [Options].Download, for callers that know how to fetch a server.
//
// Otherwise it returns [ErrNoDatabase], and the message says what to do.
//
// From binaries it makes a cluster of its own in a new directory below the
// temporary directory and listens on a unix socket there, so that any number of
// clusters run side by side. A data directory fresh from initdb is kept in the
// user's cache directory and copied from then on. When run as root, the server
// runs as the user postgres or nobody.
//
// Nothing is left behind, whether the program calls [Server.Stop], panics, or is
// killed: a watchdog, a shell that waits for the end of a pipe whose other end
// the program holds, stops the server and removes its directory. (Not on
// Windows; there only Stop cleans up.) On a server that IDEM_DATABASE_URL names, databases
// of a killed program go with the first Start that comes a day later.
//
// Everybody may log in as the superuser who can reach the server: on the unix
// socket only this user (its directory is closed to others), with [Options].TCP
// every user of this machine.
//
// Tests use the package pgtest below this one.
package localpg
