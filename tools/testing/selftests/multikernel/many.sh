#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Eight spawns on a machine with twelve CPUs, each with a process of its own
# that creates, loads, starts, kills and removes it, all at the same time and
# several times over. That each call has its place in an order is shown by
# concurrent.c; here whole kernels live, and none disturbs another.
#
# vm: CPUS=12 MEM=2G TIMEOUT=900 APPEND="rcupdate.rcu_cpu_stall_timeout=300"
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

instances=8
rounds=3
plan $((4 + 4 * rounds))

# As that of ktap.sh, but eight kernels that boot at once take their time where
# virtual CPUs share a few real ones.
ready() {
	mkctl logs "$1" --until 'spawn: ready' --timeout 300 >"$2" || {
		mkctl ps
		tail -n 5 "$2"
		return 1
	}
}

# life NUMBER ROUND: a whole life, in single steps. Says what went wrong.
life() {
	name=many$1
	cpu=$(($1 + 3))
	mkctl create "$name" --cpus "$cpu" --memory 64M &&
		mkctl load "$name" --kernel /boot/vmlinux --initrd /boot/spawn.cpio.gz &&
		mkctl start "$name" || return 1
	case $((($1 + $2) % 4)) in
	0)
		# In the middle of its boot.
		mkctl kill "$name" && is "$name" stopped forced && mkctl rm "$name"
		;;
	1)
		ready "$name" "$work/log$1" && [ "$(value "$work/log$1" cpus)" = 1 ] &&
			mkctl kill "$name" && mkctl rm "$name"
		;;
	2)
		ready "$name" "$work/log$1" && mkctl stop "$name" --timeout 120 &&
			is "$name" stopped poweroff && mkctl rm "$name"
		;;
	3)
		mkctl rm --force "$name"
		;;
	esac
}

# Runs a command for each instance at once; false if it failed for one.
each() {
	good=true
	pids=
	for i in $(seq "$instances"); do
		("$@" "$i") >"$work/each$i" 2>&1 &
		pids="$pids $!"
	done
	i=0
	for pid in $pids; do
		i=$((i + 1))
		wait "$pid" || {
			echo "many$i:"
			cat "$work/each$i"
			good=false
		}
	done
	$good
}

lives() {
	each a_life "$1"
}

a_life() {
	life "$2" "$1"
}

# All of them at the same time, once: as many spawns as there are.
up() {
	mkctl run --kernel /boot/vmlinux --initrd /boot/spawn.cpio.gz --cpus $(($1 + 3)) \
		--memory 64M --name "many$1"
}

is_ready() {
	ready "many$1" "$work/log$1" && [ "$(value "$work/log$1" cpus)" = 1 ]
}

running() {
	mkctl ps
	[ "$(mkctl ps | grep -c ' running ')" = "$instances" ]
}

stopped() {
	mkctl kill "many$1"
}

removed() {
	mkctl rm "many$1"
}

for i in $(seq "$instances"); do
	mkctl pool grow 64M >/dev/null
done
ledger >"$work/before"
check "eight spawns are started at once" each up
check "all come up" each is_ready
check "all run" running
check "all are killed and removed at once" eval 'each stopped && each removed'
for round in $(seq "$rounds"); do
	check "round $round: eight lives at once" lives "$round"
	check "round $round: nothing is left" [ -z "$(mkctl ps | sed 1d)" ]
	check "round $round: the host has all of its CPUs" \
		[ "$(cat /sys/devices/system/cpu/online)" = 0-11 ]
	check "round $round: everything is back" same "$work/before"
done
for i in $(seq "$instances"); do
	mkctl pool shrink 64M >/dev/null
done
finish
