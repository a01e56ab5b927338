// Package integration proves package idem against real parts and real faults:
// the goose command, PgBouncer, server processes that are killed, connections
// that are cut at a chosen message. It holds tests only.
//
// It is a module of its own, so that what only tests need raises no version for
// those who import package idem. README.md says how to run it and where a new
// test belongs.
package integration
