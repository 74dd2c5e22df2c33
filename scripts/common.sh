# shellcheck shell=bash disable=SC2034 # what is set here is used by who sources it
# Sourced by the other scripts. Owns the folders, the lines on the screen, and how cargo is called.
# Always: one profile (release) and one target folder outside the clone, so that RocksDB is compiled once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A `make -j` above us must not lend cargo its job server, whose descriptors do not reach this far.
unset MAKEFLAGS MFLAGS MAKELEVEL

cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/cryostore
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
case $CARGO_TARGET_DIR in /*) ;; *) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;; esac

locked=()
[[ -z ${CI:-} ]] || locked=(--locked)

say() { printf '%s\n' "cryostore: $*" >&2; }
die() { say "$*"; exit 1; }
elapsed() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# What has to be undone however the script ends: at_exit COMMAND.
undo=()
at_exit() { undo+=("$*"); }
run_undo() {
  local line
  for line in ${undo[@]+"${undo[@]}"}; do eval "$line"; done
}
trap run_undo EXIT

# A port that nobody listens on now.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# in_background NAME COMMAND…: a server, which is process $started; what it says is in $state/NAME.log. It ends with the script.
in_background() {
  local name=$1
  shift
  "$@" >"${state:?}/$name.log" 2>&1 </dev/null &
  started=$!
  # At once: what it holds is thrown away, and SeaweedFS was seen to hang when it was asked to end.
  at_exit "kill -KILL $started 2>/dev/null; wait $started 2>/dev/null || true"
}

# Any Debian mirror that this machine uses has all releases; other distributions have none.
debian_mirror() {
  # shellcheck disable=SC2016 # the names are apt-get's
  apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(ORIGIN)' 'Identifier: Packages' 2>/dev/null |
    awk '$2 == "main" && $3 == "Debian" && $1 !~ /security/ {print $1; exit}'
}

cores() { nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1; }

# MiB that a build may take: what the system has left, or what a container's limit leaves.
free_memory() {
  local free limit used
  free=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo 2>/dev/null) || true
  [[ -n $free ]] || free=999999
  if limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) && [[ $limit != max ]]; then
    used=$(cat /sys/fs/cgroup/memory.current 2>/dev/null || echo 0)
    limit=$(((limit - used) / 1048576))
    ((limit >= free)) || free=$limit
  fi
  echo "$free"
}

rocksdb_archives() { find "$CARGO_TARGET_DIR" -path '*/librocksdb-sys-*/out/librocksdb.a' 2>/dev/null || true; }
rocksdb_is_built() { compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; }

# "RocksDB: 143 of 343 files", while its build script runs; nothing otherwise. $1: a file as old as our start.
rocksdb_progress() {
  local out made total
  out=$(find "$CARGO_TARGET_DIR/release/build" -maxdepth 2 -path '*/librocksdb-sys-*/out' -newer "$1" 2>/dev/null | head -n 1)
  [[ -n $out && ! -e $out/librocksdb.a ]] || return 0
  made=$(find "$out" -maxdepth 1 -name '*.o' | wc -l)
  total=$(cat "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/librocksdb-sys-*/rocksdb_lib_sources.txt 2>/dev/null | sort -u | grep -c . || true)
  if ((total >= made && total > 0)); then
    printf ', RocksDB: %d of about %d files' "$made" "$total"
  else
    printf ', RocksDB: %d files' "$made"
  fi
}

# A line every 15 s until it is killed, or until the script that started it is gone.
tick() {
  local start=$1 stamp=$2 label=$3 expected=$4
  # Waiting on a pipe that nobody writes to, not in `sleep`: no child outlives us with our output open.
  exec 9<> <(:)
  while kill -0 $$ 2>/dev/null; do
    read -rt 15 -u 9 || true
    printf 'cryostore: … %s, %s%s%s\n' "$label" "$(elapsed $((SECONDS - start)))" "$expected" "$(rocksdb_progress "$stamp")" >&2
  done
}

# ticking LABEL EXPECTED CARGO-ARGUMENT…: cargo with a sign of life, where its own bar gives none.
ticking() {
  local label=$1 expected=$2 status=0 stamp='' ticker=''
  shift 2
  if [[ ! -t 2 || ${CARGO_TERM_PROGRESS_WHEN:-} == never ]]; then
    stamp=$(mktemp)
    tick "$SECONDS" "$stamp" "$label" "$expected" &
    ticker=$!
    at_exit "kill $ticker 2>/dev/null || true; rm -f '$stamp'"
  fi
  cargo "$@" || status=$?
  if [[ -n $ticker ]]; then
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    rm -f "$stamp"
  fi
  return "$status"
}

# build LABEL CARGO-ARGUMENT…: something of the workspace; says so before RocksDB has to be compiled.
build() {
  local label=$1 jobs minutes
  shift
  mkdir -p "$CARGO_TARGET_DIR"
  if rocksdb_is_built; then
    ticking "$label" '' "$@"
    return
  fi
  jobs=${CARGO_BUILD_JOBS:-$(cores)}
  # A compiler of RocksDB takes up to 1 GiB.
  if (($(free_memory) < jobs * 1024)); then
    jobs=$(($(free_memory) / 1024))
    ((jobs > 0)) || jobs=1
  fi
  minutes=$(((24 + jobs - 1) / jobs))
  say "RocksDB (the index) is compiled once, from source, about $minutes minutes with $jobs job(s); then it lies in $CARGO_TARGET_DIR and a build takes seconds"
  # Our own lines instead of cargo's bar, which would stand still all that time.
  CARGO_BUILD_JOBS=$jobs CARGO_TERM_PROGRESS_WHEN=never ticking "$label" " of about $minutes:00" "$@"
}

# tool CRATE VERSION: puts a program from crates.io on PATH, compiled once, beside the target folder.
tool() {
  local root=$cache/tools/$1-$2
  if [[ ! -x $root/bin/$1 ]]; then
    say "$1 $2 is compiled once, a few minutes, into $root"
    # Unoptimised: these programs work for seconds, and compile for minutes.
    CARGO_TARGET_DIR=$cache/tools/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
      ticking "installing $1" '' install --quiet --debug --locked --root "$root" "$1" --version "$2"
    rm -rf "$cache/tools/target"
  fi
  PATH=$root/bin:$PATH
}
