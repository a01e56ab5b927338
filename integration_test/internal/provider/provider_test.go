package provider

import (
	"strings"
	"testing"

	"github.com/pgidem/pgidem/internal/localpg"
)

// What is forced and missing is a failure: a matrix that quietly tests the same
// server twice proves half of what it says.
func TestChoose_forced(t *testing.T) {
	for _, test := range []struct{ provider, url, host, want string }{
		{"postgres", "", "", "say docker, local or url"},
		{"url", "", "", "url needs IDEM_DATABASE_URL"},
		{"docker", "", "tcp://127.0.0.1:1", "no Docker engine"},
	} {
		t.Run(test.provider, func(t *testing.T) {
			t.Setenv(EnvProvider, test.provider)
			t.Setenv(localpg.EnvURL, test.url)
			if test.host != "" {
				t.Setenv("DOCKER_HOST", test.host)
			}
			if _, err := choose(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q in it", err, test.want)
			}
		})
	}
}

func TestChoose_default(t *testing.T) {
	t.Setenv(EnvProvider, "")
	t.Setenv(localpg.EnvURL, "postgres://127.0.0.1/test")
	if _, err := choose(t.Context()); err != nil || chosen != url {
		t.Errorf("with %s: %q, %v", localpg.EnvURL, chosen, err)
	}
	t.Setenv(localpg.EnvURL, "")
	t.Setenv(EnvImage, "pgidem.invalid/nowhere:0") // no engine has this one
	if _, err := choose(t.Context()); err != nil || chosen != local {
		t.Errorf("without an image: %q, %v", chosen, err)
	}
}
