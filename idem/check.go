package idem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrUnsafeSchema means that the table idem.keys is not what the migrations make of it, so that a key could be recorded
// twice, forgotten in a crash, or be taken for another one. Only Check answers it.
var ErrUnsafeSchema = errors.New("idem: table idem.keys cannot keep the promise")

// Check looks at the table idem.keys in the catalog and refuses a schema that cannot keep the promise: no unique index on
// exactly (project, endpoint, key) that is valid, immediate and not partial; a table that a crash empties (UNLOGGED) or
// that is partitioned by anything but the key's own columns; a nondeterministic collation; triggers or rules; a column
// that is missing, nullable or of another type. Call it when a program starts, and after somebody else has migrated.
//
// The error joins one *Error for each finding, with what to do about it; errors.Is finds ErrUnsafeSchema, or ErrNoSchema
// where there is no table. The role needs no privilege on the table.
func Check(ctx context.Context, db DB) error {
	if db == nil {
		return noDB("check")
	}
	tables, err := collect[checkedTable](ctx, db, sqlCheckTables)
	if err != nil {
		return err
	}
	if len(tables) == 0 {
		return &Error{Op: "check", Err: ErrNoSchema, Hint: `run "idem migrate up", or goose with the files in migrations/`}
	}
	columns, err := collect[checkedColumn](ctx, db, sqlCheckColumns)
	if err != nil {
		return err
	}
	indexes, err := collect[checkedIndex](ctx, db, sqlCheckIndexes)
	if err != nil {
		return err
	}
	var f findings
	for i, t := range tables {
		f.table(t, i == 0)
	}
	f.columns(columns)
	if k := tables[0].Kind; k == "r" || k == "p" {
		f.indexes(indexes)
	}
	return errors.Join(f...)
}

func collect[T any](ctx context.Context, db DB, sql string) ([]T, error) {
	rows, err := db.Query(ctx, sql)
	if err != nil {
		return nil, explain("check", Key{}, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, explain("check", Key{}, err)
	}
	return found, nil
}

// keyColumns are the columns that make a record unique.
var keyColumns = []string{"project", "endpoint", "key"}

// checkedTable is a row of sqlCheckTables: idem.keys first, then its partitions.
type checkedTable struct {
	Name, Kind, Persistence string
	PartitionKey            string
	PartitionColumns        []*string // nil for an expression
	Triggers, Rules         []string
}

// checkedColumn is a row of sqlCheckColumns.
type checkedColumn struct {
	Name, Type                     string
	NotNull, HasDefault, Generated bool
	Collation                      string
	Deterministic                  bool
}

// checkedIndex is a row of sqlCheckIndexes.
type checkedIndex struct {
	Name                              string
	Unique, Valid, Immediate, Partial bool
	Columns                           []string // of the key, without INCLUDE
	Nondeterministic, ForeignOpclass  bool
}

// findings are the errors of one Check.
type findings []error

func (f *findings) add(detail, hint string) {
	*f = append(*f, &Error{Op: "check", Err: ErrUnsafeSchema, detail: detail, Hint: hint})
}

func (f *findings) table(t checkedTable, first bool) {
	switch {
	case t.Kind == "v", t.Kind == "m", t.Kind == "f":
		what := map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table"}[t.Kind]
		f.add(fmt.Sprintf("%s is %s", t.Name, what), "nothing there can be unique: make it a table with the files in migrations/")
	case t.Persistence == "u":
		f.add(t.Name+" is UNLOGGED", "a crash of the server empties it: ALTER TABLE "+t.Name+" SET LOGGED")
	case t.Persistence == "t":
		f.add(t.Name+" is a temporary table", "other sessions do not see it: make it a table with the files in migrations/")
	}
	if t.Kind == "p" && (first || t.PartitionKey != "") {
		for _, c := range t.PartitionColumns {
			if c == nil || !slices.Contains(keyColumns, *c) {
				f.add(fmt.Sprintf("%s is partitioned by %s", t.Name, t.PartitionKey),
					"a key would be unique in each partition only: partition by HASH (project), or not at all")
				break
			}
		}
	}
	if len(t.Triggers) > 0 {
		f.add(fmt.Sprintf("%s has %s", t.Name, list("trigger", t.Triggers)),
			"a trigger can drop or change a record: remove it; read what was recorded with a query or from the WAL instead")
	}
	if len(t.Rules) > 0 {
		f.add(fmt.Sprintf("%s has %s", t.Name, list("rule", t.Rules)), "a rule can replace an INSERT by something else: DROP RULE")
	}
}

func (f *findings) columns(found []checkedColumn) {
	expected := []struct{ name, typ string }{
		{"created_at", "timestamp with time zone"},
		{"expires_at", "timestamp with time zone"},
		{"response_status", "integer"},
		{"request_hash", "bytea"},
		{"project", "text"},
		{"endpoint", "text"},
		{"key", "text"},
		{"response_header", "bytea"},
		{"response_body", "bytea"},
	}
	known := map[string]bool{}
	for _, e := range expected {
		known[e.name] = true
		i := slices.IndexFunc(found, func(c checkedColumn) bool { return c.Name == e.name })
		if i < 0 {
			f.add("column "+e.name+" is missing", `the table is not this package's, or of another version: run "idem migrate status"`)
			continue
		}
		c := found[i]
		if c.Type != e.typ {
			f.add(fmt.Sprintf("column %s is of type %s, not %s", c.Name, c.Type, e.typ),
				fmt.Sprintf("values would be changed or refused: ALTER TABLE idem.keys ALTER %s TYPE %s", c.Name, e.typ))
		}
		if !c.NotNull {
			f.add("column "+c.Name+" may be NULL", fmt.Sprintf("a record must be complete: ALTER TABLE idem.keys ALTER %s SET NOT NULL", c.Name))
		}
		if c.Generated {
			f.add("column "+c.Name+" is generated", "a record holds what the call gave it: make it a plain column")
		}
		if !c.Deterministic && slices.Contains(keyColumns, c.Name) {
			f.add(fmt.Sprintf("column %s has the nondeterministic collation %q", c.Name, c.Collation),
				fmt.Sprintf(`different keys would be equal, and one caller gets another's response: ALTER TABLE idem.keys ALTER %s TYPE text COLLATE "C"`, c.Name))
		}
	}
	for _, c := range found {
		if !known[c.Name] && c.NotNull && !c.HasDefault && !c.Generated {
			f.add("column "+c.Name+" is NOT NULL without a default, and nothing fills it", "no record can be stored: give it a default, or drop it")
		}
	}
}

func (f *findings) indexes(found []checkedIndex) {
	const create = "ALTER TABLE idem.keys ADD UNIQUE (project, endpoint, key)"
	good := slices.ContainsFunc(found, func(x checkedIndex) bool { return x.onKey() && x.broken() == "" })
	any := false
	for _, x := range found {
		broken := x.broken()
		switch {
		case x.onKey() && broken != "":
			any = true
			hint := "drop it, then " + create
			if good { // one more that is broken does no harm, unless it is deferrable
				hint = "drop it: ON CONFLICT fails where there is a deferrable one"
			}
			if !good || x.Unique && !x.Immediate {
				f.add(fmt.Sprintf("index %s on (project, endpoint, key) %s", x.Name, broken), hint)
			}
		case !x.onKey() && x.Unique && !x.keeps():
			f.add(fmt.Sprintf("index %s is unique on (%s)", x.Name, strings.Join(x.Columns, ", ")),
				"it makes different operations exclude each other: drop it, only (project, endpoint, key) may be unique")
		}
	}
	if !good && !any {
		f.add("there is no unique index on exactly (project, endpoint, key)", "a key could be recorded twice: "+create)
	}
}

// onKey reports whether the index is on the key's columns, in whatever order.
func (x *checkedIndex) onKey() bool {
	return len(x.Columns) == len(keyColumns) && x.keeps()
}

// keeps reports whether the index has all of the key's columns, so that it lets different keys be.
func (x *checkedIndex) keeps() bool {
	for _, c := range keyColumns {
		if !slices.Contains(x.Columns, c) {
			return false
		}
	}
	return true
}

// broken says what keeps the index from making a key unique, or returns "".
func (x *checkedIndex) broken() string {
	switch {
	case !x.Unique:
		return "is not unique"
	case !x.Valid:
		return "is invalid: building it did not finish"
	case !x.Immediate:
		return "is deferrable"
	case x.Partial:
		return "is partial"
	case x.Nondeterministic:
		return "has a nondeterministic collation"
	case x.ForeignOpclass:
		return "has an operator class that is not PostgreSQL's own"
	}
	return ""
}

func list(what string, names []string) string {
	if len(names) > 1 {
		what += "s"
	}
	return what + " " + strings.Join(names, ", ")
}
