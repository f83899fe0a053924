.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Arguments for what is run: make dev ARGS='--listen 127.0.0.1:9000', make test ARGS='-run Session -v' PKG=./tenants/...
ARGS ?=
PKG ?= ./...
# How long each fuzz target runs.
FUZZTIME ?= 10s

# A clone that belongs to somebody else, or no clone at all, is no reason not to build.
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)
GOBUILD := CGO_ENABLED=0 go build -buildvcs=$(VCS) -trimpath
TOOL := go tool -modfile=tools.mod

# Where goroutines meet.
RACE := ./catalog/... ./deploy/localpg/pgtest ./router/... ./tenants/...
# What can behave differently on another version of PostgreSQL, without what takes long.
FAST := ./catalog/... ./deploy/localpg/... ./migrations/... ./router/... ./tenants/...

.PHONY: help dev build man test test-fast kill race bench fuzz lint fmt verify setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

dev: setup build ## Run a whole rowhouse on this machine (Ctrl-C stops it)
	exec bin/rowhouse dev $(ARGS)

build: ## Build bin/rowhouse
	$(GOBUILD) -o bin/rowhouse ./cmd/rowhouse

man: build ## Write the man pages into bin/man
	bin/rowhouse man bin/man

test: ## Run all tests
	@.ci/setup test
	go test -timeout 15m -parallel 4 $(ARGS) $(PKG)

test-fast: setup ## Run the tests that another version of PostgreSQL could change
	go test -short -count=1 -timeout 10m -parallel 4 $(ARGS) $(FAST)

kill: setup ## Run the tests that break processes at failpoints
	@tests=$$(grep -rl --include=*_test.go '^//go:build failpoint' . | xargs grep -h '^func Test' | sed 's/^func \(Test[A-Za-z0-9_]*\).*/\1/' | paste -sd '|'); \
	go test -tags failpoint -timeout 15m -parallel 4 -run "^($$tests)$$" $(ARGS) ./internal/fp ./router ./tenants/jobs

race: setup ## Run the tests of concurrent packages under the race detector
	go test -race -short -timeout 15m -parallel 4 $(ARGS) $(RACE)

bench: setup ## Run the benchmarks
	go test -run '^$$' -bench . -benchmem $(ARGS) $(PKG)

fuzz: setup ## Run each fuzz target for FUZZTIME
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6-); do \
			echo "$$dir $$target"; go test "$$dir" -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME); \
		done; \
	done

lint: ## Check the form of the code: gofumpt, go vet, staticcheck
	@unformatted=$$($(TOOL) gofumpt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "make fmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(TOOL) staticcheck ./...

fmt: ## Format the code
	$(TOOL) gofumpt -w .

verify: ## Check that requirements, imports and documents agree with the code
	go mod verify
	go mod tidy -diff
	@if go list -deps ./cmd/rowhouse | grep -e /pgtest -e /testing$$; then echo 'the command links what is for tests only'; exit 1; fi
	@for target in $$(grep -ohE '(^|`)make [a-z-]+' README.md docs/*.md | sed 's/.*make //' | sort -u); do \
		grep -q "^$$target:" Makefile || { echo "documents speak of make $$target, which there is not"; exit 1; }; \
	done

setup: ## Find or install PostgreSQL
	@.ci/setup

clean: ## Delete what was built, and nothing else
	rm -rf bin
