#!/usr/bin/env bash
# From a laptop, which reaches no node's containerd and no kubelet's folder: the agents of two nodes take the checkpoint and make the image, with the rights
# of deploy/agent.yaml and no others. When the restored pod is gone, so is its image.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

start_all
cluster apply -f deploy/agent.yaml >/dev/null
token=$(cluster create --raw /api/v1/namespaces/cryostore/serviceaccounts/cryostore-agent/token -f - \
  <<<'{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}' | field status token)
sed "s/token: \"[^\"]*\"/token: \"$token\"/" "$KUBECONFIG" >"$work/agent.kubeconfig"

url=https://127.0.0.1:10350
start_agent() { # NODE
  # shellcheck disable=SC2016 # it is another shell's
  on "$1" sh -c 'echo "$$" >/root/agent.pid; exec "$0" "$@"' env KUBECONFIG="$work/agent.kubeconfig" "$cryostore" serve-node --node "$1" --kubelet-ca "$(folder_of "$1")/state/kubelet.crt" \
    --state /root/agent --audit-log "$work/audit" </dev/null >"$work/agent.log" 2>&1 &
  until_true 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/10350' || { cat "$work/agent.log"; fail "the agent of $1 does not listen"; }
}
has_image() { on "$1" ctr -n k8s.io images ls -q | grep -q cryostore/; }
has_no_image() { ! has_image "$1"; }

start_node one
start_agent one
pod one web "$registry/counter:1"
runs web
until_true 30 says one web 'count 3 ' || fail "the workload does not count"
env -u CRYOSTORE_STORAGE -u CRYOSTORE_KEY_FILE "$cryostore" checkpoint web -n "$namespace" --agent "$url" >&2
id=$("$cryostore" ls --json | field snapshots 0 id)
archived_log "$id"
note "checkpoint $id, by the agent of node one; here is neither the storage's name nor its key"
remove_pod web
end_node one

# Whether the agent's registry gives the base image that the restored one stands on.
gives_base() { [[ $(curl -s -o /dev/null -w '%{http_code}' -I "http://127.0.0.1:10351/v2/cryostore/base/manifests/$base") == 200 ]]; }
gives_no_base() { ! gives_base; }

start_node two
pod two other "$registry/counter:1"
runs other
start_agent two
"$cryostore" restore "$id" --node two --name web-2 -n "$namespace" --agent "$url" >&2
until_true 30 goes_on two web-2 || true
goes_on two web-2 || fail "web-2 is not the process that was saved"
has_image two || fail "the image is gone while the pod runs"
base=$(on two ctr -n k8s.io images ls | grep -o 'cryostore/base=[^ ,]* sha256:[0-9a-f]*' | grep -o 'sha256:.*' | head -n 1)
[[ -n $base ]] || fail "the image does not say what it stands on"
gives_base || fail "the registry does not give the base image"
# shellcheck disable=SC2016 # it is another shell's
on two sh -c 'kill "$(cat /root/agent.pid)"'
until_true 20 gives_no_base || fail "the agent does not end"
start_agent two
gives_base || fail "the registry does not give the base image after a restart of the agent"
note "the agent was started again, and knows what the image stands on"
# It sees the pod first.
sleep 6
remove_pod web-2
until_true 60 has_no_image two || fail "the pod is gone, and its image is not"
until_true 10 gives_no_base || fail "the registry gives a base image that nothing stands on any more"
note "the pod is gone, and so is its image; what the agents did:"
grep -o '"call":[^,]*\|"verb":[^,]*\|"result":[^,]*' "$work/audit" | paste -sd ' ' || true
note "passed"
