#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A host in x2APIC mode: a spawn starts in it, works, and is stopped; and all
# that the payload tests say holds there too.
#
# vm: CPUS=4 MEM=2G X2APIC=1 TIMEOUT=600
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

mkctl pool --json | grep -q '"x2apic": true' || skip_all "this machine has no x2APIC mode"
plan 8

mkctl pool grow 256M >/dev/null
ledger >"$work/before"
check "run" mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --cpus 2-3 --memory 256M \
	--name x2apic
check "user space comes up" ready x2apic "$work/log"
check "it has what was lent" spawn_has "$work/log" 2 256
check "stop" mkctl stop x2apic
check "it powered off" is x2apic stopped poweroff
mkctl rm x2apic
check "everything is back" same "$work/before"
mkctl pool shrink 256M >/dev/null
check "execute" ./execute
check "storm" ./storm
finish
