package idem_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents are the texts whose code and links are checked, with the folder that their links start from.
var documents = []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}

func readDocument(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	noError(t, err)
	return string(b)
}

// Code in README is compiled: each Go block is a run of lines of an example.
func TestREADME_code(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, pattern := range []string{"example*_test.go", "idemhttp/example*_test.go"} {
		files, err := filepath.Glob(pattern)
		noError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			noError(t, err)
			code.WriteString(squeeze(string(b)))
		}
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readDocument(t, "README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("README has no Go code")
	}
	for _, b := range blocks {
		if !strings.Contains(code.String(), squeeze(b[1])) {
			t.Errorf("no example has this code:\n%s", b[1])
		}
	}
}

// squeeze drops blank lines and what stands around a line.
func squeeze(s string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(s, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// A link into the repository leads to something, and one that names a test leads to that test.
func TestREADME_links(t *testing.T) {
	t.Parallel()
	tests := 0
	for _, doc := range documents {
		for _, m := range regexp.MustCompile(`\[([^\]]+)\]\(([^)\s]+)\)`).FindAllStringSubmatch(readDocument(t, doc), -1) {
			text, target := m[1], m[2]
			if strings.Contains(target, "://") {
				continue
			}
			if anchor, ok := strings.CutPrefix(target, "#"); ok {
				if !strings.Contains(anchors(readDocument(t, doc)), "\n"+anchor+"\n") {
					t.Errorf("%s: no heading for #%s", doc, anchor)
				}
				continue
			}
			b, err := os.ReadFile(filepath.Join("..", target))
			if err != nil {
				if s, statErr := os.Stat(filepath.Join("..", target)); statErr != nil || !s.IsDir() {
					t.Errorf("%s: %v", doc, err)
				}
				continue
			}
			if name := strings.Trim(text, "`"); regexp.MustCompile(`^(Test|Fuzz|Example)[A-Za-z0-9_]+$`).MatchString(name) {
				tests++
				if !strings.Contains(string(b), "func "+name+"(") {
					t.Errorf("%s: %s is not in %s", doc, name, target)
				}
			}
		}
	}
	if tests < 10 {
		t.Errorf("README links %d tests: is the table of what happens still there?", tests)
	}
}

// anchors returns the anchors that GitHub makes of the headings, one a line.
func anchors(doc string) string {
	var b strings.Builder
	b.WriteString("\n")
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(doc, -1) {
		s := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		b.WriteString(strings.ReplaceAll(s, " ", "-") + "\n")
	}
	return b.String()
}
