#!/usr/bin/env bash
# A pod on a node; a checkpoint of it; the node is lost; the pod goes on under a new name on another node. With a real API server, containerd, runc and
# CRIU, and a stand-in for the kubelet, all of them on this machine and gone afterwards. Needs root; installs what it needs, once, into the cache folder.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

if [[ ${1:-} != --inside ]]; then
  why=$(scripts/runtimes.sh check) || die "real containers cannot be restored here: $why"
  scripts/setup.sh build
  build "building cryostore" build "${locked[@]}" --release --workspace
  scripts/apiserver.sh install
  exec scripts/runtimes.sh alone scripts/apiserver.sh run scripts/demo-restore.sh --inside
fi

# shellcheck source=../tests/real/lib.sh
. tests/real/lib.sh

title() { printf '\n== %s\n' "$*"; }
shorter() { sed -E 's/^([^ ]{23})[^ ]* stdout F (count [0-9]+ digest .{16}).*/  \1  \2…/'; }

start_all
title "node one: a pod counts, and prints the digest of 32 random bytes that are in its memory and nowhere else"
start_node one
pod one web "$registry/counter:1"
runs web
until_true 30 says one web 'count 4 ' || fail "the workload does not count"
logs one web | shorter

title "node one: cryostore checkpoint web"
id=$(checkpoint one web)
archived_log "$id"

title "node one is lost: its processes, its containers, its disk"
remove_pod web
end_node one
start_node two
echo "node two has containerd with an empty store, and has never seen the pod"

title "node two: cryostore restore ${id:0:8} --node two --name web-2"
start=$SECONDS
restore two "$id" web-2
runs web-2
until_true 30 goes_on two web-2 || true

title "web-2 on node two, $((SECONDS - start)) s later: what the archive's log has, and what came after it"
sed 's/^/  /' < <(goes_on two web-2) || fail "web-2 is not the process that was saved"
goes_on two web-2 >/dev/null || fail "web-2 is not the process that was saved"
kubectl get pods -o wide 2>/dev/null | cut -c1-90
remove_pod web-2
printf '\nit is the same process: the same digest, and the count goes on (%d s)\n' $((SECONDS - began))
