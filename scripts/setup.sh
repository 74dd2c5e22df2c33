#!/usr/bin/env bash
# scripts/setup.sh [build|check]: what a build (or every check of CI) needs, before anything compiles.
# Always: names everything that is missing at once. As root on a system with apt-get it then installs that, if
# that is enough; anybody else is told what to install. Never: installs Rust, or anything from elsewhere.
# CRYOSTORE_SETUP=tell keeps root from installing, too.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
level=${1:-build}

need() { # what a person reads; the Debian package that brings it, or "" when no package does
  missing+=("$1")
  if [[ -n ${2:-} ]]; then packages+=("$2"); else by_hand=1; fi
}

find_rust() {
  local wanted found program
  wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
  for program in cargo rustc; do
    if ! command -v "$program" >/dev/null; then
      need "$program $wanted or newer: install Rust with rustup, then open a new shell (Debian's own is too old)"
    elif ! found=$("$program" --version 2>&1); then
      need "$program $wanted or newer: $program is there but does not run: ${found%%$'\n'*}"
    else
      found=$(awk '{print $2}' <<<"$found")
      if [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) != "$wanted" ]]; then
        need "$program $wanted or newer, this is $found: rustup update stable"
      fi
    fi
  done
}

find_compilers() {
  local compiler
  read -ra compiler <<<"${CC:-cc}"
  if ! "${compiler[@]}" -x c -o /dev/null - <<<'int main(void) { return 0; }' 2>/dev/null; then
    need "a C compiler (${CC:-cc} cannot compile and link)" g++
  fi
  read -ra compiler <<<"${CXX:-c++}"
  # RocksDB is C++20.
  if ! "${compiler[@]}" -std=c++20 -x c++ -o /dev/null - <<<$'#include <concepts>\n#include <string>\nint main() { return std::string().size(); }' 2>/dev/null; then
    need "a C++20 compiler (${CXX:-c++} cannot compile and link)" g++
  fi
  command -v make >/dev/null || need "make" make
}

# As clang-sys looks for it at build time; bindgen reads RocksDB's C header with it.
find_libclang() {
  local place
  for place in ${LIBCLANG_PATH:+"$LIBCLANG_PATH"} /usr/lib/llvm-*/lib /usr/lib /usr/lib64 /usr/lib/*-linux-gnu \
    /usr/local/lib /usr/local/lib64 /usr/local/llvm*/lib*; do
    if [[ -f $place && $place == *libclang* ]] || compgen -G "$place/libclang.so*" >/dev/null ||
      compgen -G "$place/libclang-[0-9]*.so*" >/dev/null; then
      # Debian packs the library apart from stddef.h and its kin, without which it reads nothing.
      if [[ $place == /usr/lib/llvm-* ]] && ! compgen -G "$place/clang/*/include/stddef.h" >/dev/null; then continue; fi
      return
    fi
  done
  need "libclang with its headers (for bindgen; set LIBCLANG_PATH if it lies elsewhere)" libclang-dev
}

find_space() {
  local wanted=6144 place=$CARGO_TARGET_DIR free
  ! rocksdb_is_built || wanted=2048
  while [[ ! -d $place ]]; do place=$(dirname "$place"); done
  [[ -w $place ]] || need "a target folder that can be written: $place cannot; set CARGO_TARGET_DIR"
  free=$(df -Pk "$place" | awk 'NR == 2 {print int($4 / 1024)}')
  ((free >= wanted)) ||
    need "$wanted MiB of disk for $CARGO_TARGET_DIR, there are $free: free some, or set CARGO_TARGET_DIR to a larger disk"
  free=$(free_memory)
  ((free >= 1536)) || need "1536 MiB of free memory, there are $free"
}

find_checkers() {
  cargo fmt --version >/dev/null 2>&1 || need "rustfmt: rustup component add rustfmt"
  cargo clippy --version >/dev/null 2>&1 || need "clippy: rustup component add clippy"
  command -v git >/dev/null || need "git" git
  # The shell scripts are checked where it can be had; .ci/run says so when it skips them.
  if ! command -v shellcheck >/dev/null && can_install; then need "shellcheck" shellcheck; fi
}

can_install() { [[ $(id -u) == 0 && ${CRYOSTORE_SETUP:-} != tell ]] && command -v apt-get >/dev/null; }

look() {
  missing=() packages=() by_hand=0
  find_rust
  find_compilers
  find_libclang
  find_space
  [[ $level != check ]] || find_checkers
  mapfile -t packages < <(printf '%s\n' ${packages[@]+"${packages[@]}"} | sort -u | sed '/^$/d')
}

look
((${#missing[@]})) || exit 0

say "missing:"
printf '  - %s\n' "${missing[@]}" >&2
if ((${#packages[@]})) && ! can_install || ((by_hand)); then
  if ((${#packages[@]})); then
    say "on Debian or Ubuntu: apt-get install ${packages[*]} (as root); elsewhere: what brings the same"
  fi
  die "nothing was installed or compiled; run this again when the above is there"
fi

say "installing with apt-get: ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
"${apt[@]}" update >/dev/null || say "apt-get update failed; trying with the lists that are there"
"${apt[@]}" install --no-install-recommends "${packages[@]}" >/dev/null || die "apt-get install ${packages[*]} failed"
hash -r
look
if ((${#missing[@]})); then
  say "still missing after the installation:"
  printf '  - %s\n' "${missing[@]}" >&2
  exit 1
fi
say "set-up is complete"
