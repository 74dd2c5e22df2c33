#!/usr/bin/env bash
# benches/compare.sh DIR: what checkpoints cost in cryostore and in other tools, on the same archives.
#
# DIR holds archives *.tar; they are stored in the order of their names, by each of cryostore, restic, borg, desync, casync and `zstd -1` (each archive alone)
# that is on PATH, one store each, in turns on the same archive. Every step is synced within its time. The last archive is got back by each, to a file and to a
# pipe, and compared byte for byte. RUNS (3) times; medians go to docs/comparison.md, docs/comparison.svg (and to OUT instead of docs, if set).
#
# Always: the tools run alone, one after the other, at zstd level 1 where that can be chosen. Never: leaves a file elsewhere than in the temporary directory below
# TMPDIR, which needs the archives' size three times, and in OUT.
# shellcheck source-path=SCRIPTDIR source=../scripts/common.sh disable=SC2016 # backquotes are Markdown's
archives=${1:-}
[[ $archives != -* && -d $archives ]] || { echo "usage: [RUNS=3] [OUT=docs] benches/compare.sh DIR" >&2; exit 2; }
archives=$(cd "$archives" && pwd)
given_out=${OUT:-}
case $given_out in '' | /*) ;; *) given_out=$PWD/$given_out ;; esac
. "$(dirname "$0")/../scripts/common.sh"
export LC_ALL=C
runs=${RUNS:-3}
out=${given_out:-$PWD/docs}
[[ $runs =~ ^[1-9][0-9]*$ ]] || die "RUNS is a number of runs, not $runs"
mapfile -t tars < <(find "$archives" -maxdepth 1 -name '*.tar' -size +0 | sort)
((${#tars[@]} > 1)) || die "$archives needs two archives (*.tar) at least"
last=${tars[-1]}

work=$(mktemp -d)
at_exit "rm -rf '$work'"
mkdir -p "$out" "$work/cache"
build "cryostore" build "${locked[@]}" --release --workspace --bin cryostore --example plot
PATH=$CARGO_TARGET_DIR/release:$PATH
# Nothing of the user's settings, nothing in the user's home. CARGO_TARGET_DIR is set, so that cargo is not looked for there either.
export XDG_CACHE_HOME=$work/cache XDG_CONFIG_HOME=$work/config BORG_BASE_DIR=$work/borg RESTIC_PASSWORD=x
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
unset "${!CRYOSTORE_@}" BORG_REPO BORG_PASSPHRASE RESTIC_REPOSITORY

tools=() left_out=()
for tool in cryostore restic borg desync casync zstd; do
  if command -v "$tool" >/dev/null; then tools+=("$tool"); else left_out+=("$tool"); fi
done
((${#left_out[@]} == 0)) || say "not on PATH, left out: ${left_out[*]}"
gnu_time=$(type -P time || true)
[[ -z $gnu_time ]] || "$gnu_time" -f '' -o /dev/null true 2>/dev/null || gnu_time=''
[[ -n $gnu_time ]] || say "there is no GNU time: no peak memory"

version() {
  case $1 in
    cryostore) cryostore --version ;;
    restic) restic version ;;
    borg) borg --version ;;
    # It does not know its own.
    desync) echo desync ;;
    casync) casync --version ;;
    zstd) zstd --version ;;
  esac 2>/dev/null | head -n 1 | sed 's/[*]//g; s/^ *//; s/ *$//'
}

# One step of each tool, in a shell of its own: $store is its store, $tar the archive, $name its name.
init() {
  case $1 in
    cryostore) cryostore init --storage "$store" ;;
    restic) restic -q init -r "$store" ;;
    borg) borg init -e none "$store" ;;
    *) mkdir -p "$store" ;;
  esac
}
store() {
  case $1 in
    cryostore) cryostore import --storage "$store" --quiet "$tar" ;;
    restic) restic -q backup -r "$store" --compression fastest --stdin --stdin-filename archive.tar <"$tar" ;;
    borg) borg create -C zstd,1 --files-cache disabled "$store::$name" - <"$tar" ;;
    desync) desync make -n "$(nproc)" -s "$store" "$store.$name.caibx" "$tar" ;;
    casync) casync make --compression=zstd --store="$store" "$store.$name.caibx" "$tar" ;;
    zstd) zstd -q -1 -T2 "$tar" -o "$store/$name.zst" ;;
  esac
  # cryostore and borg have done so already, for what they wrote; for them it is short.
  sync -f "$store"
}
to_file() {
  case $1 in
    cryostore) cryostore export --storage "$store" --quiet latest -o "$back" ;;
    restic) restic -q dump -r "$store" --no-lock latest /archive.tar >"$back" ;;
    borg) borg extract --stdout "$store::$name" >"$back" ;;
    desync) desync extract -n "$(nproc)" -s "$store" "$store.$name.caibx" "$back" ;;
    casync) casync extract --store="$store" "$store.$name.caibx" "$back" ;;
    zstd) zstd -q -d "$store/$name.zst" -o "$back" ;;
  esac
}
to_pipe() {
  case $1 in
    cryostore) cryostore export --storage "$store" --quiet latest ;;
    restic) restic -q dump -r "$store" --no-lock latest /archive.tar ;;
    borg) borg extract --stdout "$store::$name" ;;
    desync) desync cat -n "$(nproc)" -s "$store" "$store.$name.caibx" ;;
    # It writes files only: its place is empty in the table.
    casync) false ;;
    zstd) zstd -q -dc "$store/$name.zst" ;;
  esac
}
export -f init store to_file to_pipe

# measured STEP TOOL: runs it, sets wall, cpu (seconds) and peak (MB, or empty).
measured() {
  local log=$work/log figures=$work/figures status=0
  if [[ -n $gnu_time ]]; then
    "$gnu_time" -f '%e %U %S %M' -o "$figures" bash -euo pipefail -c "$1 $2" >"$log.out" 2>"$log" || status=$?
  else
    TIMEFORMAT='%R %U %S 0'
    { time bash -euo pipefail -c "$1 $2" >"$log.out" 2>"$log" || status=$?; } 2>"$figures"
  fi
  if ((status)); then
    tail -n 5 "$log" >&2
    die "$2 failed at: $1"
  fi
  read -r wall cpu peak < <(awk 'END {printf "%.2f %.2f %.0f\n", $1, $2 + $3, $4 * 1.024 / 1000}' "$figures")
}
piped() { to_pipe "$1" | cat >/dev/null; }
export -f piped
bytes_of() { du -s --apparent-size -B1 "$@" | awk '{sum += $1} END {print sum + 0}'; }
# All that a tool keeps of its store: indexes of archives lie beside it.
stored() { local parts=("$store"); compgen -G "$store.*.caibx" >/dev/null && parts+=("$store".*.caibx); bytes_of "${parts[@]}"; }

# run step tool number seconds cpu bytes peak
results=$work/results.tsv
: >"$results"
note() { printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$run" "$1" "$2" "$3" "$wall" "$cpu" "$4" "$peak" >>"$results"; }

export store tar name back=$work/back.tar
total=$((${#tars[@]} * runs))
for ((run = 1; run <= runs; run++)); do
  for tool in "${tools[@]}"; do
    store=$work/$tool init "$tool" >/dev/null 2>&1 || die "$tool does not make a store"
  done
  for ((n = 1; n <= ${#tars[@]}; n++)); do
    tar=${tars[n - 1]} name=$n
    say "archive $(((run - 1) * ${#tars[@]} + n)) of $total"
    # All find the archive in the kernel's cache, or none does.
    cat "$tar" >/dev/null
    for tool in "${tools[@]}"; do
      store=$work/$tool
      before=$(stored)
      measured store "$tool"
      note store "$tool" "$n" $(($(stored) - before))
    done
  done
  name=${#tars[@]}
  for tool in "${tools[@]}"; do
    store=$work/$tool
    rm -f "$back"
    measured to_file "$tool"
    cmp -s "$back" "$last" || die "$tool gave back other bytes than it was given"
    note file "$tool" "$name" 0
    rm -f "$back"
    case $tool in
      casync) ;;
      *)
        measured piped "$tool"
        note pipe "$tool" "$name" 0
        ;;
    esac
  done
  for tool in "${tools[@]}"; do rm -rf "${work:?}/$tool" "$work/$tool".*.caibx; done
  rm -rf "$work/cache" "$work/borg"
done

# median STEP TOOL NUMBER COLUMN: over the runs; "max" and "middle" of all further archives with NUMBER "next".
values() {
  awk -F '\t' -v step="$1" -v tool="$2" -v number="$3" -v column="$4" \
    '$2 == step && $3 == tool && (number == "any" || (number == "next" ? $4 > 1 : $4 == number)) {print $column}' "$results"
}
median() { values "$@" | sort -n | awk '{v[NR] = $1} END {if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
seconds() { local v; v=$(median "$@"); [[ -z $v ]] && echo "–" || printf '%.2f s' "$v"; }
megabytes() { awk -v v="$1" 'BEGIN {printf v < 10e6 ? "%.2f" : "%.1f", v / 1e6}'; }
# from_to LEAST MOST: one number, if they are told as the same.
from_to() { if [[ $1 == "$2" ]]; then echo "$1"; else echo "$1–$2"; fi; }
two() { printf %.2f "$1"; }
# range STEP TOOL COLUMN: the least and the most of the medians of all further archives.
range() {
  local n
  for ((n = 2; n <= ${#tars[@]}; n++)); do median "$1" "$2" "$n" "$3"; done | sort -n | sed -n '1p;$p' | paste -s -d ' '
}

machine() {
  local model memory
  model=$(awk -F ': *' '/^model name/ {print $2; exit}' /proc/cpuinfo 2>/dev/null || true)
  memory=$(awk '/^MemTotal:/ {printf "%.0f GB", $2 / 1e6}' /proc/meminfo 2>/dev/null || true)
  printf '%s cores of %s, %s of memory, %s, Linux %s' "$(nproc)" "${model:-an unnamed processor}" "${memory:-?}" \
    "$(df --output=fstype "$work" | tail -n 1)" "$(uname -r | cut -d . -f 1,2)"
}

{
  printf '# Comparison\n\n'
  printf 'Made by `RUNS=%s benches/compare.sh DIR`: %s archives of %s to %s MB, stored in the order of their names, by each tool in turns on the same archive. ' \
    "$runs" "${#tars[@]}" "$(stat -c %s "${tars[@]}" | sort -n | awk 'NR == 1 {printf "%.1f", $1 / 1e6}')" \
    "$(stat -c %s "${tars[@]}" | sort -n | awk 'END {printf "%.1f", $1 / 1e6}')"
  if ((runs > 1)); then printf 'Medians of %s runs. ' "$runs"; else printf 'One run. '; fi
  printf 'What is stored is synced within its time, and bytes are of all that the tool keeps in its store, by `du`; caches are not counted. The last archive came back from every tool and was compared byte for byte.\n\n'
  printf 'Machine: %s.\n\n' "$(machine)"
  printf '| tool | first | each next | CPU, first | CPU, each next | bytes, first | bytes, each next | back to a file | to a pipe | peak memory, storing |\n'
  printf '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n'
  for tool in "${tools[@]}"; do
    read -r least most < <(range store "$tool" 5)
    read -r cpu_least cpu_most < <(range store "$tool" 6)
    read -r few many < <(range store "$tool" 7)
    peak=$(values store "$tool" any 8 | sort -n | tail -n 1)
    [[ -n $gnu_time ]] && peak+=" MB" || peak="–"
    printf '| %s | %s | %s s | %s | %s s | %s MB | %s MB | %s | %s | %s |\n' "$tool" \
      "$(seconds store "$tool" 1 5)" "$(from_to "$(two "$least")" "$(two "$most")")" "$(seconds store "$tool" 1 6)" "$(from_to "$(two "$cpu_least")" "$(two "$cpu_most")")" \
      "$(megabytes "$(median store "$tool" 1 7)")" "$(from_to "$(megabytes "$few")" "$(megabytes "$many")")" \
      "$(seconds file "$tool" any 5)" "$(seconds pipe "$tool" any 5)" "$peak"
  done
  printf '\n![Bytes and seconds of each checkpoint](comparison.svg)\n\n'
  printf 'Versions: '
  for tool in "${tools[@]}"; do printf '%s; ' "$(version "$tool")"; done | sed 's/; $/.\n/'
  if ((${#left_out[@]})); then printf 'Not on PATH, and left out: %s.\n' "$(printf '%s, ' "${left_out[@]}" | sed 's/, $//')"; fi
  printf '`zstd` compresses each archive alone (level 1, two threads), all others deduplicate. `–`: it has no such way, or it was not measured.\n'
} >"$out/comparison.md"

{
  printf 'tool\tcheckpoint\tseconds\tmegabytes\n'
  for tool in "${tools[@]}"; do
    for ((n = 1; n <= ${#tars[@]}; n++)); do
      printf '%s\t%s\t%s\t%s\n' "$tool" "$n" "$(median store "$tool" "$n" 5)" "$(median store "$tool" "$n" 7 | awk '{print $1 / 1e6}')"
    done
  done
} >"$work/plot.tsv"
"$CARGO_TARGET_DIR/release/examples/plot" "$work/plot.tsv" "$out/comparison.svg"
say "written: $out/comparison.md, $out/comparison.svg"
