package idem

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The errors that calls answer, for errors.Is. They come wrapped in an *Error that says which key and what to do. Unless
// an error says otherwise, nothing was recorded and the same key may be sent again.
var (
	// ErrInvalidKey means that the Key cannot name an operation. Nothing was sent to the database. Answer 400.
	ErrInvalidKey = errors.New("idem: invalid key")

	// ErrInvalidCall means that the call itself is wrong, whatever the key: a nil function, a TTL that is not above 0, a
	// refusal without a savepoint, a response that cannot be stored. It is a bug in the program.
	ErrInvalidCall = errors.New("idem: invalid call")

	// ErrKeyReused means that the key is recorded for a different request. Answer 422; a new operation needs a new key.
	ErrKeyReused = errors.New("idem: key reused with a different request")

	// ErrInProgress means that another transaction holds the key and did not end within the wait. Answer 409 and let the
	// client retry with the same key. The transaction given to Do is still usable.
	ErrInProgress = errors.New("idem: key in progress")

	// ErrConflict means that another transaction recorded the key while this one ran. The transaction must roll back; a
	// retry with the same key replays. Run retries by itself.
	ErrConflict = errors.New("idem: key recorded by another transaction meanwhile")

	// ErrNested means that fn called Do or Run with the key that it is running under.
	ErrNested = errors.New("idem: key used inside its own function")

	// ErrNoSchema means that the table idem.keys is missing, or is not what this package's migrations make it.
	ErrNoSchema error = schemaError("idem: table idem.keys does not exist")

	// ErrResponseTooLarge means that fn's response is over the limit. fn's writes are rolled back with it: there is no
	// "done but not stored".
	ErrResponseTooLarge = errors.New("idem: response too large to record")

	// ErrReadOnly means that the transaction is read-only, or runs on a standby. fn was not called. Replays are not read
	// there either: a standby may lag behind.
	ErrReadOnly = errors.New("idem: transaction is read-only")

	// ErrTxAborted means that a statement had failed in the transaction, before the call or inside fn. Roll back.
	ErrTxAborted = errors.New("idem: transaction is aborted")

	// ErrTxEnded means that the transaction was over: given to Do after its end, or ended by fn. In the second case fn's
	// writes may be durable without a record. An fn that ends the transaction, begins another and then returns an error of
	// its own is not found out.
	ErrTxEnded = errors.New("idem: transaction has ended")

	// ErrOutcomeUnknown means that the reply to COMMIT was lost and the key could not be looked up again in time. Retry
	// with the same key: the retry either replays or runs.
	ErrOutcomeUnknown = errors.New("idem: outcome of the commit is unknown")
)

// schemaError is ErrNoSchema, in the words that fit.
type schemaError string

func (e schemaError) Error() string        { return string(e) }
func (e schemaError) Is(target error) bool { return target == ErrNoSchema }

// Error says what a call failed on, with which key, why and what to do. errors.Is finds the sentinel (ErrKeyReused, …),
// errors.As the *pgconn.PgError behind it where there is one. What fn returns is never wrapped in it.
type Error struct {
	Op   string // the call: "do", "run", "reap", "forget", "check"
	Key  Key    // the key of the call; zero where there is none. Its Value is whole here: do not log the struct
	Err  error  // the sentinel, or the database's error where no sentinel fits
	Hint string // what to do about it

	detail string // a fact about this occurrence
	cause  error  // the database's error behind a sentinel
}

// Error returns the fact, the key cut to its first characters, the hint and the database's error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("idem: ")
	b.WriteString(strings.TrimPrefix(e.Err.Error(), "idem: "))
	var facts []string
	if e.Key.Value != "" && e.Key.Project != "" {
		facts = append(facts, fmt.Sprintf("project %q, endpoint %q, key %s", cut(e.Key.Project), cut(e.Key.Endpoint), e.Key.short()))
	}
	if e.detail != "" {
		facts = append(facts, e.detail)
	}
	if len(facts) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(facts, "; "))
	}
	if e.Hint != "" {
		b.WriteString(": ")
		b.WriteString(e.Hint)
	}
	if e.cause != nil {
		fmt.Fprintf(&b, " [%v]", e.cause)
	}
	return b.String()
}

// Unwrap returns the sentinel and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.cause}
}

// cut shortens a name that is too long to read.
func cut(s string) string {
	const n = 64
	if len(s) <= n {
		return s
	}
	i := n
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i] + "…"
}

// SQLSTATE codes that decide something (PostgreSQL documentation, appendix A).
const (
	stateReadOnly       = "25006"
	stateAborted        = "25P02"
	stateSerialization  = "40001"
	stateDeadlock       = "40P01"
	stateUnique         = "23505"
	stateDivisionByZero = "22012"
	statePrivilege      = "42501"
	stateNoTable        = "42P01"
	stateNoSchema       = "3F000"
	stateNoColumn       = "42703"
	stateNoArbiter      = "42P10"
	stateNoSavepoint    = "3B001"
	stateOutOfLocks     = "53200"
)

// sqlState returns the SQLSTATE of an error that a server sent, or "".
func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// fail makes an *Error for this call.
func (c *call) fail(sentinel error, detail, hint string) *Error {
	return &Error{Op: c.op, Key: c.key, Err: sentinel, Hint: hint, detail: detail}
}

// commitError is an error of COMMIT. The server's codes there speak of the user's tables and constraints, not of ours.
func (c *call) commitError(err error) error {
	e := &Error{Op: c.op, Key: c.key, Err: err, Hint: "COMMIT failed and nothing was written"}
	if lostRace(err) {
		e.Hint = "roll back and retry the whole transaction with the same key"
	}
	return e
}

// dbError explains what one of this package's own statements failed on.
func (c *call) dbError(err error) error {
	e := explain(c.op, c.key, err)
	if e.cause == nil && sqlState(err) == "" { // not the server's: a lost connection, a context that ended
		e.Hint = "nothing was committed: retry with the same key"
	}
	return e
}

func explain(op string, key Key, err error) *Error {
	e := &Error{Op: op, Key: key, cause: err}
	if errors.Is(err, pgx.ErrTxClosed) {
		e.Err, e.Hint = ErrTxEnded, "begin a new one"
		return e
	}
	switch sqlState(err) {
	case stateNoTable, stateNoSchema:
		e.Key, e.Err = Key{}, ErrNoSchema
		e.Hint = `run "idem migrate up", or goose with the files in migrations/`
	case stateNoColumn:
		e.Key, e.Err = Key{}, schemaError("idem: table idem.keys lacks a column")
		e.Hint = `run "idem migrate up", or goose with the files in migrations/`
	case stateNoArbiter:
		e.Key, e.Err = Key{}, schemaError("idem: table idem.keys lacks its unique index on (project, endpoint, key)")
		e.Hint = `run "idem doctor"`
	case stateReadOnly:
		e.Err, e.Hint = ErrReadOnly, "use a read-write transaction on the primary"
	case stateAborted:
		e.Err, e.Hint = ErrTxAborted, "an earlier statement failed in it: roll back and retry with the same key"
	case stateUnique:
		e.Err, e.Hint = ErrConflict, "roll back and retry with the same key; when it stays, a row-level security policy hides the record"
	case stateSerialization, stateDeadlock:
		e.Err, e.cause, e.Hint = err, nil, "roll back and retry the whole transaction with the same key"
	case statePrivilege:
		e.Key, e.Err, e.cause = Key{}, err, nil
		e.Hint = "the application's role needs USAGE on schema idem and SELECT, INSERT, UPDATE on idem.keys; the reaper's SELECT and DELETE, and SELECT, INSERT, UPDATE on idem.reaper"
	case stateOutOfLocks:
		e.Err, e.cause = err, nil
		e.Hint = "each key takes one advisory lock until its transaction ends: use fewer keys in one transaction, or raise max_locks_per_transaction"
	default:
		e.Err, e.cause = err, nil
	}
	return e
}
