#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The host does not go to sleep while there is an instance, says why, and does
# when there is none. Asleep here means as far as /sys/power/pm_test goes: what
# is refused is refused before all of it.
#
# vm: CPUS=6 MEM=2G TIMEOUT=300 APPEND="sysrq_always_enabled"
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
# shellcheck source=tools/testing/selftests/multikernel/workload.sh
. ./workload.sh
[ -e /sys/power/pm_test ] || skip_all "this kernel cannot suspend, or has no CONFIG_PM_DEBUG"
plan 18

# What there is to be written to /sys/power/state; S3 is QEMU's "mem".
states=$(cat /sys/power/state)
delay=/sys/module/suspend/parameters/pm_test_delay

# go_to_sleep STATE DEPTH
go_to_sleep() {
	echo "$2" >/sys/power/pm_test && echo "$1" >/sys/power/state
}

# refused STATE: with EBUSY, and a line that names the instance.
refused() {
	echo "suspend: refused $1" >/dev/kmsg
	if go_to_sleep "$1" freezer 2>"$work/error"; then
		return 1
	fi
	cat "$work/error"
	grep -qi busy "$work/error" &&
		dmesg | sed "1,/suspend: refused $1/d" | tee "$work/said" |
		grep -q 'multikernel: no suspend while instance asleep has CPUs and memory' &&
		# It was refused before anything was frozen.
		not grep -q 'Freezing' "$work/said"
}

all() {
	for state in $states; do
		"$@" "$state" || return 1
	done
}

# Freezes processes only.
naps() {
	go_to_sleep "$1" freezer
}

# As deep as can be tested: only suspend to idle leaves the CPUs online.
sleeps() {
	case $1 in
	freeze) go_to_sleep "$1" platform ;;
	*) go_to_sleep "$1" core ;;
	esac
}

[ ! -w $delay ] || echo 1 >$delay
echo "states: $states" | comment
check "there is a state to suspend to" [ -n "$states" ]
mkctl pool grow 96M >/dev/null
ledger >"$work/before"
check "memory in the pool does not hinder it" all naps
check "nor does it when CPUs go down for it" all sleeps
check "all of them are back" same "$work/before"

check "create" mkctl create asleep --cpus 2-3 --memory 96M
check "an instance without a kernel hinders it" all refused
mkctl rm asleep
workload_initrd
check "a spawn runs" run_workload asleep 2-3
check "it hinders it" all refused
check "it goes on" goes_on asleep
mkctl pool grow 2M >/dev/null
check "what was refused closes nothing: create" mkctl create other --cpus 5 --memory 2M
check "and remove" mkctl rm other
mkctl pool shrink 2M >/dev/null
check "the spawn lost nothing" lost_nothing asleep
mkctl kill asleep
check "one that was stopped hinders it too" all refused
check "remove" mkctl rm asleep
check "the host sleeps again" all sleeps
check "everything is back" same "$work/before"
echo none >/sys/power/pm_test
check "CPUs can be lent again" mkctl create asleep --cpus 2-3 --memory 96M
check "remove again" mkctl rm asleep
mkctl pool shrink 96M >/dev/null
finish
