#!/usr/bin/env bash
# tests/heavy/run.sh [SECONDS]: the proofs with real processes, servers and a cut network, one after the other. SECONDS is how long eight processes work on each store (600: two hours in all).
# The program is that of `cargo build --release`, or what CRYOSTORE names; work folders are below PROOF_DIR (/tmp). Ends with 1 if one of them found anything.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-600}
failed=()

proof() { # COMMAND…
  printf '\n== %s\n' "$*"
  "$@" || failed+=("$*")
}
servers() { proof scripts/servers.sh run proofs "$@"; }
export PYTHONDONTWRITEBYTECODE=1
# boto3, which lists what is in a bucket, came with moto.
PATH=${XDG_CACHE_HOME:-$HOME/.cache}/cryostore/servers/python/bin:$PATH

proof tests/heavy/kill.py --kills 250
proof tests/heavy/kill.py --kills 250 --encrypted
proof tests/heavy/eight.py --store dir --seconds "$seconds" --encrypted
proof tests/heavy/eight.py --store dir --seconds "$seconds" --kill
servers tests/heavy/eight.py --store moto --seconds "$seconds" --encrypted --kill
servers tests/heavy/eight.py --store seaweedfs --seconds "$seconds"
servers tests/heavy/counted.py --store moto ${SERIES:+"$SERIES"}
servers tests/heavy/counted.py --store seaweedfs --encrypted ${SERIES:+"$SERIES"}
if [[ $(id -u) == 0 ]] && command -v nft ip unshare >/dev/null; then
  proof tests/heavy/cut.sh --encrypted --long "$seconds"
else
  echo "the network is not cut: that needs root, nft, ip and unshare"
fi

printf '\n%s\n' "${#failed[@]} proofs failed"
((${#failed[@]} == 0)) || { printf '  %s\n' "${failed[@]}"; exit 1; }
