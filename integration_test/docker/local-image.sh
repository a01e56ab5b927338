#!/bin/sh
# Makes a Docker image from the PostgreSQL server that is installed on this machine, for tests where no registry can be
# reached. It serves wherever the official image does in these tests: the same variables, the same two "ready" lines.
#
#   integration_test/docker/local-image.sh [TAG]        # defaults to pgidem/postgres:local
#   IDEM_TEST_PROVIDER=docker IDEM_TEST_IMAGE=pgidem/postgres:local TESTCONTAINERS_RYUK_DISABLED=true go test ./...
#
# Inside a container (where /.dockerenv exists) also TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1, when the engine runs in there too.
# Needs Linux, Docker, and Debian's or Ubuntu's PostgreSQL packages. Nothing is downloaded.
set -eu

tag=${1:-pgidem/postgres:local}
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
[ -x "${bin:-}/postgres" ] || { echo "no PostgreSQL in /usr/lib/postgresql: apt install postgresql" >&2; exit 1; }
server=${bin%/bin}
major=${server##*/}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/usr/bin" "$root/etc" "$root/tmp" "$root/var/run/postgresql" "$root/var/lib/postgresql"
chmod 1777 "$root/tmp" "$root/var/run/postgresql"
echo 'root:x:0:0:root:/root:/bin/sh
postgres:x:999:999:postgres:/var/lib/postgresql:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:
postgres:x:999:' >"$root/etc/group"

# with copies files to where they are on this machine, and the libraries that they load.
with() {
	for file; do
		mkdir -p "$root$(dirname "$file")"
		cp -L "$file" "$root$file"
		ldd "$file" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
			[ -e "$root$lib" ] || { mkdir -p "$root$(dirname "$lib")" && cp -L "$lib" "$root$lib"; }
		done
	done
}

with "$bin/postgres" "$bin/initdb" "$bin/pg_ctl" "$bin/psql"
for file in "$server"/lib/*.so; do
	case $file in */llvmjit*) ;; *) with "$file" ;; esac # jit is left out: it is most of the size
done
mkdir -p "$root/usr/share/postgresql/$major" "$root/usr/share/zoneinfo"
cp -rL "/usr/share/postgresql/$major/." "$root/usr/share/postgresql/$major"
cp -rL /usr/share/zoneinfo/UTC /usr/share/zoneinfo/Etc "$root/usr/share/zoneinfo"
for tool in sh cat chmod chown mkdir rm setpriv grep awk; do # the last two are what testcontainers-go looks for ports with
	path=$(command -v "$tool")
	with "$path"
	[ "$path" = "/bin/$tool" ] || ln -sf "$path" "$root/bin/$tool"
done

cat >"$root/entrypoint.sh" <<'ENTRYPOINT'
#!/bin/sh
set -eu
as_postgres() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	user=${POSTGRES_USER:-postgres}
	db=${POSTGRES_DB:-$user}
	method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
	mkdir -p "$PGDATA"
	chown 999:999 "$PGDATA"
	chmod 700 "$PGDATA"
	printf '%s\n' "${POSTGRES_PASSWORD:-postgres}" >/tmp/password
	chown 999 /tmp/password
	as_postgres initdb -D "$PGDATA" -U "$user" --pwfile=/tmp/password -A trust --locale=C -E UTF8 -N ${POSTGRES_INITDB_ARGS:-}
	rm /tmp/password
	echo "host all all all $method" >>"$PGDATA/pg_hba.conf"
	as_postgres pg_ctl -D "$PGDATA" -o "-c listen_addresses=" -w start
	[ "$db" = postgres ] || as_postgres psql -v ON_ERROR_STOP=1 -U "$user" -d postgres -c "CREATE DATABASE \"$db\""
	as_postgres pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec setpriv --reuid=999 --regid=999 --clear-groups "$@" -c listen_addresses='*'
ENTRYPOINT
chmod 755 "$root/entrypoint.sh"

tar -C "$root" -c . | docker import \
	--change "ENV PATH=$bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data LC_ALL=C" \
	--change 'ENTRYPOINT ["/entrypoint.sh"]' --change 'CMD ["postgres"]' \
	--change 'EXPOSE 5432' --change 'VOLUME /var/lib/postgresql/data' \
	- "$tag"
echo "$tag: PostgreSQL $("$bin/postgres" --version | cut -d' ' -f3)"
