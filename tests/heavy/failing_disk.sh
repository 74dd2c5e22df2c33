#!/usr/bin/env bash
# tests/heavy/failing_disk.sh: a disk that begins to give errors (dm-flakey) while each command is at work, and is whole again afterwards.
# Always: a command ends within two minutes, with 0 only if its work was done; what was acknowledged before or meanwhile comes back byte for byte when the disk is whole again, `check --read-data`
# finds nothing, and the next import succeeds. Never: an export that ends with 0 and other bytes. What each command says is shown, to be judged by a reader. Some 10 minutes.
# Needs dmsetup besides what machine.sh says.
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$0")/machine.sh"
command -v dmsetup >/dev/null || die "missing: dmsetup (Debian: apt-get install dmsetup)"

cat >"$work/job" <<'JOB'
export HOME=/run/home
mkdir -p $HOME /mnt/disk /run/store
load ext4 dm-mod dm-flakey
sectors=$(blockdev --getsz /dev/ubda)
# flaky good | all (reads and writes fail) | writes (these fail) [DELAY]: from now on, or after so many seconds.
# (Its changed bytes are not used: the reads of Linux 6.1 come back unchanged. Tests of damage change the stored files themselves.)
flaky() {
  local table="0 $sectors flakey /dev/ubda 0"
  case $1 in
    good) table+=" 1000 0" ;;
    all) table+=" 0 1000" ;;
    writes) table+=" 0 1000 1 error_writes" ;;
  esac
  dmsetup reload flaky --table "$table"
  [[ -z ${2:-} ]] || sleep "$2"
  dmsetup suspend --nolockfs --noflush flaky; dmsetup resume flaky
}
dmsetup create flaky --table "0 $sectors flakey /dev/ubda 0 1000 0"; dmsetup mknodes
device=/dev/mapper/flaky
disk_up $device
repo=/mnt/disk/$kind
seal=(); [[ $kind == sealed ]] || seal=(--no-encryption)
"$cryostore" init -q --storage $repo "${seal[@]}"
: >/run/have
add() { local id; id=$(import $repo /mnt/work/$1.tar) && echo $id $1 >>/run/have; }
add 1; add 2; add 3

# The disk is whole again: all is there.
whole() {
  flaky good
  umount /mnt/disk || umount -l /mnt/disk
  disk_up $device
  "$cryostore" check --read-data --storage $repo >/run/check 2>&1 || tell "bad $1: check afterwards: exit $? $(tail -n 3 /run/check | tr '\n' ' ')"
  while read -r id archive; do
    if same $id /mnt/work/$archive.tar $repo; then tell same; else tell "bad $1: $id does not come back: $(tail -n 1 /mnt/work/said)"; fi
  done </run/have
  next=$((next % 8 + 4))
  add $next || tell "bad $1: the next import fails"
  while (($(wc -l </run/have) > 4)); do
    read -r id archive </run/have
    "$cryostore" delete -q --storage $repo $id || tell "bad $1: delete afterwards"
    sed -i 1d /run/have
  done
}
# meanwhile FAULT DELAY COMMAND…: the fault comes so many seconds after the start of the command.
meanwhile() {
  local fault=$1 delay=$2 code=0
  shift 2
  sync; echo 3 >/proc/sys/vm/drop_caches
  if [[ $delay == 0 ]]; then flaky $fault; else flaky $fault $delay & fi
  timeout 120 "$cryostore" --storage $repo "$@" >/run/out 2>/run/err </dev/null || code=$?
  wait
  tell "$kind $fault after $delay s: $1: exit $code: $(grep -a -v '^$' /run/err | tail -n 4 | tr '\n' '|' | cut -c 1-300)"
  ((code != 124)) || tell "bad $fault $1: hangs"
  ((code != 101 && code < 131)) || tell "bad $fault $1: exit $code is a panic or a signal"
  last=$code
}
next=3
for fault in all writes; do
  for delay in 0 0.1 0.2 0.3 0.5; do
    archive=$((RANDOM % 8 + 4))
    meanwhile $fault $delay import -q /mnt/work/$archive.tar
    new=$(sed -n 's/^snapshot \([0-9a-f]*\).*/\1/p' /run/out)
    ((last != 0)) || echo "${new:?an import says what it made} $archive" >>/run/have
    whole "$fault import"
  done
done
for fault in all writes; do
  for delay in 0 0.2; do
    read -r id archive </run/have
    meanwhile $fault $delay export -q $id -o -
    ((last != 0)) || cmp -s /run/out /mnt/work/$archive.tar || tell "bad $fault export: 0, and other bytes"
    whole "$fault export"
  done
done
for fault in all writes; do
  for delay in 0 0.1 0.3; do
    meanwhile $fault $delay gc --grace 0; whole "$fault gc"
  done
  meanwhile $fault 0 ls -q; whole "$fault ls"
  meanwhile $fault 0 check --read-data; whole "$fault check"
done
for fault in all writes; do
  read -r id archive </run/have
  meanwhile $fault 0 delete $id
  ((last != 0)) || sed -i 1d /run/have
  whole "$fault delete"
  "$cryostore" undelete -q --storage $repo $id 2>/dev/null || true
done

# The caches on the failing disk, and the repository elsewhere: nothing is needed from them.
umount /mnt/disk; disk_up $device
repo=/run/store/r
"$cryostore" init -q --storage $repo "${seal[@]}"
export CRYOSTORE_CACHE_DIR=/mnt/disk/cache
: >/run/have
add 1; add 2
for fault in all writes; do
  meanwhile $fault 0 import -q /mnt/work/5.tar
  ((last == 0)) || tell "note $fault: an import fails whose cache cannot be read or written"
  read -r id archive </run/have
  meanwhile $fault 0 export -q $id -o -
  ((last == 0)) || tell "note $fault: an export fails whose cache cannot be read or written"
  ((last != 0)) || cmp -s /run/out /mnt/work/$archive.tar || tell "bad $fault export: 0, and other bytes"
  meanwhile $fault 0 gc --grace 0
  ((last == 0)) || tell "note $fault: a collection fails whose cache cannot be read or written"
  whole "$fault cache"
done
tell done
JOB
make_archives 12
bad=0
for kind in sealed plain; do
  new_disk 3G
  boot job kind=$kind
  finish 1200 || { say "$kind: the job failed"; bad=1; }
  cp "$work/console" "$work/console.$kind"
  told | grep -v '^same' || true
  echo "$kind: commands with a failing disk $(told | grep -c ': exit ' || true), snapshots compared afterwards $(told | grep -c '^same' || true), wrong $(told | grep -c '^bad' || true)"
  [[ $(told | tail -n 1) == "done" ]] && ! told | grep -q '^bad' || bad=1
done
exit $bad
