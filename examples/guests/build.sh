#!/bin/sh
# Rebuilds every guest in this folder. Debian packages:
#   clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32 binaryen wabt
# Nobody needs them to use the guests: the .wasm files are committed, and the tests compare what they compute, not their bytes.
set -eu
cd "$(dirname "$0")"

for source in *.c; do
    clang-19 --target=wasm32-wasi -std=gnu11 -O2 -Wall -Wextra -Wl,--strip-all -o "${source%.c}.wasm" "$source"
    wasm-opt -Oz --strip-debug --strip-producers "${source%.c}.wasm" -o "${source%.c}.wasm"
done
for source in *.wat; do
    case $source in
        # wabt knows no components.
        *.component.wat) (cd ../.. && cargo run --quiet --no-default-features --example assemble -- "examples/guests/$source" "examples/guests/${source%.wat}.wasm") ;;
        *) wat2wasm "$source" -o "${source%.wat}.wasm" ;;
    esac
done
wc -c ./*.wasm
