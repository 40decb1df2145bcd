#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# kdump with kexec-tools, while an instance runs: the host crashes, the crash
# kernel comes up and has the dump. The second half runs in that kernel.
#
# vm: CPUS=4 MEM=2G TIMEOUT=300 EXPECT_SPLAT=1 APPEND="crashkernel=320M"
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
	check "the crash kernel runs" grep -q elfcorehdr= /proc/cmdline
	check "there is a dump" [ -s /proc/vmcore ]
	check "it is of the host that crashed" \
		sh -c 'vmcore-dmesg /proc/vmcore | grep -q "sysrq triggered crash"'
	finish_elsewhere
fi

plan 6
mkctl pool grow 128M >/dev/null
check "an instance runs" mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --cpus 2-3 \
	--memory 128M --name beside
check "its user space comes up" ready beside "$work/log"
vm-initrd /tmp/initrd
append=$(sed 's/crashkernel=[^ ]*//' /proc/cmdline)
check "kexec -p" kexec -c -p /boot/bzImage --initrd=/tmp/initrd \
	--append="$append nr_cpus=1 vm.next=$PWD/$name"
echo c >/proc/sysrq-trigger
echo "not ok 4 the host did not crash"
failed=1
finish
