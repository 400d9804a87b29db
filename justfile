# The project's verbs; `just` lists them.
default:
    @just --list

# Build the binary.
build:
    cargo build --release

# Everything CI checks.
ci:
    bash .ci/run

# Format and lint.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Format in place.
fmt:
    cargo fmt --all

# README's test command.
test:
    cargo test --workspace

# Crashes and disk errors at every failpoint, on random schedules.
crashes *options:
    cargo build -p anneal-tests --bins
    target/debug/crash-checker {{options}}

# Accept or reject changed snapshots.
snapshots:
    cargo insta review

# Make the goldens again (needs torch, transformers and PEFT).
golden python="python3":
    {{python}} tests/fixtures/golden/make.py tests/fixtures/golden

# Make data/quickstart again.
quickstart-data:
    cargo run --release -p anneal-tests --bin make-quickstart -- data/quickstart

# Fuzz the manifest reader for a minute (cargo-fuzz on the stable compiler).
fuzz seconds="60":
    cd tests/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run manifest -- -max_total_time={{seconds}}
