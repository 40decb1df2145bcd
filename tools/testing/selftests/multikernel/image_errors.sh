#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Files that are no kernels: mkctl says so, and changes nothing.
#
# vm: CPUS=2 MEM=1G TIMEOUT=300
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 14

# refused FILE: loading fails, with words, and the instance is what it was.
refused() {
	mkctl load broken --kernel "$1" >"$work/said" 2>&1
	status=$?
	cat "$work/said"
	[ "$status" = 1 ] && grep -q "^mkctl: " "$work/said" && is broken ready &&
		! grep -qi panicked "$work/said"
}

# cut FILE BYTES
cut_off() {
	head -c "$2" "$1" >"$work/cut"
	refused "$work/cut"
}

# overwrite FILE OFFSET BYTES-AS-OCTAL: one field is wrong.
overwrite() {
	cp "$1" "$work/wrong"
	printf '%b' "$3" | dd of="$work/wrong" bs=1 seek="$2" conv=notrunc 2>/dev/null
	refused "$work/wrong"
}

mkctl pool grow 64M >/dev/null
mkctl create broken --cpus 1 --memory 64M >/dev/null
ledger >"$work/before"
: >"$work/empty"
head -c 65536 /dev/zero >"$work/zeroes"
check "no such file" refused "$work/none"
check "a folder" refused /tmp
check "an empty file" refused "$work/empty"
check "zeroes" refused "$work/zeroes"
check "bzImage of 512 bytes" cut_off /boot/bzImage 512
check "bzImage cut off in its setup" cut_off /boot/bzImage 1000
check "bzImage cut off in its kernel" cut_off /boot/bzImage 100000
check "vmlinux of 63 bytes" cut_off /boot/vmlinux 63
check "vmlinux cut off in its program headers" cut_off /boot/vmlinux 100
check "vmlinux cut off in a segment" cut_off /boot/vmlinux 3000000
check "vmlinux for another machine" overwrite /boot/vmlinux 18 '\0267\0000'
check "vmlinux with too many program headers" overwrite /boot/vmlinux 56 '\0377\0377'
check "vmlinux with its program headers elsewhere" \
	overwrite /boot/vmlinux 32 '\0377\0377\0377\0377\0377\0377\0377\0377'
check "nothing has changed" same "$work/before"
mkctl rm broken
mkctl pool shrink 64M >/dev/null
finish
