package main

import (
	"fmt"
	"slices"
	"time"
)

// ratio is how one variant compares with another in one scene: the median of the rounds and the quartiles around it.
type ratio struct{ low, median, high float64 }

func (r ratio) String() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", r.median, r.low, r.high) }

// ratioOf compares round by round: both slices of a round saw much the same machine.
func (s *series) ratioOf(x, y string, value func(slice) float64) ratio {
	xs, ys := s.slices[x], s.slices[y]
	rs := make([]float64, len(xs))
	for i := range xs {
		rs[i] = value(xs[i]) / value(ys[i])
	}
	return ratio{quantile(rs, 0.25), quantile(rs, 0.5), quantile(rs, 0.75)}
}

// median returns the median of the rounds.
func (s *series) median(id string, value func(slice) float64) float64 {
	var vs []float64
	for _, sl := range s.slices[id] {
		vs = append(vs, value(sl))
	}
	return quantile(vs, 0.5)
}

func rateOf(s slice) float64 { return s.rate }
func cpuOf(s slice) float64  { return s.client + s.server }

// quantile returns the q quantile of values, by linear interpolation.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 == len(v) {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}

// pair is a comparison that the report makes.
type pair struct {
	x, y, text string
	least      float64                  // the aim
	applies    func(time.Duration) bool // with which latency there is one
}

func always(time.Duration) bool                 { return true }
func withoutLatency(latency time.Duration) bool { return latency == 0 }
func withLatency(latency time.Duration) bool    { return latency > 0 }

var pairs = []pair{
	{"f", "b", "`Run` ÷ (b) the limit", 0.88, withoutLatency},
	{"f", "a", "`Run` ÷ (a) plain", 0.98, withLatency},
	{"e", "c", "`Do` ÷ (c) by hand", 0.95, always},
	{"g", "h", "replay ÷ (h) SELECT", 0.90, always},
	{"f", "c", "`Run` ÷ (c) by hand", 0, nil},
	{"f", "d", "`Run` ÷ (d) claim first", 0, nil},
}

// mostAllocs is how many allocations Run may make above the plain transaction.
const mostAllocs = 60

// aim is something that the package wants to reach, and what was measured.
type aim struct {
	text     string
	measured string
	met      bool
}

func aims(all []series, c map[string]cost) []aim {
	var res []aim
	for _, p := range pairs {
		for i := range all {
			s := &all[i]
			if p.applies == nil || !p.applies(s.latency) {
				continue
			}
			r := s.ratioOf(p.x, p.y, rateOf)
			res = append(res, aim{
				text:     fmt.Sprintf("%s ≥ %.2f, %s", p.text, p.least, s.scene),
				measured: r.String(),
				met:      r.median >= p.least,
			})
		}
	}
	extra := c["f"].allocs - c["a"].allocs
	return append(res, aim{
		text:     fmt.Sprintf("`Run` ≤ %d allocations above (a)", mostAllocs),
		measured: fmt.Sprintf("%.0f", extra),
		met:      extra <= mostAllocs,
	})
}

// broken says which of the promises that no machine can excuse do not hold.
func broken(c map[string]cost) []string {
	var res []string
	if got, want := c["f"].flights, c["a"].flights; got != want {
		res = append(res, fmt.Sprintf("Run makes %d flights, the plain transaction %d: they must be equal", got, want))
	}
	if got, want := c["e"].flights, c["a"].flights+2; got != want {
		res = append(res, fmt.Sprintf("Do makes %d flights, want %d: two more than the plain transaction", got, want))
	}
	if extra := c["f"].allocs - c["a"].allocs; extra > mostAllocs {
		res = append(res, fmt.Sprintf("Run makes %.0f allocations more than the plain transaction, at most %d are allowed", extra, mostAllocs))
	}
	return res
}
