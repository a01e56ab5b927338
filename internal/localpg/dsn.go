package localpg

import (
	"errors"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

// dsn is a connection string whose database can be exchanged. It stays in the
// form in which it was given: postgres://… or key=value.
type dsn string

func parseDSN(s string) (dsn, error) {
	if _, err := pgx.ParseConfig(s); err != nil {
		return "", err // has the password taken out
	}
	if isURL(s) {
		if _, err := url.Parse(s); err != nil {
			return "", errors.New("not a valid URL") // err would repeat the password
		}
	}
	return dsn(s), nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// of returns the connection string for a database, "" being the one it names itself.
func (d dsn) of(database string) string {
	s := string(d)
	if database == "" {
		return s
	}
	if !isURL(s) {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database)
		return s + " dbname='" + quoted + "'" // the last one counts
	}
	u, err := url.Parse(s)
	if err != nil {
		return s // parseDSN has ruled this out
	}
	u.Path, u.RawPath = "/"+database, ""
	q := u.Query()
	q.Del("dbname")
	q.Del("database")
	u.RawQuery = q.Encode()
	return u.String()
}

// localDSN is the connection string of a server of our own.
func localDSN(host, port string) dsn {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/postgres"}
	if strings.HasPrefix(host, "/") {
		u.RawQuery = url.Values{"host": {host}, "port": {port}, "sslmode": {"disable"}}.Encode()
		// With an empty host the authority would be "postgres@"; that is what libpq expects.
	} else {
		u.Host = host + ":" + port
		u.RawQuery = "sslmode=disable"
	}
	return dsn(u.String())
}
