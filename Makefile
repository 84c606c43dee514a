SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Arguments of `make demo`, `make chaos` and `make fuzz`: make demo ARGS="--events 1000"
ARGS ?=

.PHONY: help
help: ## Show the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what the build and the tests need and is missing
	scripts/setup test

.PHONY: build
build: ## Build target/release/veilstream
	scripts/setup build
	cargo build --release --locked

.PHONY: demo
demo: build ## Build, then run the demo (ARGS="..." are its arguments)
	./target/release/veilstream demo $(ARGS)

.PHONY: check
check: ## Formatting, lints, documentation
	scripts/setup build
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --document-private-items

.PHONY: deny
deny: ## Licences, sources, banned and duplicate crates
	scripts/deny

.PHONY: test
test: ## All tests, against a Kafka broker that they start
	scripts/setup test
	tests/kafka/broker lib
	cargo test --locked

.PHONY: fuzz
fuzz: ## Inputs that nobody thought of, for 30 s a target. ARGS: seconds, and names of targets
	scripts/setup build
	scripts/fuzz $(ARGS)

.PHONY: chaos
chaos: ## Faults of brokers, networks, disks, clocks and workers; as root, a quarter of an hour. ARGS: names of faults
	scripts/setup chaos
	tests/kafka/broker lib
	rm -rf target/chaos
	cargo test --locked --test chaos --no-run
	tests/kafka/isolated cargo test --locked --offline --test chaos -- --ignored --test-threads 1 --nocapture $(ARGS)
	@cat target/chaos/*.row

.PHONY: bench
bench: ## Benchmarks, with ratios taken in one run; the one on Kafka needs about 10 GB of disk
	scripts/setup test
	tests/kafka/broker lib
	cargo bench --locked --bench rewrite
	cargo bench --locked --bench groups
	cargo bench --locked --bench aggregates
	cargo bench --locked --bench of_many
	cargo bench --locked --bench keys
	cargo bench --locked --bench kafka

.PHONY: image
image: ## The container image, and its SBOM in target/image
	docker/build

.PHONY: image-test
image-test: ## Lint, build and run the image; as root, without a Docker engine, a quarter of an hour
	docker/test

.PHONY: clean
clean: ## Remove target/
	cargo clean
