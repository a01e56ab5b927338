package idem

// What the tests of the reaper, which stand outside the package, look at.
const (
	SQLReapDelete = sqlReapDelete
	SQLReapPeek   = sqlReapPeek
	ReaperLock    = reaperLock
)

var ReapSettings = reapSettings
