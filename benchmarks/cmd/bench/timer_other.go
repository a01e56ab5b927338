//go:build !linux

package main

import "time"

// timer sleeps as precisely as time.Sleep does.
type timer struct{}

func newTimer() (*timer, error) { return &timer{}, nil }

func (*timer) sleepUntil(due time.Time) error {
	time.Sleep(time.Until(due))
	return nil
}

func (*timer) close() {}
