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

take() { # sets id, archive (its SHA-256 and bytes as the kubelet left it), added (bytes)
  on one "$cryostore" checkpoint large -n "$namespace" --kubelet-ca "$(folder_of one)/state/kubelet.crt" --keep-archive --json "${options[@]}" \
    >"$work/report.json" 2>"$work/error" || { cat "$work/error"; fail "no checkpoint"; }
  local path seconds stored
  path=$(folder_of one)$(field checkpoints 0 archive <"$work/report.json")
  id=$(field checkpoints 0 snapshot <"$work/report.json") added=$(field checkpoints 0 bytes_added <"$work/report.json")
  seconds=$(field checkpoints 0 kubelet_seconds <"$work/report.json") stored=$(field checkpoints 0 seconds <"$work/report.json")
  archive="$(sha256sum <"$path") $(stat -c %s "$path")"
  rm "$path"
  note "${archive##* } bytes by the kubelet in $seconds s; $added added to the bucket in $stored s"
}
comes_back() { # what take said
  local start=$SECONDS
  "$cryostore" -q export "$id" -o "$work/archive.tar" "${options[@]}" --no-cache >/dev/null
  [[ "$(sha256sum <"$work/archive.tar") $(stat -c %s "$work/archive.tar")" == "$archive" ]] || fail "another archive comes out of the bucket"
  rm "$work/archive.tar"
  note "out of the bucket in $((SECONDS - start)) s: the kubelet's tar, sha256 ${archive%% *}"
}

take
first=$added
comes_back
on one ctr -n k8s.io tasks kill -s SIGUSR1 "${container#containerd://}"
until_true 60 says one large 'changed 1' || fail "the workload does not change its data"
take
comes_back
((added * 10 <= first)) || fail "the second checkpoint added $added bytes, more than a tenth of the first's $first"
note "the second added $((added * 1000 / first)) thousandths of the first"
remove_pod large
note "passed"
