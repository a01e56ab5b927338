package idem

import "time"

// LockID is the advisory lock of a key.
func LockID(k Key) int64 { return k.lockID() }

// Statements are the core's statements by their names.
var Statements = map[string]string{
	"lock": sqlLock, "look": sqlLook, "look replicated": sqlLookReplicated,
	"record": sqlRecord, "record over": sqlRecordOver, "fail": sqlFail,
}

// LiveAt reports whether judge takes a record that expires at expires for a live one when the clock says now.
func LiveAt(expires, now time.Time) bool {
	c := call{config: config{noHash: true}}
	v, _, _ := c.judge(sight{now: now, locked: true, record: &record{expires: expires}})
	return v == verdictReplay
}

// Limits of Run's retries.
const (
	MostConflicts = mostConflicts
	MostLostRuns  = mostLostRuns
)
