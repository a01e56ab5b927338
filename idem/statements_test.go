package idem

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/localpg/pgtest"
)

var statements = map[string]string{
	"sqlLock":            sqlLock,
	"sqlLook":            sqlLook,
	"sqlLookReplicated":  sqlLookReplicated,
	"sqlRecord":          sqlRecord,
	"sqlRecordOver":      sqlRecordOver,
	"sqlFail":            sqlFail,
	"sqlReapBegin":       sqlReapBegin,
	"sqlReapPropagate":   sqlReapPropagate,
	"sqlReapLockTimeout": sqlReapLockTimeout,
	"sqlReapPlan":        sqlReapPlan,
	"sqlReapNoScan":      sqlReapNoScan,
	"sqlReapNoBitmap":    sqlReapNoBitmap,
	"sqlReapLock":        sqlReapLock,
	"sqlReapHolder":      sqlReapHolder,
	"sqlReapLast":        sqlReapLast,
	"sqlReapReport":      sqlReapReport,
	"sqlReapDelete":      sqlReapDelete,
	"sqlReapPeek":        sqlReapPeek,
	"sqlReapBacklog":     sqlReapBacklog,
	"sqlForget":          sqlForget,
	"sqlForgetProject":   sqlForgetProject,
	"sqlCheckTables":     sqlCheckTables,
	"sqlCheckColumns":    sqlCheckColumns,
	"sqlCheckIndexes":    sqlCheckIndexes,
}

// TestStatements_listed finds every constant named sql… in the source, so that the list above cannot fall behind.
func TestStatements_listed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for _, id := range spec.Names {
				if _, listed := statements[id.Name]; strings.HasPrefix(id.Name, "sql") && !listed {
					t.Errorf("%s: %s is not in the list", name, id.Name)
				}
			}
			return true
		})
	}
}

// TestStatements_prepare prepares every statement against the migrated schema, in a session where no unqualified name of
// a table can be found, and looks at its first line.
func TestStatements_prepare(t *testing.T) {
	t.Parallel()
	cfg, err := pgx.ParseConfig(pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["search_path"] = ""
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	marked := regexp.MustCompile(`^-- idem: ([a-z ]+)\n`)
	seen := map[string]string{}
	for name, sql := range statements {
		_, err := conn.Prepare(t.Context(), name, sql)
		if name == "sqlFail" && sqlState(err) == "22P02" { // its purpose; it fails as early as that
			err = nil
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		m := marked.FindStringSubmatch(sql)
		if m == nil {
			t.Errorf("%s does not begin with -- idem: name", name)
			continue
		}
		// sqlLookReplicated is sqlLook with a suffix.
		if other, dup := seen[m[1]]; dup && !strings.HasPrefix(name, other) && !strings.HasPrefix(other, name) {
			t.Errorf("%s and %s are both marked %q", name, other, m[1])
		}
		seen[m[1]] = name
	}
}

// TestStatements_operators finds operators that a schema early in search_path could replace.
func TestStatements_operators(t *testing.T) {
	t.Parallel()
	qualified := regexp.MustCompile(`OPERATOR\(pg_catalog\.[^)]+\)`)
	literal := regexp.MustCompile(`'[^']*'`)
	comment := regexp.MustCompile(`--[^\n]*`)
	assign := regexp.MustCompile(`(?m)(SET|,)\s+[a-z_]+ = excluded\.|SET LOCAL [a-z_.]+ =`)
	for name, sql := range statements {
		rest := comment.ReplaceAllString(sql, "")
		rest = literal.ReplaceAllString(rest, "''")
		rest = qualified.ReplaceAllString(rest, " ")
		rest = assign.ReplaceAllString(rest, " ")
		rest = strings.ReplaceAll(rest, "count(*)", "")
		if at := strings.IndexAny(rest, "=<>+*/%~|&"); at >= 0 {
			t.Errorf("%s: unqualified operator at: %.60q", name, rest[at:])
		}
	}
}
