#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Spawns in memory above 4 GiB, and on both sides of it.
#
# vm: CPUS=4 MEM=6G TIMEOUT=600
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 13

# up KERNEL MEGABYTES MEMORY...: a spawn comes up and has that much.
up() {
	kernel=$1
	megabytes=$2
	shift 2
	for range; do
		set -- "$@" --memory "$range"
		shift
	done
	mkctl run --kernel "/boot/$kernel" --initrd /boot/spawn.cpio.gz --cpus 2-3 "$@" \
		--name high || return 1
	ready high "$work/log" || {
		mkctl ps
		mkctl logs high | tail -n 20
		return 1
	}
	spawn_has "$work/log" 2 "$megabytes"
}

check "memory above 4 GiB" mkctl pool grow 512M --above-4g
check "memory below 4 GiB" mkctl pool grow 256M --below-4g
ledger >"$work/before"
for kernel in bzImage vmlinux; do
	check "$kernel above" up $kernel 512 512M,above-4g
	check "$kernel above: stop" mkctl stop high
	mkctl rm --force high >/dev/null 2>&1
	check "$kernel on both sides" up $kernel 512 256M,below-4g 256M,above-4g
	mkctl rm --force high >/dev/null 2>&1
	check "$kernel on both sides, the higher first" up $kernel 512 256M,above-4g 256M,below-4g
	mkctl rm --force high >/dev/null 2>&1
done
check "more than is there is refused" not mkctl create high --cpus 2 --memory 512M,below-4g
check "nothing in the middle" not mkctl create high --cpus 2 --memory 2M,below-4g,above-4g
check "everything is back" same "$work/before"
mkctl pool shrink 512M >/dev/null
mkctl pool shrink 256M >/dev/null
finish
