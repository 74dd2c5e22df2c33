# shellcheck shell=bash
# Sourced by the tests of this folder. Owns the cluster that they run on: the API server, nodes with containerd and a kubelet, the registry.
# Always: what is started here is ended with the script, by its id. Never: a test that goes on after something that it waited for did not come.
# shellcheck source-path=SCRIPTDIR source=../../scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"

registry=localhost:5005
work=$(mktemp -d)
at_exit "end_all"
export KUBECONFIG=${CRYOSTORE_TEST_APISERVER:?scripts/apiserver.sh sets it}
namespace=real-$$
cryostore=$CARGO_TARGET_DIR/release/cryostore
export CRYOSTORE_CACHE_DIR=$work/cache
declare -A node_process=()
began=$SECONDS

note() { printf '[%3d s] %s\n' $((SECONDS - began)) "$*"; }
fail() { note "FAILED: $*"; exit 1; }

kubectl() { HOME=$work "$CRYOSTORE_TEST_KUBECTL" --kubeconfig "$CRYOSTORE_TEST_APISERVER" -n "$namespace" "$@"; }

# until_true SECONDS WHAT COMMAND…: waits for it.
until_true() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

start_registry() {
  scripts/runtimes.sh registry "${registry#*:}" >"$work/registry.log" 2>&1 &
  at_exit "kill $! 2>/dev/null || true"
}

folder_of() { echo "$work/$1"; }
on() { # NODE COMMAND…
  local folder
  folder=$(folder_of "$1")
  shift
  scripts/runtimes.sh on "$folder" "$@"
}

# start_node NAME: containerd with an empty store, and a kubelet that registers the node.
start_node() {
  local name=$1 folder
  folder=$(folder_of "$name")
  mkdir -p "$folder/state"
  # Both end when nobody holds the other end of their standard input: with this script, however it ends.
  scripts/runtimes.sh node "$folder" < <(exec tail -f /dev/null --pid $$) >"$folder/node.out" 2>&1 &
  node_process[$name]=$!
  until_true 30 containerd grep -qx ready "$folder/node.out" || { cat "$folder/node.out"; fail "containerd of $name does not answer"; }
  on "$name" python3 tests/kubelet/kubelet.py --kubeconfig "$KUBECONFIG" --node "$name" --folder /var/lib/kubelet/checkpoints \
    --runtime /run/containerd/containerd.sock --state "$folder/state" < <(exec tail -f /dev/null --pid $$) >"$folder/kubelet.out" 2>&1 &
  until_true 30 kubelet grep -q certificate "$folder/kubelet.out" || { cat "$folder/kubelet.out"; fail "the kubelet of $name does not start"; }
}

# end_node NAME: its processes, its containers, its folders.
end_node() {
  local folder
  folder=$(folder_of "$1")
  kill "${node_process[$1]}" 2>/dev/null || true
  wait "${node_process[$1]}" 2>/dev/null || true
  unset "node_process[$1]"
  rm -rf --one-file-system "$folder"
}

end_all() {
  local name
  for name in "${!node_process[@]}"; do end_node "$name"; done
  rm -rf --one-file-system "$work"
}

# pod NODE NAME IMAGE [JSON]: with one container, `main`; the JSON is merged into the pod.
pod() {
  python3 - "$@" <<'END' | kubectl create -f - >/dev/null
import json, sys
node, name, image = sys.argv[1:4]
pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
pod["spec"] = {"nodeName": node, "containers": [{"name": "main", "image": image}], "terminationGracePeriodSeconds": 0}
def merge(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and key in into: merge(into[key], value)
        elif key == "container": into["containers"][0].update(value)
        else: into[key] = value
merge(pod, json.loads(sys.argv[4]) if len(sys.argv) > 4 else {})
print(json.dumps(pod))
END
}

is_phase() { [[ $(kubectl get pod "$1" -o 'jsonpath={.status.phase}') == "$2" ]]; }
is_gone() { [[ -z $(kubectl get pod "$1" --ignore-not-found) ]]; }
runs() { # POD [SECONDS]
  until_true "${2:-60}" "pod $1" is_phase "$1" Running || { kubectl get pod "$1" -o 'jsonpath={.status}'; fail "pod $1 does not run"; }
}
remove_pod() {
  kubectl delete pod "$1" --wait=false >/dev/null
  until_true 40 "end of $1" is_gone "$1" || fail "pod $1 does not end"
}

# logs NODE POD: what its container has said: time, stream, F, text.
logs() { cat "$(folder_of "$1")"/var/log/pods/"$namespace"_"$2"_*/main/*.log 2>/dev/null; }
says() { logs "$1" "$2" | grep -qE "$3"; } # NODE POD PATTERN
