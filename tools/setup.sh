#!/bin/sh
# Installs what a bare Debian 12 lacks to build, test and demonstrate Pleach, and the packages that
# its arguments name, each as "package: why". Asks for nothing, says what it does, and does nothing
# the second time. Debian's Go is too old; it is used once, to fetch the toolchain of go.mod as the Go
# module that it is, into .toolchain.
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
$(printf '%s\n' "$@")
EOF

install() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "setup: run as root, or: apt-get install --no-install-recommends $*" >&2
		exit 1
	fi
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || install $missing

# Pinned; its checksum is verified against the Go checksum database, as of every module.
toolchain=1.26.8
want=$(sed -n 's/^go //p' go.mod)

# new_enough: is the go on PATH as new as go.mod wants?
new_enough() {
	command -v go >/dev/null || return 1
	have=$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')
	[ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ]
}

PATH="$PWD/.toolchain/bin:$PATH"
if ! new_enough; then
	echo "missing: Go $want or newer; fetching $toolchain into .toolchain"
	install golang-go
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	echo 'module setup' >go.mod
	from=$(go mod download -json "golang.org/toolchain@v0.0.1-go$toolchain.linux-$(dpkg --print-architecture)" |
		sed -n 's/^.*"Dir": "\(.*\)",*$/\1/p')
	cd "$OLDPWD"
	rm -rf .toolchain .toolchain.new
	cp -r "$from" .toolchain.new
	chmod -R u+w .toolchain.new
	chmod +x .toolchain.new/bin/* .toolchain.new/pkg/tool/*/*
	mv .toolchain.new .toolchain
	missing=toolchain
	new_enough
fi
[ -n "$missing" ] || echo "setup: everything is there, with go $have"
