package idem

import "context"

// Forget deletes the record of a key and reports whether there was one: the next call with the key runs again, whatever
// the first one did. It is for an operator who knows better than the record, or must erase it. RequestHash is not looked
// at.
//
// db may be a transaction; then the record is gone when that commits. A call in progress has no record yet and is not
// disturbed: it records when it commits. Forget waits for a transaction that is taking the record over; ctx bounds that. The
// role needs SELECT and DELETE on idem.keys. After an error nothing was deleted, except that of a lost connection, which
// leaves that open: call it again.
func Forget(ctx context.Context, db DB, key Key) (bool, error) {
	if db == nil {
		return false, noDB("forget")
	}
	if wrong := key.invalid(); wrong != "" {
		return false, &Error{Op: "forget", Key: key, Err: ErrInvalidKey, detail: wrong, Hint: "name the project, the endpoint and the key as the call did"}
	}
	tag, err := db.Exec(ctx, sqlForget, key.Project, key.Endpoint, key.Value)
	if err != nil {
		return false, explain("forget", key, err)
	}
	return tag.RowsAffected() > 0, nil
}

// ForgetProject deletes all records of a project, live and expired, and returns how many there were. It is one statement:
// all of them or, after an error, none, also when db is no transaction. With millions of records that is a long
// transaction. Calls in progress record when they commit: to erase a tenant, stop its calls first.
//
// It waits for transactions that are taking one of the records over; ctx bounds that. The role needs SELECT and DELETE on
// idem.keys.
func ForgetProject(ctx context.Context, db DB, project string) (int64, error) {
	if db == nil {
		return 0, noDB("forget")
	}
	if wrong := invalidText("project", project, maxProject); wrong != "" {
		return 0, &Error{Op: "forget", Err: ErrInvalidKey, detail: wrong, Hint: "name the project as the calls did"}
	}
	tag, err := db.Exec(ctx, sqlForgetProject, project)
	if err != nil {
		return 0, explain("forget", Key{}, err)
	}
	return tag.RowsAffected(), nil
}

func noDB(op string) error {
	return &Error{Op: op, Err: ErrInvalidCall, detail: "the database is nil", Hint: "give it a pool, a connection or a transaction"}
}
