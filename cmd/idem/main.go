// Command idem is the operator's tool for idempotency keys in PostgreSQL: it migrates the schema, deletes expired records
// and says whether a database keeps the promise.
//
//	idem migrate up
//	idem reap
//	idem doctor
//
// Every command explains itself with --help.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
