# Warder's targets. `make run` and `make test` work on a fresh Debian machine with Go and gcc, as root or with sudo.
SHELL       := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BUILD := .build
BIN   := $(CURDIR)/$(BUILD)/bin
# Tools are pinned here and nowhere else; each is built from source by way of Go's module proxy.
BUF            := github.com/bufbuild/buf/cmd/buf@v1.75.0
PROTOC_GEN_GO  := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_CONNECT := connectrpc.com/connect/cmd/protoc-gen-connect-go@v1.21.1
GOLANGCI       := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# How long each fuzz target runs in CI.
FUZZTIME := 3s
# The battery of faults mounts file systems and makes network namespaces.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")

.PHONY: help deps deps-test tools build run demo test race lint generate generated-check breaking fuzz e2e faults deps-faults bench benchmarks ci clean

help: ## show the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what running needs: SoftHSM 2, openssl, curl, jq
	@deploy/install-packages softhsm2 openssl curl jq

deps-test: deps ## install what the tests need beyond that: NSS and p11-kit
	@deploy/install-packages libnss3 libnss3-tools p11-kit p11-kit-modules

build: ## build the binary .build/warder
	@mkdir -p $(BUILD)
	go build -trimpath -o $(BUILD)/warder ./cli/warder

run: deps build ## start three nodes on SoftHSM tokens, do the main job, and stay up until Ctrl-C
	@deploy/demo/demo --stay

demo: deps build ## the same six steps, then exit
	@deploy/demo/demo

deps-faults: deps ## install what the battery of faults injects them with
	@deploy/install-packages strace iproute2 iptables e2fsprogs xfsprogs nbdkit libnbd-bin fuse3

test: deps-test ## all tests
	go test -short -timeout 20m ./...

race: deps-test ## all tests under the race detector
	go test -race -short -timeout 25m ./...

# A tool is built again when its pinned version changes: the version is part of the stamp's name.
tools: $(BIN)/.buf-$(lastword $(subst @, ,$(BUF))) $(BIN)/.gen-$(lastword $(subst @, ,$(PROTOC_CONNECT))) ## build the pinned tools

$(BIN)/.buf-%:
	GOBIN=$(BIN) go install $(BUF)
	@touch $@

$(BIN)/.gen-%:
	GOBIN=$(BIN) go install $(PROTOC_GEN_GO)
	GOBIN=$(BIN) go install $(PROTOC_CONNECT)
	@touch $@

$(BIN)/.golangci-%:
	GOBIN=$(BIN) go install $(GOLANGCI)
	@touch $@

lint: tools $(BIN)/.golangci-$(lastword $(subst @, ,$(GOLANGCI))) ## vet, golangci-lint, and buf's lint of the API
	go vet -tags battery,root ./...
	$(BIN)/golangci-lint run ./...
	$(BIN)/buf lint

generate: tools ## generate the API's code
	$(BIN)/buf format -w --path api/warder
	$(BIN)/buf generate

generated-check: generate ## fail where the committed code is not what the .proto files give
	git diff --exit-code -- api

breaking: tools ## fail where the API breaks callers of the last release
	deploy/check-breaking $(BIN)/buf

fuzz: ## run every fuzz target for a moment
	deploy/fuzz $(FUZZTIME)

e2e: build deps ## real processes: the battery of faults in its short form, and the demonstration
	go test -tags battery -short -count 1 -timeout 20m -v ./cli/battery ./cli/battery/speed
	deploy/demo/demo

faults: deps deps-faults ## the battery of faults in its long form: at most an hour, as root; RUN= names tests, SEED= repeats
	$(ROOT) env WARDER_SEED=$(SEED) go test -tags battery,root -count 1 -timeout 70m -v -run '$(RUN)' ./cli/battery

bench: deps ## the tables of docs/performance.md, side by side with their floors: 30 minutes on an idle machine; RUN= names some
	@mkdir -p $(BUILD) && rm -f $(BUILD)/performance.md
	WARDER_SPEED_REPORT=$(CURDIR)/$(BUILD)/performance.md go test -tags battery -count 1 -timeout 90m -v -run '$(RUN)' ./cli/battery/speed
	@echo "the tables are in $(BUILD)/performance.md"

benchmarks: ## the benchmarks of every package
	go test -run '^$$' -bench . -benchmem ./...

ci: test lint generated-check breaking race fuzz e2e ## what CI runs: the tests and the slower checks
	@echo "ci: all passed"

clean: ## remove what was built
	rm -rf $(BUILD) .demo
