#!/usr/bin/env bash
# scripts/runtimes.sh: real containerd with its CRI, runc, CRIU and Podman, for the tests that freeze and restore real containers.
#
#   scripts/runtimes.sh setup            once: the tools and the images of the workloads, from Debian's packages, into the cache folder
#   scripts/runtimes.sh check            says in one line why nothing real can run here, and fails; or nothing
#   scripts/runtimes.sh run [--cgroup2] COMMAND…
#                                        COMMAND where the tools are: a fresh machine of its own, thrown away afterwards
#   scripts/runtimes.sh node FOLDER      a node: containerd with its CRI, what it keeps in FOLDER (made, and never removed, here); prints
#                                        "ready", and ends when its standard input does
#   scripts/runtimes.sh on FOLDER COMMAND…    COMMAND on that node
#   scripts/runtimes.sh alone COMMAND…   COMMAND here, in a network namespace of its own, where there is loopback and nothing else
#   scripts/runtimes.sh registry PORT    the images, read-only, on 127.0.0.1:PORT: localhost:PORT/counter:1, localhost:PORT/notebook:1
#
# Two nodes are two folders. To restore on another one than the first, with nothing that it could know:
#
#   scripts/runtimes.sh node /tmp/b < <(sleep infinity) &    # or with a pipe that the test holds open
#   scripts/runtimes.sh on /tmp/b ctr -n k8s.io images import IMAGE.tar
#   scripts/runtimes.sh on /tmp/b cryostore restore …        # finds containerd at /run/containerd/containerd.sock, as on a node
#
# From outside, that socket is FOLDER/run/containerd/containerd.sock; /var/lib/kubelet, /var/log and /etc/criu are below FOLDER as well
# (/etc/criu/runc.conf is what a node's administrator writes there). COMMAND sees the clone, the target folder and the folder for temporary files
# at their own paths, and nothing else of this machine's files. $CRYOSTORE_CGROUP is the parent that containers must have.
#
# Namespaces: mounts and processes are their own, so that two nodes are no more than two folders, and nothing that is started survives the script, not
# even its SIGKILL. The network is the caller's: what nodes talk to, the API server, the registry and the object store, is on 127.0.0.1, and so is
# what others call on them. Who wants none of it to meet anything else takes all of it together into one network namespace (`alone`, as tests/real/run.sh does):
# there CRIU's firewall rules, which lock connections during a dump, are gone with the test, too.
#
# Needs: root, a Debian mirror, mount and pid namespaces, and a kernel that CRIU can work with (CONFIG_CHECKPOINT_RESTORE).
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

home=$cache/runtimes
root=$home/root
images=$home/images
# Debian's unstable has what a node of today has. Its stable has CRIU 4.1, which cannot dump a socket on Linux 6.16 or later, and containerd 1.7,
# which takes no checkpoints through its CRI.
tools_suite=sid
image_suite=trixie
# The last ones are for the kubelet stand-in and the client of the notebook.
tools=containerd,runc,podman,conmon,netavark,catatonit,criu,iptables,nftables,iproute2,mount,util-linux,procps,ca-certificates,busybox-static,checkpointctl
tools+=,openssl,python3,python3-grpcio,python3-websocket
notebook=python3,python3-ipykernel,jupyter-server

temporary() { realpath "${TMPDIR:-/tmp}"; }

obstacle() {
  [[ $(id -u) == 0 ]] || { echo "CRIU needs root"; return; }
  [[ ! -e $home/tools.done ]] || return 0
  command -v apt-get >/dev/null || { echo "the tools come from Debian's packages, and there is no apt-get"; return; }
  [[ -n $(debian_mirror) ]] || echo "no Debian mirror in this machine's apt sources"
}

# --- set-up -----------------------------------------------------------------------------------------------------------------------------

need_programs() {
  ! command -v mmdebstrap >/dev/null || return 0
  [[ ${CRYOSTORE_SETUP:-} != tell ]] || die "missing: mmdebstrap (Debian's package mmdebstrap)"
  say "installing with apt-get: mmdebstrap"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null || say "apt-get update failed; trying with the lists that are there"
  apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends mmdebstrap >/dev/null || die "apt-get install mmdebstrap failed"
}

# bootstrap SUITE TARGET PACKAGE,…: a root file system of these packages, with this machine's settings for its mirror.
bootstrap() {
  local suite=$1 target=$2 packages=$3
  shift 3
  mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt="$home/apt.conf" --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$@" \
    "$suite" "$target" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main"
}

install_tools() {
  rm -rf --one-file-system "$root"
  bootstrap "$tools_suite" "$root" "$tools"
  # What Podman wants to know; containerd's settings are each node's own (`configure`).
  mkdir -p "$root/etc/containers"
  echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$root/etc/containers/policy.json"
  cat >"$root/etc/containers/containers.conf" <<'END'
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
pids_limit = 0
log_driver = "k8s-file"
END
}

# shellcheck disable=SC2016 # it is another shell's
install_notebook() {
  rm -f "$home/notebook.tar"
  bootstrap "$image_suite" "$home/notebook.tar" "$notebook" --format=tar \
    --customize-hook='rm -rf "$1"/var/cache/apt "$1"/var/lib/apt/lists "$1"/var/log/* "$1"/usr/share/fonts'
}

# Of files that are there already: seconds, and only when one of them changed. Others may be pulling the images that are there.
make_images() {
  local work=$home/images.new busybox=$root/usr/bin/busybox name made_of
  made_of=$(cat "$0" tests/real/image.py tests/real/app/* "$home"/*.done | sha256sum)
  [[ $(cat "$images/made-of" 2>/dev/null) != "$made_of" ]] || return 0
  rm -rf "$work"
  mkdir -p "$work/small/bin" "$work/small/tmp" "$work/small/proc" "$work/small/sys" "$work/small/dev" "$work/small/etc"
  [[ -e $busybox ]] || busybox=$root/bin/busybox
  cp "$busybox" "$work/small/bin/busybox"
  for name in $("$busybox" --list); do [[ $name == busybox || $name == */* ]] || ln -s busybox "$work/small/bin/$name"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$work/small/etc/passwd"
  cp tests/real/app/counter.sh "$work/small/"
  tar -C "$work/small" --sort=name --owner=0 --group=0 --mtime=@0 -cf "$work/small.tar" .
  tar -C tests/real --sort=name --owner=0 --group=0 --mtime=@0 -cf "$work/app.tar" app
  python3 tests/real/image.py "$work/pause" localhost/pause:1 "$work/small.tar" -- tail -f /dev/null
  python3 tests/real/image.py "$work/counter" counter:1 "$work/small.tar" -- sh /counter.sh
  python3 tests/real/image.py "$work/notebook" notebook:1 "$home/notebook.tar" "$work/app.tar" -- python3
  rm -rf "$work/small" "$work/small.tar" "$work/app.tar" "$images"
  echo "$made_of" >"$work/made-of"
  mv "$work" "$images"
}

# Whether NAME is there, of these packages.
is_done() { [[ $(cat "$home/$1.done" 2>/dev/null) == "$2" ]]; }
# once NAME PACKAGES COMMAND: what COMMAND makes of the packages, unless it is there already.
once() {
  ! is_done "$1" "$2" || return 0
  ("$3") >"$home/$1.log" 2>&1 || { tail -n 5 "$home/$1.log" >&2; say "$1 could not be installed; all it said: $home/$1.log"; return 1; }
  echo "$2" >"$home/$1.done"
}

setup() {
  local why other
  why=$(obstacle)
  [[ -z $why ]] || die "real containers cannot run here: $why"
  mkdir -p "$home"
  exec 8>"$home/lock"
  flock 8
  if ! is_done tools "$tools" || ! is_done notebook "$notebook"; then
    say "installing containerd, runc, CRIU and Podman, once, into $home (1.2 GB, some 2 minutes)"
    need_programs
    apt-config dump | grep -E '^Acquire::(Check-|http|https|Retries|ForceIPv)' >"$home/apt.conf" || true
    once notebook "$notebook" install_notebook &
    other=$!
    once tools "$tools" install_tools
    wait "$other"
  fi
  make_images
  exec 8>&-
  has_restores || die "this containerd does not restore: $(versions). Wanted is 2.1, 2.2 or 2.3"
}

# Debian's unstable moves on. The name is dpkg-query's.
# shellcheck disable=SC2016
has_restores() { [[ $(chroot "$root" dpkg-query -W -f '${Version}' containerd) =~ ^2\.[123]\. ]]; }

versions() {
  # shellcheck disable=SC2016 # the names are dpkg-query's
  chroot "$root" dpkg-query -W -f '${Package} ${Version}, ' containerd runc criu podman
  printf 'Linux %s' "$(uname -r)"
}

# --- a machine of its own ---------------------------------------------------------------------------------------------------------------

# What runs first in the new namespaces. $1: the tools, $2: the node's folder, $3: what CRYOSTORE_CGROUP is, $4: 1 for cgroups of version 2 alone,
# $5: where to go; then the shared folders, "--", and the command.
# shellcheck disable=SC2016 # it is another shell's
inside='
set -euo pipefail
root=$1 node=$2 cgroup=$3 only_v2=$4 where=$5
shift 5
# A bind mount, so that there is a mount to turn to; not chroot: CRIU looks for the root in mountinfo.
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
if [ "$only_v2" = 1 ]; then mount -t cgroup2 cgroup2 sys/fs/cgroup; else mount --rbind /sys/fs/cgroup sys/fs/cgroup; fi
for name in run root etc/criu etc/containerd etc/cni opt var/log var/tmp var/lib/containerd var/lib/containers var/lib/kubelet; do
  mkdir -p "$node/$name" "./$name"
  mount --bind "$node/$name" "./$name"
done
while [ "$1" != -- ]; do
  if [ -e "$1" ]; then mkdir -p ".$1"; mount --bind "$1" ".$1"; fi
  shift
done
shift
pivot_root . .
umount -l .
mount -o remount,bind,ro /
# CRIU sets its limit of files to fs.nr_open, for which it needs CAP_SYS_RESOURCE; without that, let the two be the same.
if ! setpriv --dump | grep -q "Capability bounding set:.*sys_resource"; then
  ulimit -Hn >/run/nr_open
  mount --bind /run/nr_open /proc/sys/fs/nr_open
fi
# An open file of another mount namespace is one that CRIU cannot dump.
for fd in /proc/self/fd/*; do
  fd=${fd##*/}
  [ "$fd" -le 2 ] || eval "exec $fd<&-" 2>/dev/null || true
done
cd "$where" 2>/dev/null || cd /
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 CRYOSTORE_CGROUP=$cgroup
: >/run/here
# Not exec: a shell as the first process takes care of orphans.
"$@"'

# The folder of the cgroups below which all containers of this script are.
cgroup_name=cryostore-real
cgroup_folders() { awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts | while read -r place; do printf '%s\n' "$place/$cgroup_name/$1"; done; }

# The processes are gone with their pid namespace; their cgroups are not. One that CRIU had frozen dies only when it is thawed.
remove_cgroups() { # ID
  local tries
  for tries in $(seq 100); do
    if try_to_remove_cgroups "$1" 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  say "a cgroup is left after $tries tries: $cgroup_name/$1"
}
try_to_remove_cgroups() {
  local place folder left=0
  while read -r place; do
    [[ -d $place ]] || continue
    while read -r folder; do
      if [[ -e $folder/freezer.state ]]; then echo THAWED >"$folder/freezer.state"; fi
      if [[ -e $folder/cgroup.freeze ]]; then echo 0 >"$folder/cgroup.freeze"; fi
      rmdir "$folder" || left=1
    done < <(find "$place" -depth -type d)
    rmdir "$(dirname "$place")" || true # the last one
  done < <(cgroup_folders "$1")
  return "$left"
}

# After one that was ended by SIGKILL: the folder is named after a process that is no more.
remove_old_cgroups() {
  local place id
  while read -r place; do
    for id in "${place%/}"/*/; do
      id=$(basename "$id")
      [[ ! $id =~ ^[0-9]+$ || -e /proc/$id ]] || remove_cgroups "$id"
    done
  done < <(cgroup_folders "")
}

# enter NODE ONLY_V2 COMMAND…: in new namespaces, as process $entered.
enter() {
  local node=$1 only_v2=$2
  shift 2
  [[ -e $home/tools.done ]] || die "no tools yet: scripts/runtimes.sh setup"
  mkdir -p "$node"
  node=$(realpath "$node")
  configure "$node"
  remove_old_cgroups
  # It dies with this script (pdeathsig), and all in the namespace with it (kill-child).
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --propagation private -- bash -c "$inside" bash \
    "$root" "$node" "/$cgroup_name/$$" "$only_v2" "$PWD" "$(temporary)" "$(pwd)" "$CARGO_TARGET_DIR" "$images" -- "$@" <&0 &
  entered=$!
  at_exit "kill -KILL $entered 2>/dev/null || true; wait $entered 2>/dev/null || true; remove_cgroups $$"
  trap 'exit 143' TERM INT HUP
}

# containerd's settings, unless the node has some.
configure() { # NODE
  mkdir -p "$1/etc/containerd"
  [[ ! -e $1/etc/containerd/config.toml ]] || return 0
  # Without CAP_SYS_RESOURCE the score of the OOM killer cannot be lowered; and the sysctls are those of a network that is not containerd's.
  # The last switch came with 2.2.7 and 2.3.4, which restore nothing without it; older ones pass it by, and 2.4 has no restores.
  cat >"$1/etc/containerd/config.toml" <<'END'
version = 3
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  enable_unprivileged_ports = false
  enable_unprivileged_icmp = false
  enable_experimental_restore_via_create = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pause:1'
END
}

run() {
  local only_v2=0 node status=0
  if [[ ${1:-} == --cgroup2 ]]; then only_v2=1; shift; fi
  node=$(mktemp -d)
  enter "$node" "$only_v2" "$@"
  at_exit "rm -rf --one-file-system '$node'"
  wait "$entered" || status=$?
  return "$status"
}

# shellcheck disable=SC2016 # it is another shell's
containerd_first='
containerd >/var/log/containerd.log 2>&1 </dev/null &
for i in $(seq 100); do
  if ctr -n k8s.io version >/dev/null 2>&1; then break; fi
  sleep 0.1
done
tar -C "$1/pause" -cf - . | ctr -n k8s.io images import - >/dev/null
echo ready
cat >/dev/null'

node() {
  local folder=$1 status=0
  rm -f "$folder/pid" "$folder/run/here"
  enter "$folder" 0 bash -euc "$containerd_first" bash "$images"
  until [[ -e $folder/run/here ]]; do
    kill -0 "$entered" 2>/dev/null || break
    sleep 0.05
  done
  # The first process in the namespace, as it is called outside.
  tr -d ' ' <"/proc/$entered/task/$entered/children" >"$folder/pid"
  wait "$entered" || status=$?
  return "$status"
}

# shellcheck disable=SC2016 # it is another shell's
on() {
  local pid
  pid=$(cat "$1/pid") || die "no node in $1"
  shift
  exec nsenter --target "$pid" --mount --pid -- env PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    CRYOSTORE_CGROUP="/$cgroup_name/$(ppid_of "$(ppid_of "$pid")")" sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' "$PWD" "$@"
}
ppid_of() { awk '/^PPid:/ {print $2}' "/proc/$1/status"; }

# The API server wants a default route and an address that is not loopback's; it is one for documentation (RFC 5737).
alone() {
  # shellcheck disable=SC2016 # it is another shell's
  exec unshare --net bash -euc '
    scripts/runtimes.sh run sh -c "ip link set lo up; ip address add 192.0.2.1/32 dev lo; ip route add default dev lo"
    exec "$@"' bash "$@"
}

action=${1:-}
shift || true
case $action in
setup) setup ;;
check)
  why=$(obstacle)
  [[ -z $why ]] || { echo "$why"; exit 1; }
  setup >&2
  say "$(versions)"
  log=$(mktemp)
  at_exit "rm -f '$log'"
  if ! scripts/runtimes.sh run criu check >"$log" 2>&1; then
    echo "criu check: $(tail -n 3 "$log" | tr '\n' ' ')"
    exit 1
  fi
  ;;
run | node | on | alone) "$action" "$@" ;;
registry) exec python3 tests/real/registry.py "$images" "$@" ;;
*) die "scripts/runtimes.sh setup | check | run [--cgroup2] COMMAND… | node FOLDER | on FOLDER COMMAND… | alone COMMAND… | registry PORT" ;;
esac
