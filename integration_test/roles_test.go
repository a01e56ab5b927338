package integration

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/idem"
	"github.com/pgidem/pgidem/idem/idemhttp"
	"github.com/pgidem/pgidem/integration_test/internal/ledger"
	"github.com/pgidem/pgidem/integration_test/internal/proc"
)

// roles are what a child process can be.
var roles = map[string]func(*proc.Child) error{
	"server": serveRole,
	"caller": callRole,
}

// Points of a child's work where it can be stopped, in their order.
const (
	pointBegun     = "begun"     // fn has begun: lock and look are done
	pointWritten   = "written"   // fn has written
	pointDone      = "done"      // Do has returned: the record is written, COMMIT is the caller's
	pointRecording = "recording" // Run is about to send the record and COMMIT
	pointCommitted = "committed" // the transaction has committed, nobody has been told
)

// answer is what both roles answer. No two runs give the same one.
type answer struct {
	ID    int64  `json:"id"`
	Pid   int    `json:"pid"`
	Nonce string `json:"nonce"`
}

func write(ctx context.Context, c *proc.Child, tx pgx.Tx, ref string) (answer, error) {
	c.At(pointBegun)
	id, err := ledger.Insert(ctx, tx, ref, fmt.Sprint("pid ", os.Getpid()))
	c.At(pointWritten)
	return answer{ID: id, Pid: os.Getpid(), Nonce: rand.Text()}, err
}

// stopper is a tracer that stops a child before the record is sent.
type stopper struct{ child *proc.Child }

func (s stopper) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		if strings.HasPrefix(q.SQL, "-- idem: record") {
			s.child.At(pointRecording)
		}
	}
	return ctx
}
func (stopper) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (stopper) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (stopper) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (stopper) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// serverArgs are the arguments of the role "server".
type serverArgs struct {
	URL  string
	Mode pgx.QueryExecMode
	Pool int32
	Wait time.Duration // as Middleware.Wait
}

// serveRole is an HTTP server with one protected endpoint, POST /entries, whose
// body is the operation to write.
func serveRole(c *proc.Child) error {
	var args serverArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	ctx := context.Background()
	pool, err := openPool(ctx, args.URL, args.Mode, max(args.Pool, 4), stopper{c})
	if err != nil {
		return err
	}
	m := &idemhttp.Middleware{Pool: pool, Project: idemhttp.SingleProject("acme"), Wait: args.Wait}
	entries := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ref, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a, err := write(r.Context(), c, idemhttp.Tx(r.Context()), string(ref))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", fmt.Sprint("/entries/", a.ID))
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(a)
	}))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /entries", func(w http.ResponseWriter, r *http.Request) {
		entries.ServeHTTP(&lateWriter{w, c}, r)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.Tell("listening", listener.Addr().String())
	return http.Serve(listener, mux)
}

// lateWriter stops a child when the middleware begins to answer, which it does after COMMIT.
type lateWriter struct {
	http.ResponseWriter
	child *proc.Child
}

func (w *lateWriter) WriteHeader(status int) {
	w.child.At(pointCommitted)
	w.ResponseWriter.WriteHeader(status)
}

// callerArgs are the arguments of the role "caller".
type callerArgs struct {
	URL  string
	Mode pgx.QueryExecMode
	Run  bool // by Run; else by Do and Commit
	Ref  string
}

// callRole calls Run or Do once and tells the answer.
func callRole(c *proc.Child) error {
	var args callerArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	ctx := context.Background()
	pool, err := openPool(ctx, args.URL, args.Mode, 2, stopper{c})
	if err != nil {
		return err
	}
	defer pool.Close()
	fn := func(ctx context.Context, tx pgx.Tx) (idem.Response, error) {
		a, err := write(ctx, c, tx, args.Ref)
		if err != nil {
			return idem.Response{}, err
		}
		return idem.JSON(http.StatusCreated, a)
	}
	var resp idem.Response
	if args.Run {
		resp, err = idem.Run(ctx, pool, newKey(args.Ref), fn)
	} else {
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			resp, err = idem.Do(ctx, tx, newKey(args.Ref), fn)
			c.At(pointDone)
			return err
		})
	}
	if err != nil {
		return err
	}
	c.At(pointCommitted)
	c.Tell("answer", resp)
	return nil
}
