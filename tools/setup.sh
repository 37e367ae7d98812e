#!/bin/sh
# Installs what a bare Debian 12 lacks to build, test and demonstrate Pleach. Asks for nothing, says
# what it does, and does nothing the second time. The Go toolchain is the one thing it does not
# install: Debian's is too old.
set -eu

cd "$(dirname "$0")/.."

# package: why
packages='
ca-certificates: TLS to Git servers and registries
curl: the demonstration asks its services
gcc: runc (libseccomp) and the pause program
git: commits, and the Git server of tests and demonstration
iproute2: tests of the pod network
libc6-dev: runc and the pause program, static
libseccomp-dev: runc with seccomp
make: the Makefile
nftables: tests of the pod network
openssh-client: signs and verifies commits
pkg-config: finds libseccomp
procps: the demonstration shows processes
zstd: packs the node binaries
'

missing=
while IFS=: read -r package why; do
	[ -n "$package" ] || continue
	if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$'; then
		echo "missing: $package:$why"
		missing="$missing $package"
	fi
done <<EOF
$packages
EOF

if [ -n "$missing" ]; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "setup: run as root, or: apt-get install --no-install-recommends$missing" >&2
		exit 1
	fi
	apt-get update -q
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

want=$(sed -n 's/^go //p' go.mod)
if ! command -v go >/dev/null; then
	echo "setup: no Go toolchain on PATH: install go $want or newer from https://go.dev/dl" >&2
	exit 1
fi
have=$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')
oldest=$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)
if [ "$oldest" != "$want" ]; then
	echo "setup: Go $have is too old: install go $want or newer from https://go.dev/dl" >&2
	exit 1
fi
[ -n "$missing" ] || echo "setup: everything is there, with go $have"
