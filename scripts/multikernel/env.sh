# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Paths and small functions that the scripts beside this file share; sourced,
# not run. Values that are set in the environment win.

set -euo pipefail

# What programs print is read here, so it has to be in one language.
export LC_ALL=C.UTF-8

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=${BUILD:-$ROOT/build}
MK_CACHE=${MK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/multikernel}
SCRIPTS=$ROOT/scripts/multikernel
KVER=${KVER:-7.3}
JOBS=${JOBS:-$(nproc)}
export ROOT BUILD MK_CACHE SCRIPTS KVER JOBS
mkdir -p "$BUILD/logs" "$MK_CACHE/debs"

# A checkout may belong to somebody else, as in a container, and is meant nevertheless.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=$ROOT

# The tree and output of the default kernel version have the short names.
if [ "$KVER" = 7.3 ]; then
	LINUX=$BUILD/linux
else
	LINUX=$BUILD/linux-$KVER
fi
export LINUX

# The LLVM release that kernel and bindgen are built with.
LLVM_MAJOR=19
LLVM_PREFIX=/usr/lib/llvm-$LLVM_MAJOR
if [ -d "$LLVM_PREFIX/bin" ]; then
	PATH=$LLVM_PREFIX/bin:$PATH
fi

# What setup installed into the cache comes after what the machine has.
PATH=$PATH:$HOME/.cargo/bin:$MK_CACHE/tools/bin
export PATH

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# as_root COMMAND...: only the installation of packages needs this.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "'$1' needs root, and there is no sudo: run this step as root once"
	fi
}

# version_ge A B: A is the same version as B, or a newer one.
version_ge() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# only_one NAME: waits until no other process is in this part.
only_one() {
	exec 9>"$BUILD/$1.lock"
	if ! flock -n 9; then
		say "waiting for another '$1' to end"
		flock 9
	fi
}

# rust_lib_src: prints the library sources that fit rustc, fails if none do.
rust_lib_src() {
	local sysroot version dir
	sysroot=$(rustc --print sysroot)
	version=$(rustc --version | cut -d' ' -f2)
	for dir in "$sysroot/lib/rustlib/src/rust/library" \
		"$MK_CACHE/rust-src-$version/library"; do
		if [ -f "$dir/core/src/lib.rs" ]; then
			printf '%s\n' "$dir"
			return 0
		fi
	done
	return 1
}

# kernel_env: sets what a build of the kernel needs beside PATH. Only for that:
# Cargo builds mkctl again whenever LIBCLANG_PATH differs from the last call,
# as it would between a call by these scripts and one by hand.
kernel_env() {
	RUST_LIB_SRC=$(rust_lib_src) ||
		die "no rust-src for $(rustc --version 2>/dev/null || echo 'a missing rustc'): run 'make setup'"
	export RUST_LIB_SRC
	if [ -d "$LLVM_PREFIX/lib" ]; then
		export LIBCLANG_PATH=${LIBCLANG_PATH:-$LLVM_PREFIX/lib}
	fi
}

# quietly LOG COMMAND...: output goes to LOG, and is shown only on failure.
quietly() {
	local log=$1
	shift
	if ! "$@" >"$log" 2>&1; then
		tail -n 40 "$log" >&2
		die "'$*' failed; its whole output: $log"
	fi
}
