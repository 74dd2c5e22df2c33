#!/usr/bin/env bash
# tests/heavy/nfs.sh [SECONDS]: one repository on a real NFS 4.2 server, used by two clients at once, one of them in a network of its own. Some 10 minutes.
# Always: what one client was told is stored, the other lists and gives back byte for byte at once, both ways; exports, imports, deletions, undeletions and collections run side by side (SECONDS, 120);
# the server, then the network goes away for 30 s, and who waits for it (a hard mount) finishes, and who does not (soft) gets an error that says so. `check --read-data` finds nothing.
# Each node has caches of its own. Needs nfs-kernel-server, nfs-common and iproute2 besides what machine.sh says.
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$0")/machine.sh"
cp -f "$here/nfs_inside.sh" "$work/"
for program in exportfs rpc.nfsd rpc.mountd mount.nfs4 ip; do command -v "$program" >/dev/null || die "missing: $program (Debian: apt-get install nfs-kernel-server nfs-common iproute2)"; done

cat >"$work/job" <<'JOB'
. /mnt/work/nfs_inside.sh
mkdir -p /run/home.a /run/home.b /run/home.soft
: >/run/have.a; : >/run/have.b
seal=(); [[ $kind == sealed ]] || seal=(--no-encryption)
! on b ls >/dev/null || bad "a repository that is not there is listed"
on a init -q "${seal[@]}" >/dev/null || bad "init: $(why a)"
for to in b soft; do [[ $kind != sealed ]] || { mkdir -p /run/home.$to/.config; cp -r /run/home.a/.config/cryostore /run/home.$to/.config/; }; done
# A name that a client looked for before it was there may be missing to that client for a while: not to our user.
for client in b soft; do
  tries=0
  until on $client ls >/dev/null; do
    ((tries++ == 0)) && bad "the new repository is not there on $client: $(why $client)"
    ((tries < 90)) || break
    sleep 1
  done
  tell "the new repository is there on $client after $tries tries"
done

# 1. One imports, the other lists and exports at once, after it had looked for the snapshot when it was not there.
for ((turn = 0; turn < 12; turn++)); do
  if ((turn % 2)); then one=a two=b; else one=b two=a; fi
  on $two ls >/dev/null || bad "ls on $two: $(why $two)"
  ! on $two export -q 0123456789 -o - >/dev/null || bad "an export of nothing"
  read -r id archive < <(add $one) || continue
  listed $two $id || bad "$id, just imported on $one, is not listed on $two: $(why $two)"
  if back $two $id $archive; then tell same; else bad "$id, just imported on $one, does not come back on $two: $(why $two)"; fi
  if ((turn % 3 == 2)); then
    on $two delete -q $id >/dev/null || bad "delete on $two: $(why $two)"
    ! listed $one $id || bad "$id, deleted on $two, is listed on $one"
    ! on $one export -q $id -o - >/dev/null || bad "$id, deleted on $two, comes back on $one"
    on $one undelete -q $id >/dev/null || bad "undelete on $one: $(why $one)"
    if back $two $id $archive; then tell same; else bad "$id, undeleted on $one, does not come back on $two: $(why $two)"; fi
  fi
done
tell "step one after the other"

# 2. All at once.
until=$((SECONDS + seconds))
importer() { while ((SECONDS < until)); do add $1 >/dev/null && tell imported $1; done; }
reader() {
  local of=$2 id archive
  while ((SECONDS < until)); do
    read -r id archive < <(shuf -n 1 /run/have.$of) || { sleep 0.2; continue; }
    if back $1 $id $archive; then tell same; else
      # It may have been deleted meanwhile.
      ! grep -q "^$id" /run/have.$of || bad "$id of $of does not come back on $1: $(why $1)"
    fi
  done
}
# Deletes on one what the other imported, brings every third back, collects.
remover() {
  local of=$2 id archive turn=0
  while ((SECONDS < until)); do
    (($(wc -l </run/have.$of) > 4)) || { sleep 0.3; continue; }
    read -r id archive </run/have.$of
    sed -i 1d /run/have.$of
    on $1 delete -q $id >/dev/null || bad "delete on $1: $(why $1)"
    tell deleted $1
    if ((++turn % 3 == 0)); then
      on $of undelete -q $id >/dev/null || bad "undelete on $of: $(why $of)"
      if back $1 $id $archive; then tell same; else bad "$id, undeleted on $of, does not come back on $1: $(why $1)"; fi
      echo $id $archive >>/run/have.$of
      tell undeleted $of
    elif ((turn % 3 == 1)); then
      on $1 gc -q --grace 0 >/dev/null || bad "gc on $1: $(why $1)"
      tell collected $1
    fi
  done
}
jobs=()
importer a & jobs+=($!)
importer b & jobs+=($!)
reader a b & jobs+=($!)
reader b a & jobs+=($!)
remover b a & jobs+=($!)
wait "${jobs[@]}"
tell "step side by side"
all_there() {
  local client repo_state
  for client in a b; do
    on $client check --read-data >/run/check || bad "$1: check on $client: exit $? $(why $client) $(tail -n 3 /run/check | tr '\n' '|')"
    while read -r id archive; do
      if back $client $id $archive; then tell same; else bad "$1: $id does not come back on $client: $(why $client)"; fi
    done < <(cat /run/have.a /run/have.b)
  done
}
all_there "afterwards"

# 3. The server goes away for 30 s, then the network, while both write and one reads. A collection of before may not be disturbed either.
away() {
  local what=$1 client codes=()
  tell "step $what goes away"
  until=$((SECONDS + 12))
  jobs=()
  importer a & jobs+=($!)
  importer b & jobs+=($!)
  reader a b & jobs+=($!)
  (while ((SECONDS < until + 15)); do
    state=0; on soft import -q /mnt/work/$((RANDOM % 12 + 1)).tar >/dev/null || state=$?
    tell "soft import with the $what away: exit $state $( ((state == 0)) || why soft)"
    state=0; on soft ls >/dev/null || state=$?
    tell "soft ls with the $what away: exit $state $( ((state == 0)) || why soft)"
  done) & jobs+=($!)
  sleep 3
  if [[ $what == server ]]; then rpc.nfsd 0; else ip link set here down; fi
  sleep 30
  if [[ $what == server ]]; then server_up; else ip link set here up; fi
  wait "${jobs[@]}"
  all_there "$what was away"
}
away server
away network
sort /run/said.a /run/said.b | uniq -c | sort -rn >/mnt/work/said.$kind
cat /run/said.soft >/mnt/work/said.soft.$kind
tell done
JOB
make_archives 12
bad=0
for kind in sealed plain; do
  new_disk 6G
  boot job kind=$kind seconds="${1:-120}"
  finish 1500 || { say "$kind: the job failed"; bad=1; }
  cp "$work/console" "$work/console.$kind"
  told | grep -Ev '^(same|imported|deleted|undeleted|collected)' || true
  count() { told | grep -c "^$1" || true; }
  echo "$kind: imports side by side $(count imported), compared $(count same), deletions $(count deleted), undeletions $(count undeleted), collections $(count collected), wrong $(count bad)"
  [[ $(told | tail -n 1) == "done" ]] && ! told | grep -q '^bad' || bad=1
done
exit $bad
