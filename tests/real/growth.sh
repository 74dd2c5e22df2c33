#!/usr/bin/env bash
# 220 MB in a container, 5 % of which change between two checkpoints into an S3 bucket: the second adds at most a tenth of the first, and what comes out
# of the bucket is the kubelet's tar.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

start_all
read -ra storage <<<"${CRYOSTORE_TEST_S3:?scripts/servers.sh sets it}"
export CRYOSTORE_STORAGE=${storage[0]}/$namespace
options=()
for option in "${storage[@]:1}"; do options+=(--storage-option "$option"); done
"$cryostore" -q init "${options[@]}" --key-file "$work/bucket.key" >/dev/null
export CRYOSTORE_KEY_FILE=$work/bucket.key

start_node one
pod one large "$registry/notebook:1" '{"command": ["python3", "/app/memory.py", "220", "5"]}'
runs large
until_true 60 says one large ready || fail "the workload does not start"
container=$(kubectl get pod large -o 'jsonpath={.status.containerStatuses[0].containerID}')

take() { # prints: id, bytes of the archive, bytes added
  on one "$cryostore" checkpoint large -n "$namespace" --kubelet-ca "$(folder_of one)/state/kubelet.crt" --keep-archive --json "${options[@]}" >"$work/report.json"
  python3 - "$work/report.json" <<'END'
import json, sys
one = json.load(open(sys.argv[1]))["checkpoints"][0]
print(one)
END
}
take
on one ctr -n k8s.io tasks kill -s SIGUSR1 "${container#containerd://}"
until_true 60 says one large 'changed 1' || fail "the workload does not change its data"
take
