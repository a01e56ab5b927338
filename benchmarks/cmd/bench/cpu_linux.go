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
	backends       []int
	client, server time.Duration
}

func startCPU(ctx context.Context, pool *pgxpool.Pool) (*cpuMeter, error) {
	rows, _ := pool.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'`)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	m := &cpuMeter{backends: pids}
	m.client, m.server = m.read()
	return m, err
}

func (m *cpuMeter) stop() (client, server time.Duration) {
	client, server = m.read()
	return client - m.client, server - m.server
}

func (m *cpuMeter) read() (client, server time.Duration) {
	var self unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &self) // cannot fail
	for _, pid := range m.backends {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			continue
		}
		var ns int64
		if _, err := fmt.Fscan(strings.NewReader(string(data)), &ns); err == nil {
			server += time.Duration(ns)
		}
	}
	return time.Duration(self.Utime.Nano() + self.Stime.Nano()), server
}
