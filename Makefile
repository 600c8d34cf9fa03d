# The two commands to know: `make run` and `make test`.

GO            ?= go
CACHE         ?= $(or $(BONDMATE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bondmate)
GOLANGCI      := $(CACHE)/bin/golangci-lint-v2.15.0
GOVULNCHECK   := $(CACHE)/bin/govulncheck-v1.9.0
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS       := -s -w -X main.version=$(VERSION)
TEST_FLAGS    ?= -shuffle=on -timeout 25m
# A password's hash reads its 19 MiB over and over: under the race detector that was half of
# what the tests cost. Its own code is a library's and is left out; who calls it is not.
RACE          := -race -gcflags=golang.org/x/crypto/argon2=-race=false
PKGS          ?= ./...
HISTORIES     ?= 2000000
FUZZTIME      ?= 30s

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/bondmate
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/bondmate ./cmd/bondmate

.PHONY: run
run: build ## start everything on embedded defaults: API, demo, broker, database, push stand-in
	./bin/bondmate all

.PHONY: test
test: ## set up what the tests need, then run all of them with the race detector
	.ci/test $(RACE) $(TEST_FLAGS) $(PKGS)

.PHONY: test-race
test-race: test ## the same as test

.PHONY: test-quick
test-quick: ## the tests without the race detector and without Apache Kafka
	$(GO) test -short $(TEST_FLAGS) $(PKGS)

.PHONY: model
model: ## 2,000,000 random histories of the rules (HISTORIES=n for another number), with progress
	GOGC=400 $(GO) test -count=1 -v -timeout 120m -run 'TestManyHistories' ./pkg/partner -histories $(HISTORIES)

.PHONY: fuzz
fuzz: ## every fuzz target in turn, each for a while (FUZZTIME=30s)
	.ci/fuzz $(FUZZTIME)

.PHONY: abuse
abuse: ## 10,000 idle and 2,000 dripping connections, huge and packed requests: what they cost (prints a table)
	$(GO) test -count=1 -v -timeout 15m -run '^TestAbuse$$' ./cmd/bondmate/e2e -idle 10000 -slow 2000 -abuse 15s

.PHONY: lint
lint: $(GOLANGCI) vuln ## static analysis, architecture rules, formatting, known vulnerabilities
	$(GOLANGCI) run --allow-parallel-runners ./...

.PHONY: vuln
vuln: $(GOVULNCHECK) ## known vulnerabilities in what is called, where their database can be reached
	.ci/vuln $(GOVULNCHECK)

$(GOVULNCHECK):
	@mkdir -p $(dir $@)
	GOBIN=$(dir $@) $(GO) install golang.org/x/vuln/cmd/govulncheck@v1.9.0
	mv $(dir $@)govulncheck $@

$(GOLANGCI):
	@mkdir -p $(dir $@)
	GOBIN=$(dir $@) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(dir $@)golangci-lint $@

.PHONY: generate
generate: ## regenerate code from the OpenAPI document
	$(GO) generate ./...

.PHONY: bench
bench: build ## latency and throughput on the embedded defaults (prints a report)
	.ci/bench

.PHONY: bench-sockets
bench-sockets: ## 5,000 sockets next to a bare gorilla server: memory, latency, throughput (prints a table)
	@mkdir -p bin
	$(GO) test -count=1 -v -timeout 30m -run '^TestSockets$$' ./realtime -sockets 5000 -rate 2000 -for 10s -settle 5s -rounds 5 -topic 300000 -out $(CURDIR)/bin

.PHONY: bench-pushes
bench-pushes: ## pushes a second of one notifier, against a stand-in that answers at once and after 50 ms
	$(GO) test -run '^$$' -bench Pushes -benchtime 20000x ./notifier

.PHONY: clean
clean: ## remove the binary and the development state
	rm -rf bin .bondmate
