package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/examples/lending/internal/store"
)

type bookingInput struct {
	Reference string `json:"reference"`
	Slot      string `json:"slot"`
	Attendee  string `json:"attendee"`
}

func (in bookingInput) check() []fieldError {
	var c checks
	c.reference(in.Reference)
	c.text("slot", in.Slot, 40)
	c.text("attendee", in.Attendee, 200)
	return c
}

// createBooking takes a slot, unless somebody else was faster. The loser's retries are told so again, even if the slot is
// free by then: the answer belongs to the key, and a new try is a new key.
func createBooking(ctx context.Context, q *store.Queries, project string, in bookingInput) (created, error) {
	taken, err := q.LockSlot(ctx, project, in.Slot)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return created{}, refuse(http.StatusNotFound, "slot_unknown", in.Reference, "there is no slot %s", in.Slot)
	case err != nil:
		return created{}, err
	case taken:
		return created{}, refuse(http.StatusConflict, "slot_taken", in.Reference, "slot %s is taken", in.Slot)
	}
	if err := q.TakeSlot(ctx, project, in.Slot); err != nil {
		return created{}, err
	}
	row, err := q.CreateBooking(ctx, store.CreateBookingParams{
		Project: project, Reference: in.Reference, Slot: in.Slot, Attendee: in.Attendee,
	})
	return created{"/partner/v1/bookings/" + row.ID.String(), row}, err
}
