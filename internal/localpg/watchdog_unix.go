//go:build unix

package localpg

import (
	"fmt"
	"io"
	"os"
	"os/exec"
)

// watchdog is a shell that outlives us. It reads a pipe whose write end only we
// hold, and cleans up when the pipe ends, however we ended.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// guardCluster stops the server "pid N" last told about, unless it is gone, and
// removes the directory $1. A pid is believed only while that process's command
// line names the directory (postgres -D $1/data …): it may have passed to somebody else.
const guardCluster = `
trap '' HUP INT QUIT TERM
dir=$1 pid=
while read -r word value; do
	case $word in
	pid) pid=$value ;;
	keep) exit 0 ;;
	esac
done
nap() { sleep 0.1 2>/dev/null || sleep 1; }
alive() {
	[ -n "$pid" ] || return 1
	if [ -d /proc/self ]; then
		args=$(tr '\0' ' ' <"/proc/$pid/cmdline")
	else
		args=$(ps -p "$pid" -o args=)
	fi 2>/dev/null
	case $args in *"$dir/data"*) return 0 ;; esac
	return 1
}
if alive; then
	kill -QUIT "$pid"
	kill -CONT "$pid"
	n=0
	while alive && [ $n -lt 100 ]; do nap; n=$((n + 1)); done
	if alive; then kill -KILL "$pid"; nap; fi
fi
# A killed server leaves a little System V memory, which its lock file names.
if [ -f "$dir/data/postmaster.pid" ]; then
	sed -n 7p "$dir/data/postmaster.pid" | while read -r key id; do ipcrm -m "$id"; done
fi
n=0
while [ -e "$dir" ] && [ $n -lt 100 ]; do
	rm -rf "$dir"
	[ ! -e "$dir" ] || nap
	n=$((n + 1))
done
`

// guardContainer removes the container $2 by the docker command $1. It tries again:
// a docker run that was under way when we died may create it a little later.
const guardContainer = `
trap '' HUP INT QUIT TERM
while read -r word value; do
	case $word in keep) exit 0 ;; esac
done
for pause in 0 1 3 6; do
	sleep $pause
	"$1" rm -f -v "$2"
	[ -n "$("$1" ps -a -q --filter "name=$2")" ] || [ $pause = 0 ] || exit 0
done
`

// startWatchdog starts a script as who. path is what it finds its programs by.
func startWatchdog(who *account, path, script string, args ...string) (*watchdog, error) {
	r, w, err := os.Pipe() // both ends are closed in programs that we start
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "pgidem-watchdog"}, args...)...)
	cmd.Stdin = r
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+path)
	isolate(cmd, who, true) // out of reach of Ctrl-C and of whoever kills our process group
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("localpg: start the watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: w}, nil
}

func (d *watchdog) tell(line string) error {
	_, err := io.WriteString(d.pipe, line+"\n")
	if err != nil {
		return fmt.Errorf("localpg: the watchdog is gone: %w", err)
	}
	return nil
}

// release lets the watchdog do its work and waits for it.
func (d *watchdog) release() error {
	d.pipe.Close()
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("localpg: the watchdog: %w", err)
	}
	return nil
}
