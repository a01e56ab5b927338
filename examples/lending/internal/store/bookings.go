package store

import "context"

const bookingColumns = `id, reference, slot, attendee, created_at`

const lockSlot = `-- name: LockSlot :one
SELECT taken FROM lending.slots WHERE project = $1 AND slot = $2 FOR NO KEY UPDATE`

// LockSlot tells whether a slot is taken and keeps it from others until the transaction ends, or returns pgx.ErrNoRows.
func (q *Queries) LockSlot(ctx context.Context, project, slot string) (taken bool, err error) {
	err = q.db.QueryRow(ctx, lockSlot, project, slot).Scan(&taken)
	return taken, err
}

const takeSlot = `-- name: TakeSlot :exec
UPDATE lending.slots SET taken = true WHERE project = $1 AND slot = $2`

// TakeSlot marks a slot as taken.
func (q *Queries) TakeSlot(ctx context.Context, project, slot string) error {
	_, err := q.db.Exec(ctx, takeSlot, project, slot)
	return err
}

const createBooking = `-- name: CreateBooking :one
INSERT INTO lending.bookings (project, reference, slot, attendee)
VALUES ($1, $2, $3, $4)
RETURNING ` + bookingColumns

// CreateBookingParams are the columns of a new booking.
type CreateBookingParams struct {
	Project   string
	Reference string
	Slot      string
	Attendee  string
}

// CreateBooking inserts a booking.
func (q *Queries) CreateBooking(ctx context.Context, p CreateBookingParams) (Booking, error) {
	return one[Booking](ctx, q.db, createBooking, p.Project, p.Reference, p.Slot, p.Attendee)
}

const getBooking = `-- name: GetBooking :one
SELECT ` + bookingColumns + ` FROM lending.bookings WHERE project = $1 AND id = $2`

// GetBooking returns a booking of the project, or pgx.ErrNoRows.
func (q *Queries) GetBooking(ctx context.Context, project string, id UUID) (Booking, error) {
	return one[Booking](ctx, q.db, getBooking, project, id)
}

const listBookings = `-- name: ListBookings :many
SELECT ` + bookingColumns + ` FROM lending.bookings
WHERE project = $1 AND ($2 = '' OR reference = $2)
ORDER BY created_at DESC, id LIMIT $3`

// ListBookings returns the latest, all of them or those with one reference.
func (q *Queries) ListBookings(ctx context.Context, project, reference string, limit int32) ([]Booking, error) {
	return many[Booking](ctx, q.db, listBookings, project, reference, limit)
}

const listFreeSlots = `-- name: ListFreeSlots :many
SELECT slot, starts_at FROM lending.slots WHERE project = $1 AND NOT taken ORDER BY starts_at, slot LIMIT $2`

// ListFreeSlots returns the next slots that can be booked.
func (q *Queries) ListFreeSlots(ctx context.Context, project string, limit int32) ([]Slot, error) {
	return many[Slot](ctx, q.db, listFreeSlots, project, limit)
}
