#!/usr/bin/env bash
# scripts/dist.sh [DIR]: what people install, into DIR (dist): a tar.gz, a Debian package, and an OCI image as a layout in a tar.
# Always: the same commit and the same binary make the same bytes (times are the commit's, owners are root). Never: a link named `clouder`.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
scripts/setup.sh build

dir=${1:-dist}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
machine=$(uname -m)
case $machine in x86_64) debian=amd64 ;; aarch64) debian=arm64 ;; *) debian=$machine ;; esac
# Not exported: with it in its environment cargo compiles RocksDB anew.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
unset SOURCE_DATE_EPOCH
# The whole workspace: with part of it some crates would have other features, and be compiled again.
build "building cryostore" build "${locked[@]}" --release --workspace
build "building the writer of images" build "${locked[@]}" --release --workspace --examples
name=cryostore-$version-linux-$machine
work=$(mktemp -d)
at_exit "rm -rf '$work'"
mkdir -p "$dir"

# packed FILE FOLDER ENTRY…: a tar whose bytes depend on its content alone.
packed() {
  local file=$1 folder=$2
  shift 2
  tar --create --file "$file" --directory "$folder" --format=gnu --sort=name --mtime="@$epoch" \
    --owner=0 --group=0 --numeric-owner --mode=go-w "$@"
}

# The tree as it is installed, below $work/root.
root=$work/root share=$work/root/usr/share
mkdir -p "$root/usr/bin" "$root/usr/lib/systemd/system" "$share/man/man1" "$share/doc/cryostore/deploy" \
  "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
cryostore=$root/usr/bin/cryostore
install -m 0755 "$CARGO_TARGET_DIR/release/cryostore" "$cryostore"
strip --strip-debug "$cryostore"
# `kubectl criu …` finds it by its name.
ln -s cryostore "$root/usr/bin/kubectl-criu"
"$cryostore" man --dir "$share/man/man1" >/dev/null
"$cryostore" completions bash >"$share/bash-completion/completions/cryostore"
"$cryostore" completions zsh >"$share/zsh/vendor-completions/_cryostore"
"$cryostore" completions fish >"$share/fish/vendor_completions.d/cryostore.fish"
cp deploy/*.yaml "$share/doc/cryostore/deploy"
cp deploy/*.service "$root/usr/lib/systemd/system"
cp README.md CHANGELOG.md LICENSE "$share/doc/cryostore"

# tar.gz: to be unpacked anywhere; bin, share, lib as below /usr.
mkdir "$work/$name"
cp -a "$root/usr/." "$work/$name"
packed "$work/$name.tar" "$work" "$name"
gzip -n9 <"$work/$name.tar" >"$dir/$name.tar.gz"

# The Debian package.
if command -v dpkg-deb >/dev/null; then
  mkdir "$root/DEBIAN"
  mv "$share/doc/cryostore/LICENSE" "$share/doc/cryostore/copyright"
  gzip -n9 "$share/doc/cryostore/CHANGELOG.md" "$share"/man/man1/*.1
  # The C library that it was linked with, and whatever is newer.
  libc=$(dpkg-query --show --showformat='${Version}' libc6 2>/dev/null | sed 's/-.*//' || true)
  cat >"$root/DEBIAN/control" <<CONTROL
Package: cryostore
Version: $version
Architecture: $debian
Maintainer: cryostore maintainers <maintainers@localhost>
Depends: libc6 (>= ${libc:-2.36}), libgcc-s1, libstdc++6
Recommends: ca-certificates
Installed-Size: $(du -sk --apparent-size "$root/usr" | cut -f1)
Section: admin
Priority: optional
Description: storage for container checkpoints
 Takes the archives that CRIU, Podman, containerd and CRI-O write apart, stores
 only what changed since the last checkpoint in a directory, NFS, S3 or Azure,
 and gives any of them back byte for byte on any node.
 .
 The node agent's unit is installed and not started: see cryostore-serve-node(1).
CONTROL
  chmod -R go-w "$root"
  SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group --build -Zxz "$root" "$dir/cryostore_${version}_$debian.deb" >/dev/null
  rm -r "$root/DEBIAN"
else
  say "no Debian package: dpkg-deb is not there (apt-get install dpkg)"
fi

# The OCI image: the program, the libraries that it is linked with, and whom it trusts. Written by our own writer; `ctr images import`, `podman load` and
# `skopeo copy oci-archive:…` take it.
base=$work/base
mkdir -p "$base/usr/bin" "$base/etc/ssl/certs" "$base/tmp" "$base/var/lib/cryostore"
chmod 1777 "$base/tmp"
cp -a "$cryostore" "$base/usr/bin"
while read -r library; do
  install -D "$library" "$base$library"
done < <(ldd "$cryostore" | grep -o '/[^ ]*')
authorities=/etc/ssl/certs/ca-certificates.crt
if [[ -e $authorities ]]; then cp "$authorities" "$base$authorities"; else say "no authorities in the image: $authorities is not there"; fi
packed "$work/layer.tar" "$base" .
"$CARGO_TARGET_DIR/release/examples/image" "$work/oci" "cryostore:$version" \
  "$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" "$work/layer.tar" /usr/bin/cryostore >/dev/null
packed "$dir/$name-oci.tar" "$work/oci" blobs index.json oci-layout

(cd "$dir" && sha256sum -- *"$version"* >SHA256SUMS)
say "in $dir:"
(cd "$dir" && stat --format='  %12s  %n' -- *)
