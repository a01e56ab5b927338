//go:build !linux

package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// cpuMeter knows nothing here.
type cpuMeter struct{}

func startCPU(context.Context, *pgxpool.Pool) (*cpuMeter, error) { return &cpuMeter{}, nil }

func (*cpuMeter) stop() (client, server time.Duration) { return 0, 0 }
