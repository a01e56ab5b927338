package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"
)

// cpuMeter measures the CPU time of this program and of the server processes behind a pool. Unlike the clock it does not
// run while other programs have the CPU.
type cpuMeter struct {
	backends []int
	at       time.Duration
}

func startCPU(ctx context.Context, pool *pgxpool.Pool) (*cpuMeter, error) {
	rows, _ := pool.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'`)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	m := &cpuMeter{backends: pids}
	m.at = m.read()
	return m, err
}

func (m *cpuMeter) stop() time.Duration { return m.read() - m.at }

func (m *cpuMeter) read() time.Duration {
	var self unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &self) // cannot fail
	sum := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	for _, pid := range m.backends {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			continue
		}
		var ns int64
		if _, err := fmt.Fscan(strings.NewReader(string(data)), &ns); err == nil {
			sum += time.Duration(ns)
		}
	}
	return sum
}
