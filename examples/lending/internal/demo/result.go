package demo

import "time"

// Result is what a run of the demo found.
type Result struct {
	Protected bool   // by idempotency keys
	Database  string // version and origin
	Seed      uint64
	Planned   int // operations
	Projects  []string
	Elapsed   time.Duration // from the first request to the last answer

	Rows   []Row // by endpoint
	Total  Row
	Checks []Check

	// Money in the smallest unit: what the accounts were charged, and what the partners were told.
	Charged, Acknowledged int64

	// ServerErrors are the first lines that the servers logged and that were not asked for.
	ServerErrors []string
}

// OK says whether everything held.
func (r *Result) OK() bool {
	for _, c := range r.Checks {
		if c.Bad > 0 {
			return false
		}
	}
	return true
}

// Row is a line of the table.
type Row struct {
	Endpoint   string
	Operations int

	Sent   int // requests that left the clients
	Panics int // of them, how many ended in a panic between write and commit
	Cut    int // of them, how many the client cut off before the answer

	Run      int // operations done: rows in the business table
	Refused  int // operations declined and remembered: records in idem.keys
	Replayed int // requests answered from a record, as the servers count them
	Reused   int // requests with another body under the same key, answered 422, as the servers count them
	Waited   int // requests that waited for another one with the same key, as the servers count them

	Duplicates int // business rows beyond one per operation
	Lost       int // operations acknowledged whose row is not there
	Differ     int // answers that are not byte for byte the operation's first or the recorded one
}

func (r *Row) add(o Row) {
	r.Operations += o.Operations
	r.Sent += o.Sent
	r.Panics += o.Panics
	r.Cut += o.Cut
	r.Run += o.Run
	r.Refused += o.Refused
	r.Replayed += o.Replayed
	r.Reused += o.Reused
	r.Waited += o.Waited
	r.Duplicates += o.Duplicates
	r.Lost += o.Lost
	r.Differ += o.Differ
}

// Check is something that must hold.
type Check struct {
	Claim    string
	Bad      int      // how many times it did not
	Examples []string // the first of them
	Look     string   // SQL to look at one
}
