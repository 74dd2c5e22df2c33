#!/usr/bin/env bash
# tests/real/run.sh [NAME…]: the tests that freeze and restore real containers: all of this folder, or those named (restore, jupyter, growth).
# Each is a script of its own; they run one after another in one network namespace of their own, with an API server and the object stores.
# Always: the last line says how many ran, and how many were skipped and why. Where CRIU does not work they are skipped, unless
# CRYOSTORE_REQUIRE_CRIU=1 says that this is a failure.
# shellcheck source-path=SCRIPTDIR source=../../scripts/common.sh
. "$(dirname "$0")/../../scripts/common.sh"

tests=(restore jupyter growth)
(($# == 0)) || [[ $1 == --inside ]] || tests=("$@")

skip_all() {
  printf 'real restores: 0 run, %d skipped (%s)\n' "${#tests[@]}" "$1"
  [[ ${CRYOSTORE_REQUIRE_CRIU:-} != 1 ]] || die "CRYOSTORE_REQUIRE_CRIU=1: they must run"
  exit 0
}

if [[ ${1:-} != --inside ]]; then
  why=$(scripts/runtimes.sh check) || skip_all "$why"
  [[ -x $CARGO_TARGET_DIR/release/cryostore ]] || build "building cryostore" build "${locked[@]}" --release --workspace
  # What is downloaded, before there is no network.
  scripts/apiserver.sh install
  scripts/servers.sh install
  # Nothing that listens here can be met by, or meet, anything else on this machine, and a firewall rule that CRIU forgot is gone with it.
  exec scripts/runtimes.sh alone scripts/apiserver.sh run scripts/servers.sh run tests/real/run.sh --inside "${tests[@]}"
fi

shift
tests=("$@")
failed=()
for name in "${tests[@]}"; do
  printf '\n== real: %s\n' "$name"
  "tests/real/$name.sh" || failed+=("$name")
done
printf '\nreal restores: %d run, 0 skipped\n' "${#tests[@]}"
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
