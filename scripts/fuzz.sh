#!/usr/bin/env bash
# scripts/fuzz.sh [TARGET…]: each fuzz target (or those named) for $TIME seconds, as many at once as there are cores.
# Starts from fuzz/seeds/TARGET; what it learns stays in the cache folder, but not under CI, where each run is alike.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
seconds=${TIME:-600}

[[ -d fuzz/fuzz_targets ]] || { say "skipped: there is no fuzz/fuzz_targets"; exit 0; }
if ! RUSTUP_AUTO_INSTALL=0 cargo +nightly --version >/dev/null 2>&1; then
  say "skipped: fuzzing needs a nightly toolchain (rustup toolchain install nightly)"
  exit 0
fi
scripts/setup.sh build
tool cargo-fuzz 0.13.2

targets=("$@")
if ((${#targets[@]} == 0)); then
  for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
corpus=$cache/fuzz-corpus
logs=$(mktemp -d)
at_exit "rm -rf '$logs'"
[[ -z ${CI:-} ]] || corpus=$logs/corpus

# Below the one target folder, so that a second RocksDB would be seen there.
target_dir=$CARGO_TARGET_DIR/fuzz
ticking "building the fuzz targets" '' +nightly fuzz build --target-dir "$target_dir"

run_one() {
  local target=$1 log=$logs/$1.log dirs=("$corpus/$1") runs
  [[ ! -d fuzz/seeds/$target ]] || dirs+=("fuzz/seeds/$target")
  mkdir -p "${dirs[0]}"
  if cargo +nightly fuzz run --target-dir "$target_dir" "$target" "${dirs[@]}" -- \
    -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -print_final_stats=1 >/dev/null 2>"$log"; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    say "fuzz $target: ${runs:-?} runs in $seconds s, no finding"
  else
    tail -n 60 "$log" >&2
    say "fuzz $target: FOUND SOMETHING (or did not start): see above, and fuzz/artifacts/$target"
    return 1
  fi
}

failed=0 running=0
for target in "${targets[@]}"; do
  if ((running >= $(cores))); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  # The traps of this script are not the child's.
  (trap - EXIT; run_one "$target") &
  running=$((running + 1))
done
for ((; running > 0; running--)); do wait -n || failed=1; done
exit "$failed"
