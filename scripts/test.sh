#!/usr/bin/env bash
# scripts/test.sh [ARGUMENT OF cargo test…]: every test of the workspace, and one line that sums them up.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
scripts/setup.sh build
# `cargo test` alone does not build the binary that the tests of the command line start.
build "building cryostore" build "${locked[@]}" --release --workspace
build "building the tests" test "${locked[@]}" --release --workspace --no-run

log=$(mktemp)
at_exit "rm -f '$log'"
status=0
cargo test "${locked[@]}" --release --workspace --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
summary=$(sed 's/\x1b\[[0-9;]*m//g' "$log" |
  awk '/^test result:/ {p += $4; f += $6; s += $8} END {printf "%d passed, %d failed, %d skipped", p, f, s}')
printf '\n%s\n' "$summary" | tee "$CARGO_TARGET_DIR/last-test-summary"
if ((status == 0)) && [[ $summary == "0 passed, 0 failed"* ]]; then die "no test ran"; fi
exit "$status"
