package localpg

import (
	"context"
	"fmt"
	"os"
)

const (
	sourceURL      = "url"
	sourceBinaries = "binaries"
	sourceDocker   = "docker"
	sourceDownload = "download"
)

// found is either a URL or a way to make a server of our own.
type found struct {
	source string
	url    string
	engine func(context.Context, Options) (engine, error)
}

// find takes the first source there is. What the user has set explicitly is used
// or complained about, never passed over.
func find(ctx context.Context, o Options) (found, error) {
	if url := os.Getenv(EnvURL); url != "" && !o.Private {
		return found{source: sourceURL, url: url}, nil
	}
	who, err := serverUser()
	if err != nil {
		return found{}, err
	}
	bin, err := findBinaries(ctx, who)
	if err != nil {
		return found{}, err
	}
	if bin != "" {
		return found{source: sourceBinaries, engine: newCluster(bin, who)}, nil
	}
	docker, noDocker := findDocker(ctx)
	if docker != "" {
		return found{source: sourceDocker, engine: newContainer(docker)}, nil
	}
	if o.Download == nil {
		return found{}, noDatabase(o, noDocker)
	}
	o.Logger.Debug("localpg: downloading a server")
	got, err := o.Download(ctx)
	if err != nil {
		return found{}, fmt.Errorf("%w (the download failed: %w)", noDatabase(o, noDocker), err)
	}
	if isURL(got) {
		if o.Private {
			return found{}, fmt.Errorf("%w (the download gives a URL, but a server is needed that can be stopped)", noDatabase(o, noDocker))
		}
		return found{source: sourceDownload, url: got}, nil
	}
	if !hasServer(got, who) {
		return found{}, fmt.Errorf("localpg: the download gave %s, where initdb and postgres cannot be run", got)
	}
	return found{source: sourceDownload, engine: newCluster(got, who)}, nil
}

func noDatabase(o Options, noDocker string) error {
	looked := EnvURL + " is not set"
	url := "or set " + EnvURL + " to a server on which the role may create databases, "
	if o.Private {
		looked, url = "a server is needed that can be stopped and started", ""
	}
	return fmt.Errorf("localpg: %w: %s, initdb and postgres are not on this machine, and %s.\n"+
		"Either install PostgreSQL's server package (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; "+
		"macOS: brew install postgresql), %sor start Docker",
		ErrNoDatabase, looked, noDocker, url)
}
