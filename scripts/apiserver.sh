#!/usr/bin/env bash
# scripts/apiserver.sh install | run COMMAND…: a real Kubernetes API server with its etcd, which the tests of the cluster's side talk to.
# Owns its build (once, into the cache folder; some 6 minutes of one core, from Debian's source package, whose dependencies come with it),
# its start on 127.0.0.1 and free ports, and its end: by process id, however COMMAND ends.
# COMMAND finds the administrator's kubeconfig in CRYOSTORE_TEST_APISERVER, with the authority of client certificates (users.crt, users.key)
# beside it, and kubectl of the same version in CRYOSTORE_TEST_KUBECTL. Where the server cannot be built, COMMAND runs without it, and the
# tests say that they are skipped.
#
# There are no kubelet, scheduler and controllers behind it: a pod is what a test says that it is. It is Kubernetes 1.20, older than any
# kubelet that takes checkpoints: what works with it does so with its successors, as far as RBAC, pods and nodes go.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

home=$cache/apiserver
release=bookworm
log=$home/build.log

is_built() { [[ -x $home/kube-apiserver && -x $home/etcd ]]; }
is_ready() { is_built && [[ -x $home/kubectl ]]; }

# Those of PROGRAM… that are not there.
missing() {
  local program
  for program; do command -v "$program" >/dev/null || echo "$program"; done
}

can_install() { [[ $(id -u) == 0 && ${CRYOSTORE_SETUP:-} != tell ]]; }

# Says why there can be no server here, or nothing.
obstacle() {
  local lacking
  lacking=$(missing python3 openssl | xargs)
  [[ -z $lacking ]] || { echo "missing: $lacking"; return; }
  ! is_ready || return 0
  command -v apt-get >/dev/null || { echo "its source package needs apt-get"; return; }
  [[ -n $(debian_mirror) ]] || { echo "no Debian mirror in this machine's apt sources"; return; }
  lacking=$(missing dpkg-source rsync jq make | xargs)
  [[ -z $lacking ]] || can_install || echo "missing: $lacking (Debian's packages dpkg-dev rsync jq make)"
}

need_programs() {
  [[ -n $(missing dpkg-source rsync jq make) ]] || return 0
  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends dpkg-dev rsync jq make >/dev/null
}

# Lists of packages of our own: those of the machine may be of another release, and stay as they are.
apt() {
  apt-get -q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::Lists=$work/lists" \
    -o "Dir::Cache::pkgcache=$work/pkgcache.bin" -o "Dir::Cache::srcpkgcache=$work/srcpkgcache.bin" -o APT::Sandbox::User=root "$@"
}

build_missing() {
  local work=$home/build uri key
  rm -rf "$work"
  mkdir -p "$work/lists/partial"
  cd "$work"
  uri=$(debian_mirror)
  key='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
  printf '%s\n' "deb $key $uri $release main" "deb-src $key $uri $release main" >sources.list
  apt update
  apt download kubernetes-client
  dpkg -x kubernetes-client_*.deb client
  cp client/usr/bin/kubectl "$home/kubectl"
  is_built || build_server
}

build_server() {
  local reflect version go server
  need_programs
  apt download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev etcd-server
  for package in golang*.deb etcd*.deb; do dpkg -x "$package" root; done
  apt source --download-only "kubernetes/$release"
  dpkg-source -x --no-check kubernetes_*.dsc src
  # From Go 1.18 on, the reflect2 of the source package panics at the first write; Debian's own package of it does not.
  reflect=src/vendor/github.com/modern-go/reflect2
  rm -f "$reflect"/*.go "$reflect"/*.s
  cp root/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$reflect/"
  rm -f "$reflect"/*_test.go
  # The Debian version hides that of Kubernetes: 1.20.5+really1.20.2-1.1.
  version=$(sed -nE 's/^Version: .*really([0-9.]+).*/\1/p' kubernetes_*.dsc | head -n 1)
  printf '%s\n' "KUBE_GIT_COMMIT='0'" "KUBE_GIT_TREE_STATE='archive'" "KUBE_GIT_VERSION='v${version:-1.20.2}'" "KUBE_GIT_MAJOR='1'" \
    "KUBE_GIT_MINOR='20'" >version
  go=$work/root/usr/lib/go-1.19
  (
    cd src
    env -u CARGO_TARGET_DIR GOROOT="$go" PATH="$go/bin:$PATH" GOPATH="$work/.go" GOCACHE="$work/cache" HOME="$work" CGO_ENABLED=0 \
      GO111MODULE=off GOPROXY=off GOFLAGS=-p="$(cores)" KUBE_GIT_VERSION_FILE="$work/version" make WHAT=cmd/kube-apiserver
  )
  server=$(find src/_output -type f -name kube-apiserver | head -n 1)
  cp root/usr/bin/etcd "$home/etcd"
  # Last, and under its name only when it is whole: it says that all is there.
  cp "$server" "$home/kube-apiserver.new"
  mv "$home/kube-apiserver.new" "$home/kube-apiserver"
}

install_server() {
  local why
  is_ready && return 0
  why=$(obstacle)
  [[ -z $why ]] || die "the Kubernetes API server cannot be built here: $why"
  mkdir -p "$home"
  say "building the Kubernetes API server for tests, once, into $home (some 6 minutes of one core)"
  (build_missing) >"$log" 2>&1 || { tail -n 5 "$log" >&2; die "it could not be built; all it said: $log"; }
  chmod -R u+w "$home/build"
  rm -rf "$home/build"
}

start_server() {
  local clients peers port token tries=0
  clients=$(free_port) peers=$(free_port) port=$(free_port)
  token=$(openssl rand -hex 16)
  openssl genrsa -out "$state/account.key" 2048 2>/dev/null
  openssl rsa -in "$state/account.key" -pubout -out "$state/account.pub" 2>/dev/null
  printf '%s,admin,1,"system:masters"\n' "$token" >"$state/tokens.csv"
  in_background etcd "$home/etcd" --data-dir "$state/etcd" --unsafe-no-fsync \
    --listen-client-urls "http://127.0.0.1:$clients" --advertise-client-urls "http://127.0.0.1:$clients" \
    --listen-peer-urls "http://127.0.0.1:$peers" --initial-advertise-peer-urls "http://127.0.0.1:$peers" \
    --initial-cluster "default=http://127.0.0.1:$peers"
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$state/users.key" -out "$state/users.crt" -days 2 -subj /CN=users 2>/dev/null
  in_background apiserver "$home/kube-apiserver" --etcd-servers="http://127.0.0.1:$clients" --bind-address=127.0.0.1 --secure-port="$port" \
    --cert-dir="$state/certificates" --authorization-mode=RBAC --token-auth-file="$state/tokens.csv" --allow-privileged \
    --client-ca-file="$state/users.crt" --service-account-key-file="$state/account.pub" --service-account-signing-key-file="$state/account.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.0.0.0/24 \
    --disable-admission-plugins=ServiceAccount --kubelet-preferred-address-types=InternalIP
  until python3 - "$port" "$token" <<'END_OF_PYTHON' 2>/dev/null
import ssl, sys, urllib.request
port, token = sys.argv[1:]
request = urllib.request.Request(f"https://127.0.0.1:{port}/readyz", headers={"Authorization": f"Bearer {token}"})
urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=2)
END_OF_PYTHON
  do
    ((tries += 1))
    if ! kill -0 "$started" 2>/dev/null || ((tries > 300)); then
      tail -n 5 "$state/apiserver.log" >&2
      die "the API server did not start"
    fi
    sleep 0.1
  done
  cat >"$state/kubeconfig" <<END_OF_CONFIG
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$port", certificate-authority: "$state/certificates/apiserver.crt"}}]
users: [{name: admin, user: {token: "$token"}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
END_OF_CONFIG
  export CRYOSTORE_TEST_APISERVER=$state/kubeconfig CRYOSTORE_TEST_KUBECTL=$home/kubectl
}

action=${1:-}
shift || true
case $action in
install) install_server ;;
run)
  (($#)) || die "scripts/apiserver.sh run COMMAND…"
  why=$(obstacle)
  if [[ -n $why ]]; then
    say "no Kubernetes API server ($why): the tests against it are skipped"
    "$@"
    exit
  fi
  install_server
  state=$(mktemp -d)
  at_exit "rm -rf '$state'"
  start_server
  "$@"
  ;;
*) die "scripts/apiserver.sh install | run COMMAND…" ;;
esac
