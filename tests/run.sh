#!/usr/bin/env bash
# Installs what the tests need beyond Rust (today: nothing), then runs all of them. The one test command of the README.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo test --locked "$@"
