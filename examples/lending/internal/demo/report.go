package demo

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Printer prints for people.
type Printer struct {
	W     io.Writer
	Color bool
	Quiet bool // what is broken and the last lines
}

var english = message.NewPrinter(language.English)

func (p Printer) paint(c text.Colors, s string) string {
	if !p.Color {
		return s
	}
	return c.Sprint(s)
}

var (
	good  = text.Colors{text.FgGreen}
	bad   = text.Colors{text.FgRed, text.Bold}
	faint = text.Colors{text.Faint}
	bold  = text.Colors{text.Bold}
)

// Print prints what a run found.
func (p Printer) Print(r *Result) {
	if !p.Quiet {
		p.heading(r)
		fmt.Fprintln(p.W)
		p.table(r)
		fmt.Fprintln(p.W)
		p.legend()
		fmt.Fprintln(p.W)
	}
	p.checks(r)
	if !p.Quiet {
		fmt.Fprintln(p.W)
	}
	p.closing(r)
}

func (p Printer) heading(r *Result) {
	title := "pgidem demo: a lending API whose clients retry, race and hang up"
	if !r.Protected {
		title = "CONTROL, WITHOUT pgidem: the same API, the same clients, plain transactions"
	}
	fmt.Fprintln(p.W, p.paint(bold, title))
	english.Fprintf(p.W, "%s · %d servers · %d clients · seed %s\n", r.Database, replicas, projects*clients, fmt.Sprint(r.Seed))
	english.Fprintf(p.W, "%d operations, %d requests in %.1f s\n", r.Total.Operations, r.Total.Sent, r.Elapsed.Seconds())
}

func (p Printer) table(r *Result) {
	t := table.NewWriter()
	t.SetOutputMirror(p.W)
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true, SeparateFooter: true}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header, style.Format.Footer = text.FormatDefault, text.FormatDefault
	t.SetStyle(style)

	t.AppendHeader(table.Row{
		"POST", "oper-\nations", "sent", "cut\noff", "panics", "run", "re-\nplayed", "re-\nfused", "reused\n422", "waited",
		"dupli-\ncates", "lost", "replays\ndiffer",
	})
	for _, row := range r.Rows {
		t.AppendRow(p.row(r, row))
	}
	t.AppendFooter(p.row(r, r.Total))
	configs := []table.ColumnConfig{{Number: 1, Align: text.AlignLeft}}
	for n := 2; n <= 13; n++ {
		configs = append(configs, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight, AlignFooter: text.AlignRight})
	}
	t.SetColumnConfigs(configs)
	t.Render()
}

func (p Printer) row(r *Result, row Row) table.Row {
	n := func(n int) string { return english.Sprintf("%d", n) }
	key := func(i int) string { // what the servers count per key; there are none in the control
		if !r.Protected {
			return "–"
		}
		return n(i)
	}
	zero := func(i int) string {
		if i == 0 {
			return p.paint(good, "0")
		}
		return p.paint(bad, n(i))
	}
	return table.Row{
		row.Endpoint, n(row.Operations), n(row.Sent), n(row.Cut), n(row.Panics), n(row.Run), key(row.Replayed), key(row.Refused),
		key(row.Reused), key(row.Waited), zero(row.Duplicates), zero(row.Lost), zero(row.Differ),
	}
}

func (p Printer) legend() {
	for _, l := range [][2]string{
		{"sent", "each operation 1 to 5 times, and again whatever got no answer; cut off: the client hung up first; panics: between write and commit"},
		{"run", "rows in the business tables, which have no unique constraint on anything a client sends"},
		{"refused", "records of a remembered \"no\": charges declined, slots that went to another key"},
		{"replayed, 422, waited", "as the servers count their answers; refused, duplicates and lost are counted by SQL"},
	} {
		fmt.Fprintln(p.W, p.paint(faint, fmt.Sprintf("%-22s %s", l[0], l[1])))
	}
}

func (p Printer) checks(r *Result) {
	for _, c := range r.Checks {
		if c.Bad == 0 {
			if p.Quiet {
				continue
			}
			fmt.Fprintf(p.W, "%s %s\n", p.paint(good, "✓"), c.Claim)
			continue
		}
		english.Fprintf(p.W, "%s %s: %s\n", p.paint(bad, "✗"), c.Claim, p.paint(bad, english.Sprintf("%d times not", c.Bad)))
		for _, e := range c.Examples {
			fmt.Fprintf(p.W, "    %s\n", shorten(e, 240))
		}
		if c.Look != "" {
			fmt.Fprintf(p.W, "    %s\n", p.paint(faint, "look: "+c.Look))
		}
	}
	if !r.OK() && len(r.ServerErrors) > 0 {
		fmt.Fprintln(p.W, "\nthe servers logged:")
		for _, line := range r.ServerErrors {
			fmt.Fprintf(p.W, "    %s\n", shorten(line, 240))
		}
	}
}

func shorten(s string, most int) string {
	r := []rune(strings.ReplaceAll(s, "\n", " "))
	if len(r) <= most {
		return string(r)
	}
	return string(r[:most-1]) + "…"
}

func (p Printer) closing(r *Result) {
	t := r.Total
	summary := english.Sprintf("%d operations, %d requests: %d duplicates, %d lost, %d replays that differ.",
		t.Operations, t.Sent, t.Duplicates, t.Lost, t.Differ)
	if t.Operations < r.Planned {
		english.Fprintf(p.W, "The time was up after %d of %d operations; the rest was not begun.\n", t.Operations, r.Planned)
	}
	switch {
	case r.OK():
		fmt.Fprintln(p.W, p.paint(good, summary))
		fmt.Fprintln(p.W, "Whatever the clients and the network did, every operation happened once, and every answer to it was the same one.")
	default:
		fmt.Fprintln(p.W, p.paint(bad, summary))
	}
	if r.Charged != r.Acknowledged {
		english.Fprintf(p.W, "The accounts were charged %s %.2f; the partners know of %.2f.\n", currency, float64(r.Charged)/100, float64(r.Acknowledged)/100)
	}
	switch {
	case !r.Protected && r.OK():
		fmt.Fprintln(p.W, "The control found nothing wrong, which means that this run proves nothing: raise -operations.")
	case !r.Protected:
		fmt.Fprintf(p.W, "This is what retries do without idempotency keys. Run it with them: lending demo -seed %d\n", r.Seed)
	case !r.OK():
		fmt.Fprintf(p.W, "An invariant is broken. The same operations again, with the database kept to look at: lending demo -seed %d -operations %d -keep\n", r.Seed, r.Planned)
	}
}
