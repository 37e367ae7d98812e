# `make help` lists the targets. `sh tools/setup.sh` installs what a bare Debian lacks for them.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The node binaries are the programs that run once per pod or per call: see agent/embedded.
ASSETS  := agent/embedded/assets
NODE    := $(patsubst %,$(ASSETS)/%.zst,containerd-shim-runc-v2 pleach-cni runc pleach-pause)
GOBUILD := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath
STRIP   := -s -w

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: node-binaries ## build bin/pleach, with the node binaries inside
	$(GOBUILD) -ldflags "$(STRIP) -X main.version=$(VERSION)" -o bin/pleach ./cmd/pleach

.PHONY: node-binaries
node-binaries: $(NODE) ## build the shim, the CNI plugin, runc and pause, where out of date

bin/node/containerd-shim-runc-v2: go.mod $(wildcard cmd/pleach-shim/*.go)
	$(GOBUILD) -ldflags "$(STRIP)" -o $@ ./cmd/pleach-shim

bin/node/pleach-cni: go.mod $(wildcard cmd/pleach-cni/*.go netplugins/cni/*.go netplugins/ipam/*.go)
	$(GOBUILD) -ldflags "$(STRIP)" -o $@ ./cmd/pleach-cni

# The one program that needs cgo, for libseccomp. Static, so that it runs on any distribution.
bin/node/runc: tools/runc/go.mod
	cd tools/runc && CGO_ENABLED=1 $(GO) build -buildvcs=false -trimpath -tags "seccomp netgo osusergo" \
		-ldflags '$(STRIP) -extldflags "-static"' -o ../../$@ github.com/opencontainers/runc

bin/node/pleach-pause: cmd/pleach-pause/pause.c
	mkdir -p bin/node
	$(CC) -std=gnu11 -Os -Wall -Wextra -Werror -static -s -o $@ $<

$(ASSETS)/%.zst: bin/node/%
	zstd -q -f -15 -o $@.tmp $< && mv $@.tmp $@

.PHONY: lint-tools
lint-tools: bin/golangci-lint ## build the linter of tools/go.mod (minutes, the first time)

bin/golangci-lint: tools/go.mod
	cd tools && CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "$(STRIP)" -o ../$@ \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist $(ASSETS)/*.zst $(ASSETS)/*.tmp
