#!/usr/bin/env bash
# Line coverage of format-spec and engine by all tests. Only the crates of the workspace are compiled for it (cargo's
# workspace wrapper): RocksDB and the other dependencies are those of every other build.
# The report stays in the target folder: coverage/report.txt, and coverage/html.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
scripts/setup.sh build

# The tools must be of rustc's own LLVM: the format of the profiles changes with it.
version=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
own=$(rustc --print target-libdir)/../bin
find_tool() {
  local candidate
  for candidate in "$own/$1" "/usr/lib/llvm-$version/bin/$1" "$(command -v "$1-$version" || true)"; do
    if [[ -x $candidate ]]; then echo "$candidate"; return; fi
  done
  return 1
}
if ! find_tool llvm-cov >/dev/null || ! find_tool llvm-profdata >/dev/null; then
  say "missing: llvm-cov and llvm-profdata of LLVM $version (Debian: llvm-$version; rustup: component llvm-tools)"
  if [[ $(id -u) != 0 || ${CRYOSTORE_SETUP:-} == tell ]] || ! command -v apt-get >/dev/null; then exit 1; fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -y -o DPkg::Lock::Timeout=300 update >/dev/null
  apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "llvm-$version" >/dev/null
fi
cov=$(find_tool llvm-cov)
profdata=$(find_tool llvm-profdata)

out=$CARGO_TARGET_DIR/coverage
rm -rf "$out"
mkdir -p "$out/raw"
# `-C instrument-coverage` as a wrapper and not as RUSTFLAGS, which would reach the dependencies.
cat >"$out/rustc" <<'WRAPPER'
#!/bin/sh
compiler=$1
shift
exec "$compiler" "$@" -C instrument-coverage
WRAPPER
chmod +x "$out/rustc"
export RUSTC_WORKSPACE_WRAPPER=$out/rustc LLVM_PROFILE_FILE=$out/raw/%p-%8m.profraw

build "building cryostore for coverage" build "${locked[@]}" --release --workspace
build "building the tests for coverage" test "${locked[@]}" --release --workspace --no-run
objects=()
while read -r file; do objects+=(-object "$file"); done < <(
  {
    cargo build "${locked[@]}" --release --workspace --message-format=json
    cargo test "${locked[@]}" --release --workspace --no-run --message-format=json
  } 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | sort -u
)
# Not doc tests: rustdoc compiles them by its own ways.
cargo test "${locked[@]}" --release --workspace --lib --bins --tests --no-fail-fast ${@+"$@"}

"$profdata" merge -sparse "$out"/raw/*.profraw -o "$out/merged.profdata"
rm -rf "$out/raw"
# Test modules in files of their own are not what is measured.
options=(-ignore-filename-regex "/tests(\.rs|/)" -instr-profile "$out/merged.profdata" "${objects[@]}" -sources "$PWD/format-spec/src" "$PWD/engine/src")
"$cov" report "${options[@]}" >"$out/report.txt"
"$cov" show "${options[@]}" -format html -output-dir "$out/html"
awk 'NR == 1 || /^[^ ]/' "$out/report.txt"
say "coverage: $out/report.txt and $out/html/index.html"
