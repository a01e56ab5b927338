package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// ProgressLine returns a function for Options.Progress, and one that ends the line. On a terminal it is one line that
// changes, elsewhere a new line now and then.
func ProgressLine(w io.Writer, terminal bool) (show func(Progress), end func()) {
	var last time.Duration
	show = func(p Progress) {
		line := english.Sprintf("%d of %d operations, %d requests, %d replays, %.1f s", p.Operations, p.Of, p.Requests, p.Replayed, p.Elapsed.Seconds())
		if terminal {
			const width = 12 // the whole line fits into 80 columns
			filled := width * p.Operations / max(p.Of, 1)
			fmt.Fprintf(w, "\r\x1b[K%s%s  %s", strings.Repeat("━", filled), strings.Repeat("╌", width-filled), line)
			return
		}
		if p.Elapsed-last >= 3*time.Second {
			last = p.Elapsed
			fmt.Fprintln(w, line)
		}
	}
	end = func() {
		if terminal {
			fmt.Fprint(w, "\r\x1b[K")
		}
	}
	return show, end
}
