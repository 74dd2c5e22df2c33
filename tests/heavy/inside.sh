# shellcheck shell=bash disable=SC2154,SC1091 # $work is set by the line above that reads this file
# The first process of the machine that machine.sh starts: mounts what a job needs, runs it, switches off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
[[ -e /dev/fd ]] || ln -s /proc/self/fd /dev/fd
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/work; mount -t hostfs -o "$work" none /mnt/work || exit 1
mount -t tmpfs tmpfs /tmp
ip link set lo up
cryostore=/mnt/work/cryostore
export CRYOSTORE_LOG=warn

tell() { echo "@ $*"; }
load() { local each; for each; do modprobe -d /mnt/work "$each" || return; done; }

# disk_up [DEVICE]: checks the disk as a boot does (that plays its journal back), mounts it on /mnt/disk.
disk_up() {
  local device=${1:-/dev/ubda} state=0
  load ext4
  mkdir -p /mnt/disk
  e2fsck -p "$device" >/mnt/work/fsck 2>&1 || state=$?
  ((state <= 1)) || tell "bad e2fsck says $state: $(tail -n 1 /mnt/work/fsck)"
  mount -t ext4 "$device" /mnt/disk
}

# ids REPOSITORY: of its snapshots, the newest first.
ids() { "$cryostore" ls --json --storage "$1" | sed -n 's/^      "id": "\(.*\)",$/\1/p'; }

# import REPOSITORY ARCHIVE: prints the new id.
import() { "$cryostore" import -q --json --storage "$1" "$2" | sed -n 's/^  "snapshot": "\(.*\)",$/\1/p'; }

# same ID ARCHIVE REPOSITORY: true if that is what comes back.
same() { "$cryostore" export -q --storage "$3" "$1" -o - 2>>/mnt/work/said | cmp -s - "$2"; }

set -o pipefail
while read -r line; do eval "export $line"; done </mnt/work/settings
# shellcheck disable=SC1090
(set -e; . "$job") 2>&1
echo $? >/mnt/work/status
sync
echo o >/proc/sysrq-trigger
sleep 5
