#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A plain kexec with kexec-tools, while an instance runs: the instance is
# stopped first, and the next kernel has all CPUs and works as this one did.
# The second half runs in that kernel.
#
# vm: CPUS=4 MEM=2G TIMEOUT=300 APPEND="multikernel_selftest=kexec"
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# The kernel that comes second starts this anywhere.
cd "${0%/*}" || exit 1
# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

next=$(sed -n 's/.*vm.next=\([^ ]*\).*/\1/p' /proc/cmdline)

if [ -n "$next" ]; then
	number=3
	check "the next kernel runs" [ "$(grep -c '^processor' /proc/cpuinfo)" = 4 ]
	check "no image is loaded in it" [ "$(cat /sys/kernel/kexec_loaded)" = 0 ]
	check "nothing is lent in it" [ -z "$(mkctl ps | sed 1d)" ]
	finish_elsewhere
fi

plan 6
mkctl pool grow 128M >/dev/null
check "an instance runs" mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --cpus 2-3 \
	--memory 128M --name beside
check "its user space comes up" ready beside "$work/log"
vm-initrd /tmp/initrd
check "kexec -l" kexec -c -l /boot/bzImage --initrd=/tmp/initrd \
	--append="$(cat /proc/cmdline) vm.next=$PWD/$name"
kexec -x -e
echo "not ok 4 kexec -e"
failed=1
finish
