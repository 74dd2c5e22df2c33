#!/usr/bin/env bash
# The image below the container: containerd fetches it anew at a restore, always, and without credentials. Where that cannot work, since the registry
# wants a password or is off, the copy that the node has must do.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

registry_user=user:hush
start_all
auth=$(printf %s "$registry_user" | base64)
kubectl create secret generic puller --type kubernetes.io/dockerconfigjson \
  --from-literal ".dockerconfigjson={\"auths\": {\"$registry\": {\"auth\": \"$auth\"}}}" >/dev/null
secrets='{"imagePullSecrets": [{"name": "puller"}]}'

start_node one
pod one nobody "$registry/counter:1"
until_true 30 waits_for nobody ErrImagePull || fail "the registry wants no password"
remove_pod nobody
pod one web "$registry/counter:1" '{}' "$secrets"
runs web
until_true 30 says one web 'count 3 ' || fail "the workload does not count"
id=$(checkpoint one web)
archived_log "$id"
remove_pod web
end_node one

start_node two
pod two other "$registry/counter:1" '{}' "$secrets"
runs other
note "node two has the image, which a pod with the right to it has fetched"
restore two "$id" with-password
until_true 30 goes_on two with-password || true
goes_on two with-password || fail "with-password is not the process that was saved"
note "restored while the registry wants a password"

end_registry
restore two "$id" without-registry
until_true 30 goes_on two without-registry || true
goes_on two without-registry || fail "without-registry is not the process that was saved"
note "restored while the registry is off; two pods of one checkpoint run now"
for name in other with-password without-registry; do remove_pod "$name"; done
note "passed"
