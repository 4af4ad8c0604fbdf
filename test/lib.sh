# What the scripts in this folder share.  To be sourced by bash.
# shellcheck shell=bash

# shellcheck disable=SC2034   # used by those who source this file
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# "make check" is no sub-make of the make that it runs in turn
unset MAKEFLAGS MAKELEVEL MFLAGS

die()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Print the pg_config to build with: the caller's choice, or the first one that
# comes with what extensions need.  Nothing is printed when there is none.
find_pg_config()
{
	local c

	if [ -n "${PG_CONFIG:-}" ]; then
		command -v "$PG_CONFIG" || return 1
		return 0
	fi
	for c in pg_config /usr/lib/postgresql/{15,16,17,18}/bin/pg_config; do
		c=$(command -v "$c") || continue
		if [ -e "$("$c" --pgxs 2>/dev/null)" ] &&
			[ -x "$("$c" --bindir)/postgres" ]; then
			printf '%s\n' "$c"
			return 0
		fi
	done
	return 1
}

require_pg_config()
{
	PG_CONFIG=$(find_pg_config) ||
		die "no PostgreSQL server with its development files found: run test/setup, or set PG_CONFIG"
	export PG_CONFIG
}

# PostgreSQL refuses to run as root.  When root calls, servers run as this user;
# empty for everybody else.
server_user()
{
	local u

	if [ "$(id -u)" -ne 0 ]; then
		return 0
	fi
	for u in postgres nobody; do
		if getent passwd "$u" >/dev/null; then
			printf '%s\n' "$u"
			return 0
		fi
	done
	die "root cannot run PostgreSQL, and there is no user \"postgres\" or \"nobody\" to run it instead"
}

# as_user USER command...: run a command as USER, or directly when USER is
# empty.  No shell and no login in between, so signals go where they should.
as_user()
{
	local u=$1

	shift
	if [ -z "$u" ]; then
		"$@"
	else
		setpriv --reuid="$u" --regid="$(id -g "$u")" --clear-groups -- "$@"
	fi
}

# private_install TARGET: make a PostgreSQL installation below TARGET that looks
# like the system's and holds this checkout's extension.
#
# PostgreSQL finds its files relative to where its executable lies, so a copy of
# the executables with links to everything else is a whole installation, to
# which an ordinary user can add an extension.  The system's own is only read.
# The executables must be copies: PostgreSQL resolves symbolic links first.
private_install()
{
	local to=$1 bin lib share inc d f

	bin=$("$PG_CONFIG" --bindir)
	lib=$("$PG_CONFIG" --pkglibdir)
	share=$("$PG_CONFIG" --sharedir)
	inc=$("$PG_CONFIG" --includedir)

	if [ ! -e "$to/complete" ]; then
		mkdir -p "$to$bin" "$to$lib" "$to$share/extension" "$to$(dirname "$inc")"
		cp -Lp "$bin"/* "$to$bin/"
		for d in "$lib" "$share" "$share/extension"; do
			for f in "$d"/*; do
				case ${f##*/} in
					logq | logq.* | logq--* | logq_kafka | logq_resolve | extension) ;;
					*) ln -s "$f" "$to$d/" ;;
				esac
			done
		done
		# for pg_config, which moves along with its directory
		ln -s "$inc" "$to$inc"
		: >"$to/complete"
	fi

	rm -f "$to$share"/extension/logq{.control,--*.sql} "$to$lib/logq.so"
	make -s -C "$top" install "PG_CONFIG=$PG_CONFIG" "DESTDIR=$to" >/dev/null
}

# free_ports N [BASE]: print N ports on which nothing listens on 127.0.0.1.
# Below 32768, from where the kernel takes its ephemeral ones.
free_ports()
{
	local n=$1 port=${2:-} tries=0

	[ -n "$port" ] || port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
	while [ "$n" -gt 0 ]; do
		[ $((++tries)) -le 1000 ] || die "no free port found"
		[ "$port" -lt 32700 ] || port=20000
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			printf '%s\n' "$port"
			n=$((n - 1))
		fi
		port=$((port + 1))
	done
}

# 32 characters that nobody can guess
random_password()
{
	od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

# count_tap LOG STATUS: count the results in the TAP output that a program wrote
# to LOG before it ended with STATUS.  Prints "PASSED FAILED".  Tests that were
# planned and never came have failed, and so has a program without a plan, or
# with a status that its results do not explain.
count_tap()
{
	awk -v status="$2" '
		/^ok +[0-9-]/ { seen++; passed++ }
		/^not ok +[0-9-]/ { seen++; if (/# *TODO/) passed++; else failed++ }
		/^1\.\.[0-9]+/ { planned = 1; plan = substr($1, 4) + 0 }
		END {
			if (!planned)
				failed++
			else if (plan > seen)
				failed += plan - seen
			else if (plan < seen)
				failed++
			if (status != 0 && !failed)
				failed++
			print passed + 0, failed + 0
		}' "$1"
}

# count_regress LOG STATUS: the same for pg_regress, which began to speak TAP in
# PostgreSQL 16.
count_regress()
{
	awk -v status="$2" '
		/^ok [0-9]/ || /^(test)? .* \.\.\. ok / { passed++ }
		/^not ok [0-9]/ || /^(test)? .* \.\.\. FAILED/ { failed++ }
		END {
			if (status != 0 && !failed)
				failed++
			print passed + 0, failed + 0
		}' "$1"
}
