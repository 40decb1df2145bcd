#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A key-value server whose kernel is replaced again and again under load: Redis
# as Debian has it, its data in an arena, a client on the host that writes all the
# time. No acknowledged write may be lost, changed or doubled, and the host has
# afterwards what it had. mksoak does it; "make soak UPGRADES=100" has more rounds.
#
#   UPGRADES=N   so many, 4 unless given
#
# vm: CPUS=4 MEM=2300M TIMEOUT=900 BOOT="bzImage vmlinux vmlinux-7.2? kv.cpio.gz mkkv"

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

[ -f /boot/kv.cpio.gz ] || skip_all "there is no /boot/kv.cpio.gz"
[ -x /usr/bin/socat ] || skip_all "there is no socat"
kernels="/boot/bzImage /boot/vmlinux"
if [ -f /boot/vmlinux-7.2 ]; then
	kernels="/boot/vmlinux /boot/vmlinux-7.2"
fi
rm -rf "$work"
exec mksoak --upgrades "${UPGRADES:-4}" --kernels "$kernels"
