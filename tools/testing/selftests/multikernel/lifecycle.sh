#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A whole life of an instance through mkctl, with a bzImage and with a vmlinux:
# create, load, start, work, stop, start again, kill, remove; and that CPUs and
# memory are where they were afterwards.
#
# vm: CPUS=4 MEM=2G TIMEOUT=600
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 32

life() {
	kernel=$1
	mkctl pool grow 256M >/dev/null
	ledger >"$work/before"
	check "$kernel: create" mkctl create life --cpus 2-3 --memory 256M
	check "$kernel: the host does not list the CPUs" not listed 2
	check "$kernel: start without an image is refused" not mkctl start life
	check "$kernel: load" mkctl load life --kernel "/boot/$kernel" --initrd /boot/spawn.cpio.gz
	check "$kernel: start" mkctl start life
	check "$kernel: user space comes up" ready life "$work/log"
	check "$kernel: it has what was lent" spawn_has "$work/log" 2 256
	check "$kernel: it is this kernel" grep -q "spawn: uname: .* $(uname -r) " "$work/log"
	check "$kernel: a second start is refused" not mkctl start life
	check "$kernel: load while running is refused" \
		not mkctl load life --kernel "/boot/$kernel"
	check "$kernel: stop" mkctl stop life
	check "$kernel: it powered off" is life stopped poweroff
	check "$kernel: start again" mkctl start life
	check "$kernel: user space comes up again" ready life "$work/log"
	mkctl kill life
	check "$kernel: killed" is life stopped forced
	mkctl rm life
	check "$kernel: everything is back" same "$work/before"
	mkctl pool shrink 256M >/dev/null
}

life bzImage
life vmlinux
finish
