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
cryostore=${CRYOSTORE_TEST_PROGRAM:-$CARGO_TARGET_DIR/release/cryostore}
export CRYOSTORE_CACHE_DIR=$work/cache
declare -A node_process=()
began=$SECONDS

note() { printf '[%3d s] %s\n' $((SECONDS - began)) "$*"; }
fail() { note "FAILED: $*"; exit 1; }

cluster() { HOME=$work "$CRYOSTORE_TEST_KUBECTL" --kubeconfig "$CRYOSTORE_TEST_APISERVER" "$@"; }
kubectl() { cluster -n "$namespace" "$@"; }

# until_true SECONDS COMMAND…: waits for it.
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

# With $registry_user (USER:PASSWORD) it wants that.
start_registry() {
  scripts/runtimes.sh registry "${registry#*:}" ${registry_user:+"$registry_user"} >"$work/registry.log" 2>&1 &
  registry_process=$!
  at_exit end_registry
}
end_registry() {
  kill "$registry_process" 2>/dev/null || true
  wait "$registry_process" 2>/dev/null || true
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
  until_true 30 grep -qx ready "$folder/node.out" || { cat "$folder/node.out"; fail "containerd of $name does not answer"; }
  on "$name" python3 tests/kubelet/kubelet.py --kubeconfig "$KUBECONFIG" --node "$name" --folder /var/lib/kubelet/checkpoints \
    --runtime /run/containerd/containerd.sock --state "$folder/state" < <(exec tail -f /dev/null --pid $$) >"$folder/kubelet.out" 2>&1 &
  until_true 30 grep -q certificate "$folder/kubelet.out" || { cat "$folder/kubelet.out"; fail "the kubelet of $name does not start"; }
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

# pod NODE NAME IMAGE [CONTAINER [SPEC]]: with one container, `main`; the JSON of the two is put into it and into the pod's spec.
pod() {
  python3 - "$@" <<'END' | kubectl create -f - >/dev/null
import json, sys
node, name, image, container, spec = (sys.argv[1:] + ["{}", "{}"])[:5]
container = {"name": "main", "image": image, **json.loads(container)}
spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1, **json.loads(spec)}
print(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
END
}

is_phase() { [[ $(kubectl get pod "$1" -o 'jsonpath={.status.phase}') == "$2" ]]; }
waits_for() { [[ $(kubectl get pod "$1" -o 'jsonpath={.status.containerStatuses[0].state.waiting.reason}') == "$2" ]]; }
is_gone() { [[ -z $(kubectl get pod "$1" --ignore-not-found) ]]; }
runs() { # POD [SECONDS]
  until_true "${2:-60}" is_phase "$1" Running || { kubectl get pod "$1" -o 'jsonpath={.status}'; fail "pod $1 does not run"; }
}
remove_pod() {
  kubectl delete pod "$1" --wait=false >/dev/null
  until_true 40 is_gone "$1" || fail "pod $1 does not end"
}

# logs NODE POD: what its container has said: time, stream, F, text.
logs() { cat "$(folder_of "$1")"/var/log/pods/"$namespace"_"$2"_*/main/*.log 2>/dev/null; }
says() { logs "$1" "$2" | grep -qE "$3"; } # NODE POD PATTERN

start_repository() {
  export CRYOSTORE_STORAGE=$work/store CRYOSTORE_KEY_FILE=$work/key
  "$cryostore" -q init >/dev/null
}

# The registry, a namespace, and a repository.
start_all() {
  start_registry
  cluster create namespace "$namespace" >/dev/null
  start_repository
}

field() { python3 -c 'import json, sys; value = json.load(sys.stdin)
for key in sys.argv[1:]: value = value[int(key) if key.isdigit() else key]
print(value)' "$@"; }

# checkpoint NODE POD [OPTION…]: prints the snapshot's id.
checkpoint() {
  local node=$1 pod=$2
  shift 2
  on "$node" "$cryostore" checkpoint "$pod" -n "$namespace" --kubelet-ca "$(folder_of "$node")/state/kubelet.crt" "$@" >&2 || return 1
  "$cryostore" ls --json | field snapshots 0 id
}

# The log inside the archive; whether a pod's log goes on from there (goes_on.py says how).
archived_log() { "$cryostore" -q export "$1" -o - | tar xOf - "${2:-container.log}" >"$work/archived.log"; }
goes_on() { # NODE POD
  logs "$1" "$2" >"$work/new.log"
  python3 tests/real/goes_on.py "$work/archived.log" "$work/new.log"
}

# restore NODE SNAPSHOT NAME [OPTION…]: as somebody on the node does it.
restore() {
  on "$1" "$cryostore" restore "$2" --node "$1" --name "$3" -n "$namespace" "${@:4}" >&2
}
