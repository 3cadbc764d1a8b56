# Warder's targets. `make run` and `make test` work on a fresh Debian machine with Go and gcc.
SHELL       := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BUILD := .build
BIN   := $(BUILD)/bin
# Tools are pinned here and nowhere else; each is built from its source by the Go module proxy.
BUF_VERSION          := v1.59.0
GOLANGCI_VERSION     := v2.5.0
PACKAGES := ./...

.PHONY: help deps deps-test build run demo test race lint vet generate generated-check fuzz e2e bench ci clean

help: ## show the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what running needs (SoftHSM 2, openssl)
	@deploy/install-packages softhsm2 openssl

deps-test: ## install what the tests need beyond that (NSS, p11-kit)
	@deploy/install-packages softhsm2 openssl libnss3 libnss3-tools p11-kit p11-kit-modules

build: ## build the binary .build/warder
	@mkdir -p $(BUILD)
	go build -trimpath -o $(BUILD)/warder ./cli/warder

run: deps build ## start three nodes on SoftHSM tokens, do the main job, and stay up until Ctrl-C
	@deploy/demo/demo --stay

demo: deps build ## the same six steps, then exit
	@deploy/demo/demo

test: deps-test ## all tests
	go test $(PACKAGES)

race: deps-test ## all tests under the race detector
	go test -race -short $(PACKAGES)

vet:
	go vet $(PACKAGES)

clean: ## remove what was built
	rm -rf $(BUILD) .demo
