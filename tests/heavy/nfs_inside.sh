# shellcheck shell=bash disable=SC2154,SC2086 # variables of the job that reads this file
# Read by jobs in the machine: an NFS 4.2 server that exports a folder of the disk, and three clients of it that share nothing. /mnt/a is a hard mount over the loopback;
# /mnt/b (hard) and /mnt/soft are in a network of their own, behind the interfaces `here` (ours) and `there`. $kind is the repository.
disk_up
load sunrpc nfsd nfs nfsv4 veth
mkdir -p /mnt/disk/export /mnt/a /mnt/b /mnt/soft
mount -t tmpfs tmpfs /var/lib/nfs
mkdir -p /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs /var/lib/nfs/nfsdcltrack
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t nfsd nfsd /proc/fs/nfsd
echo 10 >/proc/fs/nfsd/nfsv4leasetime; echo 10 >/proc/fs/nfsd/nfsv4gracetime
exportfs -o rw,no_root_squash,sync,insecure,fsid=0,no_subtree_check '*:/mnt/disk/export'
rpc.mountd -N 2 -N 3 --no-udp
server_up() { rpc.nfsd -N 3 -V 4 --no-udp 4; }
server_up
ip netns add other; ip link add here type veth peer name there; ip link set there netns other
ip addr add 10.9.0.1/24 dev here; ip link set here up
ip netns exec other ip addr add 10.9.0.2/24 dev there; ip netns exec other ip link set there up
mount -t nfs4 -o vers=4.2,addr=127.0.0.1,nosharecache 127.0.0.1:/ /mnt/a
nsenter --net=/run/netns/other mount -t nfs4 -o vers=4.2,addr=10.9.0.1,clientaddr=10.9.0.2,nosharecache 10.9.0.1:/ /mnt/b
nsenter --net=/run/netns/other mount -t nfs4 -o vers=4.2,addr=10.9.0.1,clientaddr=10.9.0.2,nosharecache,soft,timeo=20,retrans=1 10.9.0.1:/ /mnt/soft

# on CLIENT COMMAND…: as that node, with its home. What it says is kept.
on() {
  local client=$1
  shift
  HOME=/run/home.$client timeout 200 "$cryostore" --storage /mnt/$client/$kind "$@" 2>>/run/said.$client
}
bad() { tell "bad $*"; }
why() { tail -n 2 /run/said.$1 | tr '\n' '|' | cut -c 1-500; }
# add CLIENT: an import; tells the id, and notes it with its archive.
add() {
  local archive=$((RANDOM % 12 + 1)) id
  id=$(on $1 import -q --json /mnt/work/$archive.tar | sed -n 's/^  "snapshot": "\(.*\)",$/\1/p') || { bad "import on $1: exit $? $(why $1)"; return 1; }
  printf '%s %s\n' $id $archive >>/run/have.$1
  echo $id $archive
}
# back CLIENT ID ARCHIVE: true if it comes back.
back() { on $1 export -q $2 -o - | cmp -s - /mnt/work/$3.tar; }
listed() { on $1 ls --json | grep -q "\"id\": \"$2\""; }

