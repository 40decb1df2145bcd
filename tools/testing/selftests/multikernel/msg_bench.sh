#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The benchmark of messages between kernels works: each of its parts runs for a
# few messages, gives a figure, and leaves nothing behind. How long they take is
# of no matter here.
#
# vm: CPUS=4 MEM=2130M TIMEOUT=300
#
# Functions are called by check:
# shellcheck disable=SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

# Between two CPUs of the host, and between host and spawn.
local_rows="pipe-rtt-64 pipe-one-way-64 pipe-rate-64 pipe-rate-256 pipe-rate-1k eventfd-rtt-8
	unix-stream-rtt-64 unix-stream-rate-1k unix-seqpacket-rtt-64 unix-seqpacket-rate-1k
	vsock-loopback-rtt-64 vsock-loopback-rate-1k"
kernel_rows="smp-call-single doorbell-rtt-64 kernel-call-rtt-64"
remote_rows="call-rtt-64 call-any-rtt-64 port-rtt-64 port-one-way-64 port-rate-64
	port-rate-256 port-rate-1k port-doorbells-64"
count_rows="doorbells-idle doorbells-steady doorbells-saturated pairs-1-rate pairs-1-total
	pairs-1-doorbells pairs-2-rate pairs-2-total pairs-2-doorbells"

plan 11

measured() {
	mkbench-msg --runs 2 --trips 20 --kernel /boot/vmlinux --initrd "$work/pid1.cpio" \
		--cpus 2-3 --memory 96M >"$work/rows" 2>"$work/said"
	status=$?
	cat "$work/said"
	return "$status"
}

# The same program is the first process of the spawn.
pid1_initrd() {
	mkdir "$work/root"
	cp "$(command -v mkbench-msg)" "$work/root/pid1" &&
		(cd "$work/root" && echo pid1 | cpio -o -H newc) >"$work/pid1.cpio" 2>/dev/null
}

# row NAME KEY: a value of a row.
row() {
	sed 's/},{/\n/g' "$work/rows" | grep "\"name\":\"msg/vm/$1\"" |
		sed -n "s/.*\"$2\":\"\{0,1\}\([^\",]*\).*/\1/p"
}

# there NAME...: each has figures of both rounds.
there() {
	for name; do
		echo "$name: $(row "$name" median), runs $(row "$name" runs)"
		[ "$(row "$name" runs)" = 2 ] || return 1
	done
}

# more_than NAME KEY NUMBER
more_than() {
	row "$1" "$2" | awk -v least="$3" '{ print; more = $1 > least } END { exit !more }'
}

# at_most NAME KEY NUMBER
at_most() {
	row "$1" "$2" | awk -v most="$3" '{ print; good = $1 <= most } END { exit !good }'
}

# fails REQUEST...: the kernel measures nothing of that.
fails() {
	[ -w /sys/kernel/debug/multikernel/bench ] || return 1
	for request; do
		echo "$request"
		echo "$request" >/sys/kernel/debug/multikernel/bench 2>/dev/null && return 1
	done
	true
}

ledger >"$work/before"
check "an initrd with the other end" pid1_initrd
check "it runs" measured
# shellcheck disable=SC2086 # several words
check "between two processes of the host" there $local_rows
# shellcheck disable=SC2086 # several words
check "between the kernels themselves" there $kernel_rows
# shellcheck disable=SC2086 # several words
check "between a process of each" there $remote_rows
# shellcheck disable=SC2086 # several words
check "doorbells, and pairs of CPUs" there $count_rows
check "a call takes longer than an inter-processor call" \
	more_than doorbell-rtt-64 ratio 0
# The first call of all may find the receiver awake.
check "who sleeps is rung for each message" more_than doorbells-steady median 800
check "but not for more" at_most doorbells-steady max 1000
check "what the kernel cannot measure it refuses" fails 'ipi 77 1' 'ipi 0 0' 'ipi 0 100001' \
	'ipi 0' 'sleep 1 0 32 1' 'sleep 1 0 1025 1' 'walk 1' ''
check "everything is back" same "$work/before"
finish
