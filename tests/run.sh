#!/usr/bin/env bash
# Installs what the tests need beyond Rust - software Vulkan drivers, without root, into target/drivers - then runs all of them. The one test
# command of the README. Where there are no pinned drivers the tests of GPUs say that they are skipped; in CI that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/drivers.sh || { [[ $? == 3 && -z ${CI:-} ]] || exit 1; }
exec cargo test --locked "$@"
