#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Fifty lives one after the other, most of them ended by force: nothing may be
# missing at the end.
#
# vm: CPUS=4 MEM=2G TIMEOUT=900
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

rounds=50
plan 5

# Free memory in kB, with what the CPUs keep in lists of their own (the counts
# behind "pagesets"): these hold tens of MB at one moment and few at the next.
# KASAN keeps what was freed until its cache is shrunk.
free_memory() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	for cache in /sys/kernel/slab/*/shrink; do
		echo 1 >"$cache"
	done
	awk '/^MemFree:/ { kb += $2 }
		/pagesets/ { lists = 1 }
		lists && /count:/ { kb += $2 * 4 }
		END { print kb }' /proc/meminfo /proc/zoneinfo
}

life() {
	mkctl run --kernel /boot/vmlinux --initrd /boot/spawn.cpio.gz --cpus 2-3 --memory 64M \
		--name respawn >"$work/run" 2>&1 || return 1
	ready respawn "$work/log" || return 1
	[ "$(value "$work/log" cpus)" = 2 ] || return 1
	if [ $(($1 % 10)) = 0 ]; then
		mkctl stop respawn || return 1
	fi
	mkctl rm --force respawn
}

mkctl pool grow 64M >/dev/null
# The first life makes what is made once: slabs, per-CPU areas, debugfs entries.
life 0 >/dev/null
ledger >"$work/before"
before=$(free_memory)

lives() {
	round=1
	while [ "$round" -le "$rounds" ]; do
		life "$round" || {
			echo "round $round"
			cat "$work/run"
			tail -n 20 "$work/log"
			return 1
		}
		round=$((round + 1))
	done
}

check "$rounds lives" lives
check "ledger and online CPUs are what they were" same "$work/before"
after=$(free_memory)
# The smallest thing that a life could leave behind is a page table, of 4 KiB;
# its shared area, 128 KiB, would be 6.4 MB by now. Slabs and page tables of
# other work on the host move the sum by some hundred kB, so less than 1.5 MB
# tells all but a leak of single pages; those the next test sees, as the kernel
# counts them itself.
slack=1536
# KASAN also remembers who allocated and freed; a shared area still sticks out.
grep -q ' kasan_report$' /proc/kallsyms && slack=6144
check "free memory: $before kB became $after kB" [ $((before - after)) -lt $slack ]
check "the subsystem holds nothing more" [ "$(mkctl pool --json |
	sed -n 's/.*"kernel_bytes": \([0-9]*\).*/\1/p')" -lt 262144 ]
check "CPUs can be lent again" life 1
mkctl pool shrink 64M >/dev/null
finish
