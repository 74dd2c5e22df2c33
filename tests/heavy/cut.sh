#!/usr/bin/env bash
# tests/heavy/cut.sh [ARGUMENT OF cut.py…]: in a network namespace of its own, with the servers in it. As root; needs nft and ip.
set -euo pipefail
cd "$(dirname "$0")/../.."
for program in nft ip unshare; do
  command -v "$program" >/dev/null || { echo "missing: $program (on Debian: apt-get install nftables iproute2 util-linux)" >&2; exit 1; }
done
scripts/servers.sh install proofs
exec unshare --net bash -c 'ip link set lo up && exec scripts/servers.sh run proofs python3 tests/heavy/cut.py "$@"' cut "$@"
