#!/usr/bin/env bash
# tests/heavy/nfs_collect.sh [OFFSET…]: the first collection of a repository on NFS, by a far client, while another one imports again what it condemns. Some 30 s each.
# Always: an import that begins after the record of the collection was put knows it, also if its client has looked into `gc/` when there was no such directory: it refers to nothing in it, and comes back
# byte for byte. OFFSET is the time in seconds between the record and the import; the narrow moment in which the pack is still there depends on how fast the machine is.
# With PREPARED=yes the directory is there from the start.
# Needs what nfs.sh needs, and tc of iproute2.
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$0")/machine.sh"
cp -f "$here/nfs_inside.sh" "$work/"
(($#)) || set -- 0.5 1 1.5 1.8 2 2.3 3

cat >"$work/job" <<'JOB'
. /mnt/work/nfs_inside.sh
load sch_netem
mkdir -p /run/home.a /run/home.b
delay() { nsenter --net=/run/netns/other tc qdisc "$@" dev there root netem delay 60ms; }
bytes() { sed -n 's/^  "bytes_added": \(.*\),$/\1/p' /run/added; }
imported() { on a import --json /mnt/work/1.tar >/run/added; id=$(sed -n 's/^  "snapshot": "\(.*\)",$/\1/p' /run/added); }
for offset in $offsets; do
  kind=r$offset
  on a init -q --no-encryption >/dev/null
  [[ $prepared == no ]] || mkdir -p /mnt/a/$kind/gc
  imported
  on a delete -q $id >/dev/null
  sleep 0.1
  delay add
  on b gc --grace 0 >/run/gc & gc=$!
  until [[ -n $(find /mnt/disk/export/$kind/gc -type f ! -name '*#*' 2>/dev/null) ]] || ! kill -0 $gc 2>/dev/null; do sleep 0.05; done
  sleep $offset
  state=0; imported || state=$?
  seen=no; [[ ! -e /mnt/a/$kind/gc ]] || seen=yes
  wait $gc || bad "gc: exit $? $(why b)"
  delay del
  echo 3 >/proc/sys/vm/drop_caches
  tell "offset $offset: import: exit $state, $(bytes) bytes added; its kernel sees gc/: $seen; $(head -n 1 /run/gc)"
  ((state != 0)) || back a $id 1 || bad "offset $offset: LOST: $(why a)"
done
tell done
JOB
make_archives 1
new_disk 3G
boot job offsets="$*" prepared="${PREPARED:-no}"
finish $(($# * 60 + 60)) || say "the job failed"
told
[[ $(told | tail -n 1) == "done" ]] && ! told | grep -q '^bad'
