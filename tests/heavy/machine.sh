# shellcheck shell=bash disable=SC2034 # what is set here is used by who sources it
# Sourced by the scripts beside it. Owns a second Linux kernel, which runs as an ordinary process (User Mode Linux) and can lose its power.
# Always: it sees the files of this machine read-only, and one folder, $work, for writing; its disk is the file $work/disk; it is ended by its process group, however we end.
# Needs root for nothing here but, once, `apt-get install user-mode-linux kmod e2fsprogs zstd`; for disks that fail also dmsetup, for NFS
# nfs-kernel-server, nfs-common and iproute2 (names of Debian's packages). The program is that of CRYOSTORE, or of the target folder.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=$here/../data

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

for program in linux.uml zstd mkfs.ext4 modprobe; do
  command -v "$program" >/dev/null || PATH=$PATH:/usr/sbin:/sbin
  command -v "$program" >/dev/null || die "missing: $program (Debian: apt-get install user-mode-linux kmod e2fsprogs zstd)"
done
modules=$(find /usr/lib/uml/modules -mindepth 1 -maxdepth 1 | sort | tail -n 1)

# $WORK keeps what happened; without it, it goes.
machine='' kept=${WORK:-}
work=${WORK:-$(mktemp -d)}
mkdir -p "$work"
work=$(realpath "$work")
end_machine() { [[ -z $machine ]] || { kill -KILL -- "-$machine" 2>/dev/null || true; wait "$machine" 2>/dev/null || true; machine=''; }; }
clean_up() { end_machine; [[ -n $kept ]] || rm -rf "$work"; }
trap clean_up EXIT

built=${CRYOSTORE:-${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/cryostore/target}/release/cryostore}
[[ -x $built ]] || die "no program at $built: cargo build --release, or name it in CRYOSTORE"
cp -f "$built" "$work/cryostore"
cp -f "$here/inside.sh" "$work/inside.sh"
mkdir -p "$work/lib/modules"
ln -sfn "$modules" "$work/lib/modules/$(basename "$modules")"

# new_disk SIZE: an empty ext4.
new_disk() { rm -f "$work/disk"; truncate -s "$1" "$work/disk"; mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$work/disk"; }

# make_archives COUNT: $work/1.tar and so on, checkpoints of one container that differ in a tenth of their pages, partly in whole new ones.
make_archives() {
  local first length n i at
  zstd -qdcf "$data"/podman-python-1.a.zst "$data"/podman-python-1.b.zst >"$work/1.tar"
  first=$(tar -tRvf "$work/1.tar" | awk '$NF == "checkpoint/pages-1.img" {sub(":", "", $2); print ($2 + 1) * 512}')
  length=$(tar -tvf "$work/1.tar" | awk '$NF == "checkpoint/pages-1.img" {print $3}')
  for ((n = 2; n <= $1; n++)); do
    cp "$work/$((n - 1)).tar" "$work/$n.tar"
    for ((i = 0; i < 40; i++)); do
      at=$(((RANDOM * 32768 + RANDOM) % (length - 65536)))
      dd if=/dev/urandom of="$work/$n.tar" conv=notrunc status=none oflag=seek_bytes seek=$((first + at)) bs=$((i % 2 ? 32768 : 100)) count=1
    done
  done
}

# boot JOB [NAME=VALUE…]: starts the machine; the script JOB of $work is run in it. Its console is $work/console.
boot() {
  local job=$1 each
  shift
  { echo "job=/mnt/work/$job"; for each; do printf '%q\n' "$each"; done; } >"$work/settings"
  rm -f "$work/status"
  : >"$work/console"
  printf '#!/bin/bash\nwork=%q\n. %q\n' "$work" "$work/inside.sh" >"$work/init"
  chmod +x "$work/init"
  # shellcheck disable=SC2097,SC2098
  TMPDIR=/dev/shm setsid linux.uml rootfstype=hostfs rootflags=/ ro mem=1024M ubd0="$work/disk" init="$work/init" \
    con=null con0=null,fd:1 con1=null quiet </dev/null >"$work/console" 2>"$work/console.err" &
  machine=$!
}

# wait_for TEXT SECONDS: until the console has a line that starts so. False if it does not come.
wait_for() {
  local tries
  for ((tries = $2 * 20; tries > 0; tries--)); do
    ! grep -aq "^$1" "$work/console" || return 0
    kill -0 "$machine" 2>/dev/null || { grep -aq "^$1" "$work/console"; return; }
    sleep 0.05
  done
  return 1
}

# The power goes: what the kernel had not written to the disk is lost.
cut_power() { end_machine; }

# finish SECONDS: until the machine went down by itself. False if it did not, or if its job failed.
finish() {
  local tries
  for ((tries = $1 * 5; tries > 0; tries--)); do
    if ! kill -0 "$machine" 2>/dev/null; then
      wait "$machine" 2>/dev/null || true
      machine=''
      [[ $(cat "$work/status" 2>/dev/null) == 0 ]]
      return
    fi
    sleep 0.2
  done
  end_machine
  return 1
}

# What the job told us: its lines that start with @.
told() { tr -d '\r' <"$work/console" | sed -n 's/^@ //p'; }
