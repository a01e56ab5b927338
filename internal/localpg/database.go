package localpg

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// inUseTimeout bounds the tries while somebody is connected to the template.
const inUseTimeout = 30 * time.Second

// leftoverAge is the age from which databases of a killed program are dropped
// from a server that is not ours. No test runs that long.
const leftoverAge = 24 * time.Hour

// adopt takes somebody else's server.
func (s *Server) adopt(ctx context.Context, url string, o Options) error {
	d, err := parseDSN(url)
	if err != nil {
		return fmt.Errorf("localpg: %s: %w", s.urlName(), err)
	}
	s.dsn = d
	if s.version, err = s.hello(ctx); err != nil {
		return fmt.Errorf("localpg: %s: %w", s.urlName(), err)
	}
	var may bool
	var now int64
	var leftovers []string
	err = s.withConn(ctx, func(conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, sqlMayCreate).Scan(&may, &now); err != nil {
			return err
		}
		rows, _ := conn.Query(ctx, sqlLeftovers)
		leftovers, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return fmt.Errorf("localpg: %s: %w", s.urlName(), err)
	}
	if !may {
		return fmt.Errorf("localpg: %s: the role may not create databases: ALTER ROLE … CREATEDB", s.urlName())
	}
	if o.TCP && s.Addr() == "" {
		return fmt.Errorf("localpg: %s names a unix socket, but TCP is needed: name host and port", s.urlName())
	}
	if len(o.Settings) > 0 {
		s.logger.Warn("localpg: the server keeps its own settings", "ignored", slices.Sorted(maps.Keys(o.Settings)))
	}
	s.prefix = fmt.Sprintf("pgidem_%d_%s_", now, randomHex(3))
	s.sweep(ctx, leftovers, time.Unix(now, 0))
	return nil
}

func (s *Server) urlName() string {
	if s.source == sourceURL {
		return EnvURL
	}
	return "the URL that Options.Download returned"
}

// sweep drops what a killed program left behind, by the server's clock. A database
// in use is still somebody's: it is not in the list, and not forced if it comes into use.
func (s *Server) sweep(ctx context.Context, names []string, now time.Time) {
	for _, name := range names {
		seconds, err := strconv.ParseInt(strings.Split(name, "_")[1], 10, 64)
		if err != nil || now.Sub(time.Unix(seconds, 0)) < leftoverAge {
			continue
		}
		err = s.exec(ctx, fmt.Sprintf(sqlDrop, quote(name)))
		s.logger.Debug("localpg: dropped a leftover database", "name", name, "error", err)
	}
}

// CreateDatabase creates a database as a copy of a template ("" is template1) and
// returns its DSN. On a server that is not ours its name there is a longer one, so
// that programs do not meet; all methods take the name given here. When another
// session holds on to the template, it waits for it, up to half a minute.
// After an error there is no such database, unless the context ended.
func (s *Server) CreateDatabase(ctx context.Context, name, template string) (url string, err error) {
	if template == "" {
		template = "template1"
	}
	// Copies of one template wait for each other inside the server anyway; in line
	// here they do not use up its connections and its I/O at once.
	s.creating.Lock()
	defer s.creating.Unlock()

	real := s.prefix + name
	if name == "" || len(real) > 63 {
		return "", fmt.Errorf("localpg: create database: name %q is empty or too long (%d bytes of 63)", name, len(real))
	}
	statement := fmt.Sprintf(sqlCreate, quote(real), quote(s.realName(template)))
	deadline := time.Now().Add(inUseTimeout)
	for {
		err = s.exec(ctx, statement)
		if !isCode(err, "55006") || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("localpg: create database %s: %w (%w)", name, err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err != nil {
		return "", fmt.Errorf("localpg: create database %s from %s: %w", name, template, err)
	}
	s.mu.Lock()
	s.created[name] = real
	s.mu.Unlock()
	return s.dsn.of(real), nil
}

// Seal ends all sessions of a database and lets nobody connect to it any more, so
// that it serves as a template without being in anybody's way.
func (s *Server) Seal(ctx context.Context, name string) error {
	real := s.realName(name)
	err := s.withConn(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, fmt.Sprintf(sqlSeal, quote(real))); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, sqlTerminate, real)
		return err
	})
	if err != nil {
		return fmt.Errorf("localpg: seal database %s: %w", name, err)
	}
	return nil
}

// DropDatabase drops a database and ends its sessions. A database that does not
// exist is fine. On a server that is not ours only databases that this Server has
// created are dropped. After an error the database may still be there.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	s.mu.Lock()
	real, ours := s.created[name]
	s.mu.Unlock()
	if !ours {
		if s.eng == nil {
			return fmt.Errorf("localpg: drop database %s: not created here, and the server is not ours", name)
		}
		real = name
	}
	if err := s.drop(ctx, real); err != nil {
		return fmt.Errorf("localpg: drop database %s: %w", name, err)
	}
	s.mu.Lock()
	delete(s.created, name)
	s.mu.Unlock()
	return nil
}

func (s *Server) drop(ctx context.Context, real string) error {
	if s.major() >= 13 {
		return s.exec(ctx, fmt.Sprintf(sqlDropForce, quote(real)))
	}
	return s.withConn(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, sqlTerminate, real); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, fmt.Sprintf(sqlDrop, quote(real)))
		return err
	})
}

func (s *Server) dropAll(ctx context.Context) error {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.created))
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		errs = append(errs, s.DropDatabase(ctx, name))
	}
	return errors.Join(errs...)
}

// realName is the name on the server of a database that this Server created;
// other names are what they are.
func (s *Server) realName(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if real, ok := s.created[name]; ok {
		return real
	}
	return name
}

func (s *Server) exec(ctx context.Context, statement string) error {
	return s.withConn(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement)
		return err
	})
}

// withConn uses a connection of its own each time: a kept one would not survive
// Kill, and whoever asks does not ask often.
func (s *Server) withConn(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.dsn.of(""))
	if err != nil {
		return err
	}
	err = do(conn)
	// The caller's context may be over, the connection must be closed all the same.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = conn.Close(closing)
	return err
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func isCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
