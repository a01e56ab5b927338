# make demo and make test are all the set-up there is. They need Go and either PostgreSQL's server binaries, Docker, or a
# server named by IDEM_DATABASE_URL.

MODULES := . examples integration_test benchmarks
# The race detector needs a C compiler.
RACE    ?= $(if $(shell command -v $${CC:-cc} 2>/dev/null),-race)
FUZZTIME ?= 10s

GOFUMPT  := go run mvdan.cc/gofumpt@v0.12.0
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help
help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Drive 2,000 operations, with faults, at a partner API and count what happened in the database
	cd examples && go run ./lending demo $(DEMOFLAGS)

.PHONY: serve
serve: ## Keep the partner API up, with curl lines to paste
	cd examples && go run ./lending serve

.PHONY: test
test: ## Run every test of every module
	@set -e; for m in $(MODULES); do (cd $$m && go test $(RACE) $(TESTFLAGS) ./...); done

.PHONY: bench
bench: ## Measure what idempotency costs, side by side in one run
	cd benchmarks && go run ./cmd/bench $(BENCHFLAGS)

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME each
	@set -e; for d in idem idem/idemhttp; do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$d/*_test.go | sed 's/^func //'); do \
	    echo "$$d $$f"; go test ./$$d -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME); done; done

.PHONY: fmt
fmt: ## Format
	$(GOFUMPT) -w $(MODULES)

.PHONY: lint
lint: ## Check format, vet and linters in every module
	@out=$$($(GOFUMPT) -l .); [ -z "$$out" ] || { echo "not formatted, run make fmt:"; echo "$$out"; exit 1; }
	@set -e; for m in $(MODULES); do echo "lint $$m"; (cd $$m && go vet ./... && $(GOLANGCI) run --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: tidy
tidy: ## Check go.mod and go.sum of every module, and that each builds without the workspace
	@set -e; for m in $(MODULES); do echo "tidy $$m"; (cd $$m && GOWORK=off go mod tidy -diff && GOWORK=off go build ./... && GOWORK=off go vet ./...); done
	@! grep -n '^replace\|^	*replace ' go.mod || { echo "go.mod of the root module must not replace anything: go install …@latest refuses it"; exit 1; }
