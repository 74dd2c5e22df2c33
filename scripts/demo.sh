#!/usr/bin/env bash
# Builds the release binary and runs `cryostore demo` in a folder of its own, which is gone afterwards.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
scripts/setup.sh build
build "building cryostore" build "${locked[@]}" --release --workspace

folder=$(mktemp -d "${TMPDIR:-/tmp}/cryostore-demo.XXXXXX")
at_exit "rm -rf '$folder'"
# The reader's own settings and caches stay out of it.
mkdir "$folder/config" "$folder/cache"
XDG_CONFIG_HOME=$folder/config XDG_CACHE_HOME=$folder/cache \
  "$CARGO_TARGET_DIR/release/cryostore" demo "$folder/demo" "$@" |
  sed '/^look around/d' # there is nothing left to look at
