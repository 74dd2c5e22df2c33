#!/usr/bin/env bash
# Asserts that building, testing and linting use one and the same RocksDB, and that the target folder holds no other.
# scripts/one-rocksdb.sh STAMP: STAMP is a file as old as the start of the run; a RocksDB older than it that nothing
# uses any more (of an earlier version or compiler) is removed, a younger one is the mistake that this looks for.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
stamp=$1

# Everything is built by now, so that these only tell what they would use.
folders() { cargo "$@" --message-format=json 2>/dev/null | sed -n '/"build-script-executed"/ s/.*"out_dir":"\([^"]*librocksdb-sys-[^"]*\)".*/\1/p'; }
used=$({
  folders build "${locked[@]}" --release --workspace
  folders test "${locked[@]}" --release --workspace --no-run
  folders clippy "${locked[@]}" --release --workspace --all-targets
} | sort -u)
[[ -n $used && $(wc -l <<<"$used") == 1 ]] || die "the commands do not share one RocksDB, they use: ${used:-none}"

while read -r archive; do
  [[ $archive != "$used/librocksdb.a" && $archive -ot $stamp ]] || continue
  folder=${archive%/out/librocksdb.a}
  say "removing a RocksDB that nothing uses any more: $folder"
  rm -rf "$folder"
done < <(rocksdb_archives)

archives=$(rocksdb_archives)
[[ $archives == "$used/librocksdb.a" ]] || die "RocksDB was compiled more than once: ${archives:-nowhere}"
say "one RocksDB: $archives"
