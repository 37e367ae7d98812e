#!/usr/bin/env bash
# Runs a "go build -v" and shows how far it is: a count instead of a thousand names. Anything else that
# it prints is passed on, and so is its exit code.
set -o pipefail
"$@" 2>&1 | awk -v tty="$([ -t 1 ] && echo 1)" '
	/^[a-z][^ :]*$/ { n++; if (tty) printf "\r  %d packages compiled", n; else if (n % 250 == 0) printf "  %d packages compiled\n", n; fflush(); next }
	{ print }
	END { if (tty && n) print "" }'
