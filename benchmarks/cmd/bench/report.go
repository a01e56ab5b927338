package main

import (
	"fmt"
	"strings"
)

func (s scene) String() string {
	text := fmt.Sprintf("%d clients", s.clients)
	if s.clients == 1 {
		text = "1 client"
	}
	if s.latency > 0 {
		text += fmt.Sprintf(" +%v", s.latency)
	}
	return text
}

// report is the whole result as Markdown.
func report(on string, c map[string]cost, all []series, rounds int, length fmt.Stringer, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.\n\n", on)
	fmt.Fprintf(&b, "One operation inserts a payment; its response has %d bytes of body. One client, %d operations on new tables:\n\n", len(responseBody), n)
	b.WriteString("| | variant | flights | WAL bytes | heap bytes | index bytes | Go allocations | Go bytes |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|--:|\n")
	for _, v := range variants {
		c := c[v.id]
		fmt.Fprintf(&b, "| %s | %s | %d | %.0f | %.0f | %.0f | %.0f | %.0f |\n", v.id, v.name, c.flights, c.wal, c.heap, c.index, c.allocs, c.bytes)
	}
	b.WriteString("\nA flight is what the client sends before it waits. WAL is without full-page images, which depend on the distance between checkpoints.\n\n")

	fmt.Fprintf(&b, "Operations per second, median of %d rounds of %v per variant, alternating:\n\n", rounds, length)
	head(&b, "variant", all)
	for _, v := range variants {
		fmt.Fprintf(&b, "| %s %s |", v.id, v.name)
		for i := range all {
			fmt.Fprintf(&b, " %.0f |", all[i].median(v.id, rateOf))
		}
		b.WriteString("\n")
	}
	b.WriteString("| round trip of an empty statement |")
	for i := range all {
		fmt.Fprintf(&b, " %.2f ms |", all[i].ping.Seconds()*1000)
	}
	b.WriteString("\n\nRatios of throughput, median of the rounds' ratios (and their middle half):\n\n")
	head(&b, "ratio", all)
	for _, p := range pairs {
		fmt.Fprintf(&b, "| %s |", p.text)
		for i := range all {
			fmt.Fprintf(&b, " %v |", all[i].ratioOf(p.x, p.y, rateOf))
		}
		b.WriteString("\n")
	}
	if cpuOf(all[0].slices["a"][0]) > 0 {
		b.WriteString("\nCPU time per operation in microseconds, client + server. It is disturbed less than the clock by what else the machine does:\n\n")
		head(&b, "variant", all)
		for _, v := range variants {
			fmt.Fprintf(&b, "| %s %s |", v.id, v.name)
			for i := range all {
				client := all[i].median(v.id, func(s slice) float64 { return s.client * 1e6 })
				server := all[i].median(v.id, func(s slice) float64 { return s.server * 1e6 })
				fmt.Fprintf(&b, " %.0f + %.0f |", client, server)
			}
			b.WriteString("\n")
		}
		for _, p := range pairs {
			fmt.Fprintf(&b, "| %s |", p.text)
			for i := range all {
				fmt.Fprintf(&b, " %v |", all[i].ratioOf(p.x, p.y, cpuOf))
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\n| aim | measured | |\n|---|---|---|\n")
	for _, a := range aims(all, c) {
		met := "met"
		if !a.met {
			met = "**not met**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", a.text, a.measured, met)
	}
	return b.String()
}

func head(b *strings.Builder, first string, all []series) {
	fmt.Fprintf(b, "| %s |", first)
	for i := range all {
		fmt.Fprintf(b, " %v |", all[i].scene)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(all)) + "\n")
}
