# `make help` lists the targets. What a bare Debian lacks for them, `make setup` installs; the targets
# that need it call it themselves.

# The toolchain that setup fetches where the machine has none that is new enough, or else the machine's.
export PATH := $(CURDIR)/.toolchain/bin:$(PATH)
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The node binaries are the programs that run once per pod or per call: see agent/embedded.
ASSETS  := agent/embedded/assets
NODE    := $(patsubst %,$(ASSETS)/%.zst,containerd-shim-runc-v2 pleach-cni runc pleach-pause)
GOBUILD := CGO_ENABLED=0 $(GO) build
STRIP   := -s -w

DEMO_DIR ?= /srv/pleach-demo

export GOFLAGS = -buildvcs=false -trimpath
TEST   = bin/gotestsum

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: node-binaries ## build bin/pleach, with the node binaries inside
	@echo "building bin/pleach: some minutes the first time, seconds after that"
	@bash tools/progress.sh env $(GOBUILD) -v -ldflags "$(STRIP) -X main.version=$(VERSION)" -o bin/pleach ./cmd/pleach

.PHONY: node-binaries
node-binaries: $(NODE) ## build the shim, the CNI plugin, runc and pause, where out of date

bin/node/containerd-shim-runc-v2: go.mod $(wildcard cmd/pleach-shim/*.go)
	$(GOBUILD) -ldflags "$(STRIP)" -o $@ ./cmd/pleach-shim

bin/node/pleach-cni: go.mod $(wildcard cmd/pleach-cni/*.go netplugins/cni/*.go netplugins/ipam/*.go)
	$(GOBUILD) -ldflags "$(STRIP)" -o $@ ./cmd/pleach-cni

# The one program that needs cgo, for libseccomp. Static, so that it runs on any distribution.
bin/node/runc: tools/runc/go.mod
	cd tools/runc && CGO_ENABLED=1 $(GO) build -tags "seccomp netgo osusergo" \
		-ldflags '$(STRIP) -extldflags "-static"' -o ../../$@ github.com/opencontainers/runc

bin/node/pleach-pause: cmd/pleach-pause/pause.c
	mkdir -p bin/node
	$(CC) -std=gnu11 -Os -Wall -Wextra -Werror -static -s -o $@ $<

$(ASSETS)/%.zst: bin/node/%
	zstd -q -f -15 -o $@.tmp $< && mv $@.tmp $@

.PHONY: setup
setup: ## install what is missing, through apt and Go modules; says what
	@sh tools/setup.sh

.PHONY: demo
demo: setup build bin/demo ## start a flock on this machine to try Pleach with, and say what to try (root): NODES=3
	@bin/demo -dir $(DEMO_DIR) -nodes $(or $(NODES),3) up

.PHONY: bin/demo
bin/demo:
	@bash tools/progress.sh env $(GOBUILD) -v -o $@ ./e2e/demo

.PHONY: demo-down
demo-down: ## take the demo away again
	@test ! -d $(DEMO_DIR) || { $(MAKE) --no-print-directory build bin/demo && bin/demo -dir $(DEMO_DIR) down; }
	@echo "the demo is gone"

# The short tests with the race detector: what one runs after each change. The detector would let
# every process sleep for a second before its end.
.PHONY: unit
unit: bin/gotestsum ## unit tests with the race detector; no root, under a minute
	PLEACH_TESTS=unit GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 $(TEST) --format pkgname-and-test-fails --hide-summary skipped -- -race -short ./...

# Everything in full; one package at a time, since the nodes of end-to-end tests want both cores.
.PHONY: kernel
kernel: bin/gotestsum build ## all tests in full, with real containerd, nftables and namespaces (root)
	CGO_ENABLED=0 $(TEST) --format pkgname-and-test-fails --hide-summary output -- -p 1 -timeout 30m ./...

.PHONY: test
test: setup unit kernel ## all tests
	@echo "make test: all tests passed"

# Not part of "make test": it takes minutes, most of them in emulation.
.PHONY: test-cgroup2
test-cgroup2: setup bin/gotestsum node-binaries ## a node on a kernel with cgroup v2 alone, in a virtual machine; nightly
	@sh tools/setup.sh "e2fsprogs: the virtual machine's disk" "qemu-system-x86: the virtual machine"
	PLEACH_TESTS=cgroup2 PLEACH_NO_SKIP=1 CGO_ENABLED=0 $(TEST) --format testname -- -count=1 -timeout 60m ./e2e/cgroup2

# Several nodes on this machine, under what takes minutes or an hour to show.
.PHONY: test-nightly
test-nightly: setup bin/gotestsum build ## flocks without Git for ten minutes, starved for an hour, frozen (root); LONG=5m for less; nightly
	PLEACH_TESTS=nightly PLEACH_LONG=$(LONG) PLEACH_NO_SKIP=1 CGO_ENABLED=0 $(TEST) --format testname -- -count=1 -timeout 150m -run 'Night|AgentAway' ./e2e/flock

.PHONY: test-arm64
test-arm64: setup bin/gotestsum ## the same plans on arm64, emulated; nightly
	@sh tools/setup.sh "qemu-user-static: the other architecture"
	PLEACH_TESTS=arm64 PLEACH_NO_SKIP=1 CGO_ENABLED=0 $(TEST) --format testname -- -count=1 -timeout 30m -run ARM64 ./placement

.PHONY: check
check: setup lint-tools node-binaries ## lint, format, module tidiness, generated files
	CGO_ENABLED=0 bin/golangci-lint run --allow-parallel-runners ./...
	bin/golangci-lint fmt --diff ./...
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff
	cd tools/runc && $(GO) mod tidy -diff
	@echo "make check: nothing to complain of"

.PHONY: bench
bench: setup build ## the benchmarks, as a table (root)
	CGO_ENABLED=0 $(GO) run ./e2e/bench

.PHONY: bench-peers
bench-peers: setup build ## the same on several nodes, with Docker Swarm beside it where docker.io is installed (root)
	CGO_ENABLED=0 $(GO) run ./e2e/bench -only three,loss,peers

SEED  ?= 1
SEEDS ?= 200
NODES ?= 1,2,3
HOURS ?= 0.1

.PHONY: sim
sim: ## live the lives of simulated flocks under faults: SEED= SEEDS= NODES= HOURS= FLAGS= (docs/testing.md)
	CGO_ENABLED=0 $(GO) run ./e2e/sim/cmd -seed $(SEED) -seeds $(SEEDS) -nodes $(NODES) -hours $(HOURS) $(FLAGS)

.PHONY: lint-tools
lint-tools: bin/golangci-lint ## build the linter of tools/go.mod (minutes, the first time)

bin/golangci-lint: tools/go.mod
	cd tools && CGO_ENABLED=0 $(GO) build -ldflags "$(STRIP)" -o ../$@ \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/gotestsum: tools/go.mod
	cd tools && CGO_ENABLED=0 $(GO) build -o ../$@ gotest.tools/gotestsum

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist $(ASSETS)/*.zst $(ASSETS)/*.tmp
