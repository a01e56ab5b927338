// Package demo drives the lending API as bad networks, impatient clients and crashing handlers do, and then counts in the
// database what became of it.
//
// An operation is one thing that a partner wants: one application, one charge. It has a reference of its own in its body,
// which the business tables keep, and one idempotency key. It is sent several times: at once from several connections to
// two servers, again later, with a changed body, cut off before the answer, into a handler that panics. Then every
// operation must have happened once. The tables have no unique constraint that would see to that.
package demo
