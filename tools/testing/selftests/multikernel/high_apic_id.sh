#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A CPU whose APIC id does not fit into 8 bits: the first of the second socket,
# where a socket has room for 129 cores.
#
# vm: MEM=2G X2APIC=1 TIMEOUT=300
# vm: SMP=3,sockets=2,cores=129,threads=1,maxcpus=258
# vm: QEMU_EXTRA="-device max-x86_64-cpu,socket-id=1,die-id=0,core-id=0,thread-id=0"
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

cpu=$(mkctl pool --json | tr -d ' \n' | sed 's/},{/}\n{/g' |
	sed -n 's/.*"apic_id":256,"cpu":\([0-9]*\),.*/\1/p')
[ -n "$cpu" ] || skip_all "there is no CPU with APIC id 256"
plan 7

answers() {
	answer=$(ask high "$1")
	echo "'$answer'"
	[ "$answer" = "$2" ]
}

mkctl pool grow 256M >/dev/null
ledger >"$work/before"
# Once as the boot CPU, once as one that the spawn starts.
for cpus in "$cpu,2" "2,$cpu"; do
	check "run on $cpus" mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz \
		--cpus "$cpus" --memory 256M --name high
	check "user space comes up" ready high "$work/log"
	check "it has both CPUs" spawn_has "$work/log" 2 256
	mkctl rm --force high
done
check "everything is back" same "$work/before"
mkctl pool shrink 256M >/dev/null
finish
