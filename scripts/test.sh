#!/usr/bin/env bash
# scripts/test.sh [ARGUMENT OF cargo test…]: every test of the workspace, and one line that sums them up.
# The stores of others that some of them use are started and ended around them (scripts/servers.sh); CRYOSTORE_SERVERS chooses
# which: `light` (what CI has), `heavy` (all; `make test-heavy`) or `none` (their tests say that they are skipped). So is a Kubernetes API server,
# where it can be built (scripts/apiserver.sh). After cargo's tests come those that freeze and restore real containers (tests/real/run.sh); with arguments, or
# without servers, they are left out.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
scripts/setup.sh build
# `cargo test` alone does not build the binary that the tests of the command line start.
build "building cryostore" build "${locked[@]}" --release --workspace
build "building the tests" test "${locked[@]}" --release --workspace --no-run

log=$(mktemp)
at_exit "rm -f '$log'"
status=0
servers=()
case ${CRYOSTORE_SERVERS:-light} in
none) say "no servers: the tests against them are skipped" ;;
light) servers=(scripts/apiserver.sh run scripts/servers.sh run) ;;
heavy) servers=(scripts/apiserver.sh run scripts/servers.sh run heavy) ;;
*) die "CRYOSTORE_SERVERS is light, heavy or none" ;;
esac
export CRYOSTORE_REAL_LOG=$log.real
at_exit "rm -f '$log.real'"
: >"$CRYOSTORE_REAL_LOG"
"${servers[@]}" cargo test "${locked[@]}" --release --workspace --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
summary=$(sed 's/\x1b\[[0-9;]*m//g' "$log" |
  awk '/^test result:/ {p += $4; f += $6; s += $8} END {printf "%d passed, %d failed, %d skipped", p, f, s}')
printf '\n%s\n' "$summary" | tee "$CARGO_TARGET_DIR/last-test-summary"
if (($# == 0)) && [[ ${CRYOSTORE_SERVERS:-light} != none ]]; then
  tests/real/run.sh 2>&1 | tee "$log" || status=$?
  grep '^real restores: ' "$log" >>"$CARGO_TARGET_DIR/last-test-summary" || true
fi
if ((status == 0)) && [[ $summary == "0 passed, 0 failed"* ]]; then die "no test ran"; fi
exit "$status"
