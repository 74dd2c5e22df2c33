#!/usr/bin/env bash
# What a restored process finds in place of its volumes: an emptyDir that is empty, a ConfigMap, a token of its own; and what the container wrote into its own
# files, which is in the archive. An init container does not run again.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

start_all
kubectl create configmap settings --from-literal color=green >/dev/null
kubectl create serviceaccount robot >/dev/null
start_node one
pod one web "$registry/counter:1" '{"command": ["sh", "-c", "echo own >/own; . /counter.sh"], "volumeMounts": [
    {"name": "scratch", "mountPath": "/scratch"}, {"name": "settings", "mountPath": "/settings"}, {"name": "token", "mountPath": "/token"}]}' '{
  "serviceAccountName": "robot",
  "initContainers": [{"name": "first", "image": "'"$registry"'/counter:1", "command": ["sh", "-c", "echo first >/scratch/first"],
    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}],
  "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}},
    {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}'
runs web
until_true 30 says one web 'count 3 ' || fail "the workload does not count"
in_container() { # NODE POD COMMAND…: what it prints
  local id
  id=$(kubectl get pod "$2" -o 'jsonpath={.status.containerStatuses[0].containerID}')
  on "$1" ctr -n k8s.io tasks exec --exec-id "look-$RANDOM" "${id#containerd://}" "${@:3}"
}
[[ $(in_container one web cat /own /scratch/first /settings/color) == $'own\nfirst\ngreen' ]] || fail "the pod is not as it was meant"
in_container one web cat /token/token >"$work/token"
id=$(checkpoint one web)
archived_log "$id"
remove_pod web
end_node one
note "checkpoint $id; the node is gone"

start_node two
restore two "$id" web-2
until_true 30 goes_on two web-2 || true
goes_on two web-2 || fail "web-2 is not the process that was saved"
[[ $(in_container two web-2 cat /own /settings/color) == $'own\ngreen' ]] || fail "what the container wrote, or its ConfigMap, is not there"
[[ -z $(in_container two web-2 ls /scratch) ]] || fail "the emptyDir is not empty: did the init container run again?"
in_container two web-2 cat /token/token >"$work/token-2"
if cmp -s "$work/token" "$work/token-2"; then fail "the token is the old one"; fi
note "its own files and the ConfigMap are there, the emptyDir is empty, the token is new"
remove_pod web-2
note "passed"
