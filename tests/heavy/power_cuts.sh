#!/usr/bin/env bash
# tests/heavy/power_cuts.sh [CUTS] [SEED]: cuts the power of a machine (50 times) that imports, deletes and collects on an ext4 disk, and looks what is left.
# Always: what it was told of (an exit status of 0) is noted outside of the machine; after each cut every such snapshot is listed and comes back byte for byte, no acknowledged
# deletion is undone, `check --read-data` finds nothing, and the keys, caches and index lie on the same disk. Some 20 s a cut. The exit status is 0 if nothing was lost.
# Files that are written without fsync show in each cut that there was something to lose.
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$0")/machine.sh"
cuts=${1:-50}
RANDOM=${2:-1}
archives=12

cat >"$work/job" <<'JOB'
export HOME=/mnt/disk/home
disk_up
if [[ $round == 0 ]]; then
  mkdir -p $HOME
  "$cryostore" init -q --storage /mnt/disk/sealed
  "$cryostore" init -q --storage /mnt/disk/plain --no-encryption
fi

# What is left: /mnt/work/expected has repository, id and archive; /mnt/work/gone repository and id.
while read -r file; do
  if [[ $(cat /mnt/disk/$file 2>/dev/null) == "$file" ]]; then tell kept $file; else tell lost $file; fi
done </mnt/work/unsynced
for repo in sealed plain; do
  "$cryostore" check --read-data --storage /mnt/disk/$repo >/mnt/work/check 2>&1 || tell "bad $repo check: exit $? $(tail -n 3 /mnt/work/check | tr '\n' ' ')"
  ids /mnt/disk/$repo >/tmp/$repo || tell "bad $repo ls: exit $?"
done
while read -r repo id archive; do
  grep -q "^$id" /tmp/$repo || tell "bad $repo $id is not listed"
  if same $id /mnt/work/$archive.tar /mnt/disk/$repo; then tell same $repo $id; else tell "bad $repo $id does not come back: $(tail -n 1 /mnt/work/said)"; fi
done </mnt/work/expected
while read -r repo id; do
  ! grep -q "^$id" /tmp/$repo || tell "bad $repo $id came back after its deletion"
done </mnt/work/gone
tell verified

# keeper REPOSITORY: imports for ever; with a second word, it deletes old ones and collects, too.
keeper() {
  local repo=$1 id archive old
  while :; do
    archive=$((RANDOM % archives + 1))
    if id=$(import /mnt/disk/$repo /mnt/work/$archive.tar 2>>/mnt/work/said.$repo); then tell have $repo $id $archive; else tell "failed $repo import: exit $? $(tail -n 1 /mnt/work/said.$repo)"; fi
    [[ -n ${2:-} ]] || continue
    for old in $(ids /mnt/disk/$repo | tail -n +4 | tail -n 5); do
      tell delete $repo $old
      if "$cryostore" delete -q --storage /mnt/disk/$repo $old 2>>/mnt/work/said.$repo; then tell deleted $repo $old; else tell "failed $repo delete: exit $? $(tail -n 1 /mnt/work/said.$repo)"; fi
    done
    tell gc $repo
    if "$cryostore" gc -q --grace 0 --storage /mnt/disk/$repo >/dev/null 2>>/mnt/work/said.$repo; then tell collected $repo; else tell "failed $repo gc: exit $? $(tail -n 1 /mnt/work/said.$repo)"; fi
  done
}

# Three are kept, so that a round stays short.
# Who was at work when the power went is known to be gone: by us, not by another boot of the kernel. Without this word their garbage stays for an hour.
for repo in sealed plain; do
  for old in $(ids /mnt/disk/$repo | tail -n +4); do
    tell delete $repo $old
    if "$cryostore" delete -q --storage /mnt/disk/$repo $old >/dev/null 2>>/mnt/work/said.$repo; then tell deleted $repo $old; else tell "bad $repo delete: exit $? $(tail -n 1 /mnt/work/said.$repo)"; fi
  done
  ended=()
  for each in /mnt/disk/$repo/sessions/*; do [[ ! -f $each || $each == *#* ]] || ended+=(--end-session "$(basename "$each")"); done
  ((${#ended[@]})) || continue
  tell gc $repo
  if "$cryostore" gc -q --grace 0 "${ended[@]}" --storage /mnt/disk/$repo >/dev/null 2>>/mnt/work/said.$repo; then tell collected $repo; else tell "bad $repo gc with --end-session: exit $? $(tail -n 1 /mnt/work/said.$repo)"; fi
done
if [[ $mode == last ]]; then
  for repo in sealed plain; do
    "$cryostore" gc --grace 0 --json --storage /mnt/disk/$repo >/mnt/work/gc.$repo 2>&1
    tell "left $repo: $(find /mnt/disk/$repo/sessions -type f | wc -l) sessions, $(find /mnt/disk/$repo -name '*#*' | wc -l) unfinished files, $(du -sb /mnt/disk/$repo | cut -f1) bytes, needed $(sed -n 's/^  "kept_bytes": \([0-9]*\),/\1/p' /mnt/work/gc.$repo)"
    "$cryostore" check --read-data --storage /mnt/disk/$repo >/mnt/work/check 2>&1 || tell "bad $repo check at the end: exit $?"
  done
  exit 0
fi
RANDOM=$round
# Files without fsync, four a second.
while sleep 0.25; do echo unsynced.$((count += 1)) >/mnt/disk/unsynced.$count; tell unsynced unsynced.$count; done &
tell work
case $mode in
  import) keeper sealed & keeper plain & ;;
  collect) keeper sealed gc & keeper plain gc & ;;
  both) if ((round % 2)); then repo=sealed; else repo=plain; fi; keeper $repo gc & keeper $repo & ;;
esac
wait
JOB

say "making archives in $work"
make_archives "$archives"
touch "$work/round"
new_disk 6G
: >"$work/events"
losses=0
for ((round = 0; round <= cuts; round++)); do
  modes=(collect import both)
  mode=${modes[round % 3]}
  ((round < cuts)) || mode=last
  # An acknowledged import counts until its deletion was asked for.
  awk '$1 == "have" {have[$2 " " $3] = $4} $1 == "delete" {delete have[$2 " " $3]} END {for (each in have) print each, have[each]}' "$work/events" >"$work/expected"
  awk '$1 == "deleted" {print $2, $3}' "$work/events" >"$work/gone"
  awk '$1 == "unsynced" {print $2}' "$work/round" >"$work/unsynced"
  boot job round=$round mode="$mode" archives=$archives
  if [[ $mode == last ]]; then
    finish 300 || say "the last boot failed"
  elif wait_for '@ work' 240; then
    sleep "$((RANDOM % 8 + 1)).$((RANDOM % 10))$((RANDOM % 10))"
    cut_power
  else
    say "round $round: the machine did not come to its work"; losses=$((losses + 1)); cut_power
  fi
  told >"$work/round"
  tr -d '\r' <"$work/console" >"$work/console.$round"
  cat "$work/round" >>"$work/events"
  grep -E '^(bad|failed)' "$work/round" | sed "s/^/round $round ($mode): /" | tee -a "$work/findings" >&2 || true
  losses=$((losses + $(grep -c '^bad' "$work/round" || true)))
  say "round $round ($mode): $(wc -l <"$work/expected") expected, $(grep -c '^same' "$work/round" || true) the same; then $(grep -c '^have' "$work/round" || true) imports, $(grep -c '^deleted' "$work/round" || true) deletions, $(grep -c '^collected' "$work/round" || true) collections, cut after: $(grep -v '^unsynced' "$work/round" | tail -n 1)"
done
grep '^left' "$work/round" || true
echo "cuts $cuts, imports acknowledged $(grep -c '^have' "$work/events"), archives compared after a cut $(grep -c '^same' "$work/events"), deletions acknowledged $(grep -c '^deleted' "$work/events"), collections $(grep -c '^collected' "$work/events"), of those cut off $(($(grep -c '^gc' "$work/events") - $(grep -c '^collected' "$work/events")))"
echo "files without fsync: lost $(grep -c '^lost' "$work/events" || true), kept $(grep -c '^kept' "$work/events" || true)"
echo "failed commands: $(grep -c '^failed' "$work/events" || true); losses: $losses"
((losses == 0))
