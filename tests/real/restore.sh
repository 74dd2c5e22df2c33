#!/usr/bin/env bash
# A pod on one node, a checkpoint of it, the node gone with all that it had; the restore on another node goes on where the archive ends. A cold start of
# the same image does not pass for one. A restore that CRIU refuses fails, and says CRIU's words.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

start_all
start_node one
pod one web "$registry/counter:1"
runs web
until_true 30 says one web 'count 3 ' || fail "the workload does not count"
note "pod web counts on node one"

id=$(checkpoint one web)
note "checkpoint $id; kubelet's folder: $(find "$(folder_of one)/var/lib/kubelet/checkpoints" -type f | wc -l) archives"
archived_log "$id"

remove_pod web
end_node one
note "node one is gone: containerd, its folders, the kubelet's archive"

start_node two
images_before=$(on two ctr -n k8s.io images ls -q | grep -c counter || true)
((images_before == 0)) || fail "node two knows the image already"
restore two "$id" web-again
runs web-again
until_true 30 goes_on two web-again || true
goes_on two web-again || fail "web-again is not the process that was saved"
note "pod web-again on node two is the process that was saved"

pod two cold "$registry/counter:1"
runs cold
until_true 30 says two cold 'count 4 ' || fail "the cold start does not count"
if why=$(goes_on two cold 2>&1); then fail "a cold start passes for a restore"; fi
note "a cold start does not pass: $why"

echo no-such-option >"$(folder_of two)/etc/criu/runc.conf"
if restore two "$id" refused --timeout 6 2>"$work/error"; then fail "CRIU refused, and the restore passed"; fi
tail -n 4 "$work/error"
grep -q "criu failed: type RESTORE" "$work/error" || fail "the error does not say what CRIU said"
grep -q runc.conf "$work/error" || fail "the error does not say what to do"
note "a restore that CRIU refuses fails"

remove_pod web-again
remove_pod cold
note "passed"
