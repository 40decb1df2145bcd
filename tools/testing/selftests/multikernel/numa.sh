#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Memory and CPUs of a chosen NUMA node, and a spawn that is told of its nodes.
#
# vm: CPUS=4 MEM=2G NUMA=2 TIMEOUT=300
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

[ -d /sys/devices/system/node/node1 ] || skip_all "this machine has one node"
plan 9

answers() {
	answer=$(ask numa "$1")
	echo "'$answer'"
	[ "$answer" = "$2" ]
}

check "memory of node 0" mkctl pool grow 128M --node 0
check "memory of node 1" mkctl pool grow 128M --node 1
ledger >"$work/before"
# CPUs 0 and 1 are on node 0, 2 and 3 on node 1.
check "run on both" mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --cpus 1,3 \
	--memory 128M,node=0 --memory 128M,node=1 --name numa
check "user space comes up" ready numa "$work/log"
check "it has what was lent" spawn_has "$work/log" 2 256
check "it has two nodes" answers 'cat /sys/devices/system/node/online' 0-1
check "with a CPU each" answers 'echo $(cat /sys/devices/system/node/node[01]/cpulist)' '0 1'
mkctl rm --force numa
check "more than a node has is refused" not mkctl create numa --cpus 3 --memory 256M,node=1
check "everything is back" same "$work/before"
mkctl pool shrink 256M >/dev/null
finish
