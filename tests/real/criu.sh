#!/usr/bin/env bash
# A process without any container, `criu dump`, and `criu restore` by cryostore on a machine where it never ran.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

export WORK=$work PROGRAM=$cryostore
machine() { scripts/runtimes.sh run bash -euo pipefail -c "$1"; }
start_repository

# A process keeps its number, so it gets one that is free on the next machine, too. Its log is a file that the dump refers to: it stays where it is.
# shellcheck disable=SC2016 # it is another shell's
machine '
echo 7000 >/proc/sys/kernel/ns_last_pid
setsid sh "$PWD/tests/real/app/counter.sh" </dev/null >"$WORK/new.log" 2>&1 &
sleep 3
mkdir "$WORK/dump"
criu dump -t $! -D "$WORK/dump" -o dump.log
wait $! 2>/dev/null || true'
id=$("$cryostore" import "$work/dump" --json 2>/dev/null | field snapshot)
rm -r "$work/dump"
cp "$work/new.log" "$work/archived.log"
note "checkpoint $id; the process and the dump are gone"

# shellcheck disable=SC2016
ID=$id machine '"$PROGRAM" restore "$ID" >&2; sleep 4'
python3 tests/real/goes_on.py "$work/archived.log" "$work/new.log" || fail "it is not the process that was saved"
note "passed"
