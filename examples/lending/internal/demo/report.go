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
		p.legend(r)
		fmt.Fprintln(p.W)
	}
	p.checks(r)
	if !p.Quiet {
		fmt.Fprintln(p.W)
	}
	p.closing(r)
}

func (p Printer) heading(r *Result) {
	title := "A lending API on pgidem. Its clients retry, race, send other bodies and hang up; its handlers panic."
	if !r.Protected {
		title = "CONTROL, WITHOUT pgidem: the same API and the same clients, in plain transactions."
	}
	fmt.Fprintln(p.W, p.paint(bold, title))
	fmt.Fprintf(p.W, "%s · %d servers · %d projects · %d clients · seed %d\n", r.Database, replicas, projects, projects*clients, r.Seed)
	english.Fprintf(p.W, "%d operations, %d requests in %.1f s\n", r.Total.Operations, r.Total.Sent, r.Elapsed.Seconds())
}

func (p Printer) table(r *Result) {
	t := table.NewWriter()
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true, SeparateFooter: true}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header, style.Format.Footer = text.FormatDefault, text.FormatDefault
	t.SetStyle(style)

	// Empty columns set apart what was done, what became of it, and what must be 0.
	t.AppendHeader(table.Row{
		"POST /partner/v1", "oper-\nations", "sent", "cut\noff", "panics", "",
		"run", "refused", "replayed", "reused\n422", "waited", "",
		"dupli-\ncates", "lost", "replays\ndiffer",
	})
	for _, row := range r.Rows {
		t.AppendRow(p.row(r, row))
	}
	t.AppendFooter(p.row(r, r.Total))
	var configs []table.ColumnConfig
	for n := 2; n <= 15; n++ {
		configs = append(configs, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight, AlignFooter: text.AlignRight})
	}
	t.SetColumnConfigs(configs)
	for line := range strings.Lines(t.Render()) {
		fmt.Fprintln(p.W, strings.TrimRight(line, " \n"))
	}
}

func (p Printer) row(r *Result, row Row) table.Row {
	n := func(n int) string { return english.Sprintf("%d", n) }
	key := func(i int) string { // the control has no keys
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
		row.Endpoint, n(row.Operations), n(row.Sent), n(row.Cut), n(row.Panics), "",
		n(row.Run), key(row.Refused), key(row.Replayed), key(row.Reused), key(row.Waited), "",
		zero(row.Duplicates), zero(row.Lost), zero(row.Differ),
	}
}

func (p Printer) legend(r *Result) {
	lines := [][2]string{
		{"sent", "1 to 5 times each, at once and later, over several connections to two servers; again if not answered"},
		{"cut off, panics", "the client hung up before the answer; the handler panicked between its writes and the commit"},
		{"run", "rows in the business tables, which have no unique constraint on anything that a client sends"},
	}
	if r.Protected {
		lines = append(lines, [][2]string{
			{"refused", "declined charges and lost slots, remembered in idem.keys; run + refused = operations"},
			{"replayed", "answered from the record; 422: another body under the same key; waited: for the first one to end"},
			{"counted", "run, refused, duplicates and lost by SQL; replayed, 422 and waited by the servers"},
		}...)
	}
	for _, l := range lines {
		fmt.Fprintln(p.W, p.paint(faint, fmt.Sprintf("%-16s %s", l[0], l[1])))
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
		fmt.Fprintf(p.W, "%s %s: %s\n", p.paint(bad, "✗"), c.Claim, p.paint(bad, english.Sprintf("broken %d×", c.Bad)))
		for _, e := range c.Examples {
			fmt.Fprintf(p.W, "    %s\n", shorten(e, 200))
		}
		if c.Look != "" {
			fmt.Fprintf(p.W, "    %s\n", p.paint(faint, "look: "+c.Look))
		}
	}
	if !r.OK() && len(r.ServerErrors) > 0 {
		fmt.Fprintln(p.W, "\nthe servers logged:")
		for _, line := range r.ServerErrors {
			fmt.Fprintf(p.W, "    %s\n", shorten(line, 200))
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
	case r.OK() && r.Protected:
		fmt.Fprintln(p.W, p.paint(good, summary))
		fmt.Fprintln(p.W, "Whatever the clients and the network did, every operation happened once, and every answer to it was the same one.")
	default:
		fmt.Fprintln(p.W, p.paint(bad, summary))
	}
	if r.Charged != r.Acknowledged {
		english.Fprintf(p.W, "%s %.2f were to be charged. %.2f were.\n", currency, float64(r.Acknowledged)/100, float64(r.Charged)/100)
	}
	switch {
	case !r.Protected && r.OK():
		fmt.Fprintln(p.W, "The control found nothing wrong, so it shows nothing: give it more -operations.")
	case !r.Protected:
		fmt.Fprintln(p.W, "That is what retries do without idempotency keys. With them:", command(r))
	case r.OK():
		fmt.Fprintln(p.W, "The same without idempotency keys:", command(r), "-without-idem")
	default:
		fmt.Fprintln(p.W, "An invariant is broken. The same again, with the database kept to look at:", command(r), "-keep")
	}
}

// command is what to type for the same operations.
func command(r *Result) string {
	return fmt.Sprintf("go run ./examples/lending demo -operations %d -seed %d", r.Planned, r.Seed)
}
