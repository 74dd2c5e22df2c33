#!/usr/bin/env bash
# tests/real/run.sh [NAME…]: the tests that freeze and restore real containers: all of this folder, or those named (restore, agent, base, volumes, podman, criu, jupyter, growth).
# Each is a script of its own; they run one after another in one network namespace of their own, with an API server and the object stores.
# Always: the last line says how many ran, and how many were skipped and why; with those of other tests, which have said so before in the file
# $CRYOSTORE_REAL_LOG: a line "run NAME" or "skipped NAME: REASON" each. Where CRIU does not work they are skipped, unless CRYOSTORE_REQUIRE_CRIU=1
# says that this is a failure.
# shellcheck source-path=SCRIPTDIR source=../../scripts/common.sh
. "$(dirname "$0")/../../scripts/common.sh"

log=${CRYOSTORE_REAL_LOG:-} own=''
if [[ -z $log ]]; then
  log=$(mktemp) own=$log
  at_exit "rm -f '$own'"
fi

summary() {
  local skipped
  skipped=$(grep -c '^skipped ' "$log" || true)
  printf 'real restores: %d run, %d skipped' "$(grep -c '^run ' "$log" || true)" "$skipped"
  ((skipped == 0)) || printf ' (%s)' "$(sed -n 's/^skipped [^:]*: //p' "$log" | sort -u | paste -sd ';')"
  echo
  if ((skipped)) && [[ ${CRYOSTORE_REQUIRE_CRIU:-} == 1 ]]; then die "CRYOSTORE_REQUIRE_CRIU=1: none may be skipped"; fi
}

if [[ ${1:-} != --inside ]]; then
  tests=("$@")
  (($#)) || tests=(restore agent base volumes podman criu jupyter growth)
  if ! why=$(scripts/runtimes.sh check); then
    for name in "${tests[@]}"; do echo "skipped $name: $why" >>"$log"; done
    summary
    exit
  fi
  [[ -x $CARGO_TARGET_DIR/release/cryostore ]] || build "building cryostore" build "${locked[@]}" --release --workspace
  # What is downloaded, before there is no network.
  scripts/apiserver.sh install
  scripts/servers.sh install
  # Nothing that listens here can be met by, or meet, anything else on this machine, and a firewall rule that CRIU forgot is gone with it.
  [[ -z $own ]] || rm "$own"
  exec scripts/runtimes.sh alone scripts/apiserver.sh run scripts/servers.sh run tests/real/run.sh --inside "${tests[@]}"
fi

shift
failed=()
for name; do
  printf '\n== real: %s\n' "$name"
  echo "run $name" >>"$log"
  "tests/real/$name.sh" || failed+=("$name")
done
echo
((${#failed[@]} == 0)) || say "failed: ${failed[*]}"
summary
((${#failed[@]} == 0))
