#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What happens on a host, while two spawns count beside it: CPUs come and go,
# everything stops for a moment, modules, memory runs out, NMIs, watchdogs, a
# kexec image. After each the spawns count on and the ledger is what it was; at
# the end nothing that they wrote is missing or wrong.
#
# vm: CPUS=6 MEM=2G TIMEOUT=900 APPEND="sysrq_always_enabled"
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
# shellcheck source=tools/testing/selftests/multikernel/workload.sh
. ./workload.sh
plan 43

cpus=/sys/devices/system/cpu
clock=/sys/devices/system/clocksource/clocksource0
pid=

online() {
	echo "$2" >"$cpus/cpu$1/online"
}

# After every event: both go on, nothing has moved, the host has no complaint.
unharmed() {
	check "$1: the spawns go on" both_go_on
	check "$1: the ledger is what it was" same "$work/running"
}

both_go_on() {
	goes_on one && goes_on two
}

# said MARK TEXT: whether the kernel's log has TEXT after the line MARK.
said() {
	dmesg | sed "1,/$1/d" | grep -q "$2"
}

# mark NAME: a line in the kernel's log.
mark() {
	echo "host_events: $1" >/dev/kmsg
}

hotplug() {
	for round in 1 2 3 4 5; do
		online 1 0 && online 5 0 || return 1
		if online 2 1 || online 4 1; then
			echo "round $round: a lent CPU could be brought online"
			return 1
		fi
		online 5 1 && online 1 1 || return 1
	done 2>"$work/refused"
	# Twice a round.
	[ "$(grep -c -i busy "$work/refused")" = 10 ]
}

# Every change of the clock source is a stop_machine().
clocks() {
	before=$(cat "$clock/current_clocksource")
	for other in $(cat "$clock/available_clocksource") "$before"; do
		echo "$other" >"$clock/current_clocksource" || return 1
	done
	cat "$clock/available_clocksource" "$clock/current_clocksource"
	[ "$(wc -w <"$clock/available_clocksource")" -gt 1 ] &&
		[ "$(cat "$clock/current_clocksource")" = "$before" ]
}

modules() {
	for round in 1 2 3 4 5; do
		echo "round $round"
		insmod /boot/test_module.ko || return 1
		grep -q '^test_module' /proc/modules || return 1
		rmmod test_module || return 1
	done
}

# The kernel kills the hog. While its memory comes back another one may have to
# go: for that there are decoys, so that it is neither this script nor a shell.
oom() {
	mark oom
	decoys=
	for _ in 1 2 3; do
		sh -c 'echo 900 >/proc/self/oom_score_adj; exec sleep 600' &
		decoys="$decoys $!"
	done
	./hog &
	wait $!
	status=$?
	# shellcheck disable=SC2086 # several words
	kill $decoys 2>/dev/null
	[ "$status" = 137 ] && said 'host_events: oom' 'Killed process.*(hog)' &&
		! dmesg | sed '1,/host_events: oom/d' | grep 'Killed process' |
			grep -v '(hog)\|(sleep)'
}

# What is free of the host's memory, in KiB, is less.
less_free() {
	[ "$(awk '/^MemFree:/ { print $2 }' /proc/meminfo)" -lt "$1" ]
}

# Verbs work while there is next to no memory, or say that there is none. The
# kernel is not brought to kill somebody: while the memory of one that it has
# killed comes back, it kills the next one, which may be this script. For that
# it needs some 16 MiB in the zone for old devices' DMA, which others may not
# have, and its watermarks in the next one.
verbs_under_pressure() {
	./hog 40 &
	pid=$!
	wait_for 240 less_free 49152 || {
		head -n 3 /proc/meminfo
		kill "$pid"
		return 1
	}
	worked=0
	for round in 1 2 3 4 5; do
		mkctl ps >/dev/null || {
			kill "$pid"
			return 1
		}
		if mkctl create third --cpus 5 --memory 2M 2>"$work/create"; then
			worked=$((worked + 1))
			mkctl rm third || {
				kill "$pid"
				return 1
			}
		else
			grep -qi 'memory' "$work/create" || {
				cat "$work/create"
				kill "$pid"
				return 1
			}
		fi
	done
	kill "$pid"
	killall -9 hog
	wait "$pid"
	echo "$worked of $round instances could be created"
	[ "$worked" -gt 0 ]
}

# One backtrace for each CPU of the host, and none is missed.
backtraces() {
	mark backtraces
	echo l >/proc/sysrq-trigger
	dmesg | sed '1,/host_events: backtraces/d' >"$work/traces"
	for cpu in 0 1 5; do
		grep -q "NMI backtrace for cpu $cpu" "$work/traces" || {
			cat "$work/traces"
			return 1
		}
	done
	not grep -q 'NMI backtrace for cpu [234]' "$work/traces"
}

sysrq() {
	for key in t w m q; do
		mark "sysrq $key"
		echo "$key" >/proc/sysrq-trigger
		said "sysrq $key" 'sysrq: ' || return 1
	done
}

# Off, on, and with another threshold, which starts each CPU's timer anew. The
# NMI part needs a PMU, without which the kernel says so and goes without.
watchdogs() {
	threshold=$(cat /proc/sys/kernel/watchdog_thresh)
	for value in 0 1 0 1; do
		echo "$value" >/proc/sys/kernel/watchdog || return 1
		echo "$value" >/proc/sys/kernel/soft_watchdog || return 1
		echo "$value" >/proc/sys/kernel/nmi_watchdog ||
			dmesg | grep -q 'Perf NMI watchdog permanently disabled' || return 1
	done
	echo $((threshold - 1)) >/proc/sys/kernel/watchdog_thresh &&
		echo "$threshold" >/proc/sys/kernel/watchdog_thresh
}

# Loading changes nothing for instances; jumping is in kexec.sh.
kexec_image() {
	kexec -c -l /boot/bzImage --initrd=/boot/spawn.cpio.gz --append=quiet &&
		[ "$(cat /sys/kernel/kexec_loaded)" = 1 ] &&
		kexec -c -u && [ "$(cat /sys/kernel/kexec_loaded)" = 0 ]
}

caches() {
	for round in 1 2 3; do
		echo "round $round"
		echo 3 >/proc/sys/vm/drop_caches || return 1
		echo 1 >/proc/sys/vm/compact_memory || return 1
	done
}

mkctl pool grow 96M >/dev/null
mkctl pool grow 96M >/dev/null
mkctl pool grow 2M >/dev/null
ledger >"$work/before"
workload_initrd
check "a spawn with two CPUs" run_workload one 2-3
check "a spawn with one CPU" run_workload two 4
ledger >"$work/running"
check "both go on" both_go_on
[ "$failed" = 0 ] || finish

check "CPU hotplug: others come and go, lent ones are refused" hotplug
unharmed "CPU hotplug"
check "stop_machine: by changes of the clock source" clocks
unharmed "stop_machine"
check "modules: loaded and unloaded" modules
unharmed "modules"
check "OOM: the hog is killed" oom
unharmed "OOM"
check "OOM: mkctl works meanwhile" verbs_under_pressure
unharmed "OOM, with mkctl"
check "SysRq-L: NMI backtraces of the host's CPUs only" backtraces
unharmed "SysRq-L"
check "SysRq-T, W, M, Q" sysrq
unharmed "SysRq-T, W, M, Q"
check "watchdogs: off and on" watchdogs
unharmed "watchdogs"
check "kexec: an image is loaded and unloaded" kexec_image
unharmed "kexec -l"
check "drop_caches and compact_memory" caches
unharmed "drop_caches and compact_memory"

check "the larger spawn lost nothing" lost_nothing one
check "nor did the smaller" lost_nothing two
check "the larger is stopped in order" mkctl stop one
check "it powered off" is one stopped poweroff
check "the smaller is stopped in order" mkctl stop two
check "it powered off too" is two stopped poweroff
check "it is removed" mkctl rm one
check "both are" mkctl rm two
check "everything is back" same "$work/before"
check "every CPU of the host is online" [ "$(cat $cpus/online)" = 0-5 ]
mkctl pool shrink 2M >/dev/null
mkctl pool shrink 192M >/dev/null
finish
