package idem

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Option changes one call of Do, Run, DoValue or RunValue.
type Option func(*config)

type config struct {
	ttl        time.Duration
	wait       time.Duration
	maxBody    int
	savepoint  bool
	noHash     bool
	replicated bool
	txOptions  pgx.TxOptions
	observer   Observer
}

const (
	defaultTTL     = 24 * time.Hour
	defaultRunWait = 2 * time.Second
	defaultMaxBody = 1 << 20
)

// WithTTL sets how long a record is retained: a call with its key later than that runs again. Clients must have stopped
// retrying by then. d must be above 0. Defaults to 24 hours.
func WithTTL(d time.Duration) Option { return func(c *config) { c.ttl = d } }

// WithWait sets how long to wait for a call in progress with the same key before ErrInProgress; 0 answers at once. Run
// holds no connection while it waits; Do keeps the one that its caller holds. Defaults to 2 seconds in Run and to 0 in Do.
func WithWait(d time.Duration) Option { return func(c *config) { c.wait = d } }

// WithSavepoint runs fn in a savepoint. A failed fn then leaves the transaction usable with fn's own writes undone, and fn
// may use Refuse in Do. It costs two round trips.
func WithSavepoint() Option { return func(c *config) { c.savepoint = true } }

// WithoutRequestHash binds the key to nothing: whatever request comes with it gets the recorded response. Key.RequestHash
// must be zero then.
func WithoutRequestHash() Option { return func(c *config) { c.noHash = true } }

// WithTxOptions sets how Run begins its transaction, such as its isolation level. Do ignores it. Defaults to the
// session's defaults, which are READ COMMITTED and read-write unless somebody changed them.
func WithTxOptions(o pgx.TxOptions) Option { return func(c *config) { c.txOptions = o } }

// WithMaxBody limits the body of a response, in bytes, from 0 to 64 MiB. A larger one fails with ErrResponseTooLarge before
// anything commits. Defaults to 1 MiB.
func WithMaxBody(n int) Option { return func(c *config) { c.maxBody = n } }

// WithObserver reports the call to o when it ends.
func WithObserver(o Observer) Option { return func(c *config) { c.observer = o } }

// WithReplicatedReplay makes a replay lock its row (FOR SHARE), so that its COMMIT waits for a synchronous standby as the
// first one should have. Without it a replay reads a row that is committed here and may not be there yet: PostgreSQL makes
// a row visible when the wait for the standby was cancelled, and a failover right after that loses what the replay
// acknowledged. It costs a small write per replay and has no use without synchronous_standby_names.
func WithReplicatedReplay() Option { return func(c *config) { c.replicated = true } }

// init applies opts, and says in words which of them cannot be, and what to do.
func (c *config) init(wait time.Duration, opts []Option) (wrong, hint string) {
	*c = config{ttl: defaultTTL, wait: wait, maxBody: defaultMaxBody}
	for i, o := range opts {
		if o == nil {
			return fmt.Sprintf("option %d is nil", i), "leave it out"
		}
		o(c)
	}
	switch {
	case c.ttl <= 0:
		return fmt.Sprintf("the TTL is %v", c.ttl), "it must be above 0, and longer than clients retry"
	case c.wait < 0:
		return fmt.Sprintf("the wait is %v", c.wait), "it must not be negative; 0 answers at once"
	case c.maxBody < 0 || c.maxBody > maxBody:
		return fmt.Sprintf("the body limit is %d bytes", c.maxBody), fmt.Sprintf("it must be between 0 and %d", maxBody)
	}
	c.ttl = max(c.ttl, time.Microsecond) // what a timestamp of PostgreSQL can tell apart
	return "", ""
}
