#!/usr/bin/env bash
# A container of Podman, its exported checkpoint (zstd, as Podman has it by default), and the restore by Podman on a machine that has the image but has
# never seen the container.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

export WORK=$work PROGRAM=$cryostore LAYOUT=$cache/runtimes/images/counter
# On a machine of its own, which is gone with the shell: containers, images and all.
machine() { scripts/runtimes.sh run --cgroup2 bash -euo pipefail -c "$1"; }
start_repository

# shellcheck disable=SC2016 # it is another shell's
machine '
tar -C "$LAYOUT" -cf - . | podman load -q >/dev/null
podman run -d --name web --network none --cgroup-parent "$CRYOSTORE_CGROUP" --pids-limit 0 localhost/counter:1 >/dev/null
sleep 3
podman container checkpoint --export "$WORK/archive.tar.zst" web >/dev/null'
id=$("$cryostore" import "$work/archive.tar.zst" --json 2>/dev/null | field snapshot)
rm "$work/archive.tar.zst"
archived_log "$id" ctr.log
note "checkpoint $id; the machine and the archive are gone"

# shellcheck disable=SC2016
ID=$id machine '
tar -C "$LAYOUT" -cf - . | podman load -q >/dev/null
"$PROGRAM" restore "$ID" --name web-2 >&2
sleep 4
cp "$(podman inspect -f "{{.HostConfig.LogConfig.Path}}" web-2)" "$WORK/new.log"'
python3 tests/real/goes_on.py "$work/archived.log" "$work/new.log" || fail "web-2 is not the process that was saved"
note "passed"
