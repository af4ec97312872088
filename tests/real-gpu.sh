#!/usr/bin/env bash
# Repeats on a real GPU what CI does on software devices: what it is and whether it is sound, the exact and float checks and the hostile ones on every
# sound device that the system's own drivers show, both examples against their references in Rust, and the benchmark table with the card's
# own copy bandwidth and arithmetic beside it. Downloads nothing. Needs Rust and a driver; takes some minutes, nearly all of them compiling.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --quiet --locked -- devices
EVALMESH_REAL_GPU=1 cargo test --locked --test gpu
cargo bench --locked --no-default-features --features gpu,node --bench gpu
