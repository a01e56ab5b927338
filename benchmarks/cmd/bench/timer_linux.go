package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// timer sleeps to the microsecond. time.Sleep rounds up to a millisecond when the program is idle, which is the whole
// latency that is to be added.
type timer struct {
	fd   int
	file *os.File
}

func newTimer() (*timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &timer{fd, os.NewFile(uintptr(fd), "timer")}, nil
}

func (t *timer) sleepUntil(due time.Time) error {
	d := time.Until(due)
	if d <= 0 {
		return nil
	}
	if err := unix.TimerfdSettime(t.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil); err != nil {
		return err
	}
	var expirations [8]byte
	_, err := t.file.Read(expirations[:])
	return err
}

func (t *timer) close() { t.file.Close() }
