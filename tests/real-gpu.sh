#!/usr/bin/env bash
# Repeats on a real GPU what CI does on software devices: what it is and whether it is sound, the exact and float checks and the hostile ones on
# the best sound device that the system's own drivers show, both examples against their references in Rust, and the benchmark table with the card's
# own copy bandwidth and arithmetic beside it. Downloads nothing. Needs Rust and a driver; takes some minutes, nearly all of them compiling.
#
#   tests/real-gpu.sh                on the drivers that the system has
#   tests/real-gpu.sh --software     a rehearsal on the lavapipe of tests/drivers.sh, with one round of each benchmark: to see that this script works
#
# Exit codes: 0 all of it passed; 2 it was called in another way; 3 no device is sound; anything else: a check failed.
set -euo pipefail
cd "$(dirname "$0")/.."

bench=()
case ${1:-} in
"") ;;
--software)
    folder=${EVALMESH_DRIVERS:-$PWD/target/drivers}
    environment=$(tests/drivers.sh env)
    eval "$environment"
    export VK_DRIVER_FILES=$folder/lavapipe.json
    bench=(-- --test)
    ;;
*)
    echo "usage: tests/real-gpu.sh [--software]" >&2
    exit 2
    ;;
esac

devices=$(cargo run --quiet --locked -- devices)
echo "$devices"
# Without a sound device everything below would have nothing to say and say that it passed.
grep -q '^verdict *sound$' <<<"$devices" || {
    echo "tests/real-gpu.sh: no device is sound" >&2
    exit 3
}
EVALMESH_REAL_GPU=1 cargo test --locked --test gpu
cargo bench --locked --no-default-features --features gpu,node --bench gpu "${bench[@]}"
