#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What is told of links: counters of each lane and CPU after known messages, what
# mkctl top shows, calls that look for their answers and that do not, and spawns
# that ring a CPU of the host without end, or send to it, while others call and a
# process there works.
#
# vm: CPUS=5 MEM=2G TIMEOUT=900
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 44

settings=/sys/kernel/debug/multikernel
patience=60000

run() {
	mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --memory 128M \
		--hang-timeout never "$@"
}

# flood NAME CPU COUNT: from the host's CPU 1 to a CPU of the spawn.
flood() {
	taskset -c 1 mkctl ping "$1" --flood -q --timeout "$patience" --cpu "$2" --count "$3"
}

# stats NAME: the counters, an object a line.
stats() {
	mkctl top "$1" --json --count 1 --interval 0 | sed 's/{/\n{/g' >"$work/stats"
}

# number KEY LINE: -1 if it is not there.
number() {
	echo "$2" | sed "s/.*\"$1\":\([0-9][0-9]*\).*/\1/; t; s/.*/-1/"
}

# lane RECEIVES FROM TO: its counters, as the last call of stats found them.
lane() {
	grep "\"number\":[0-9]*,\"receives\":$1,\"kind\":\"cpus\",\"from\":$2,\"to\":$3," \
		"$work/stats"
}

# cpu PEER CPU KEY
cpu() {
	number "$3" "$(grep "\"cpu\":$2,\"peer\":$1," "$work/stats")"
}

# carried RECEIVES FROM TO KEY: of that lane, 0 if there is none: the kernels
# themselves may have talked in it before.
carried() {
	carried=$(number "$4" "$(lane "$1" "$2" "$3")")
	echo "${carried#-1}" | sed 's/^$/0/'
}

# lane_is RECEIVES FROM TO KEY VALUE
lane_is() {
	lane "$1" "$2" "$3"
	[ "$(carried "$1" "$2" "$3" "$4")" = "$5" ]
}

# Lanes of other pairs of CPUs, in which the kernels themselves have talked.
others() {
	grep '"kind":"cpus"' "$work/stats" | grep -v '"from":1,"to":1,' | sed 's/}.*//'
}

# Each call is a message there and one back, in the lanes of this pair alone.
exact() {
	stats one && others >"$work/others"
	there=$(there)
	rings=$(rings)
	before=$(carried false 1 1 messages)
	answers=$(carried true 1 1 messages)
	sent=$((before + 300))
	flood one 1 300 || return 1
	stats one && lane_is false 1 1 messages "$sent" &&
		lane_is true 1 1 messages "$((answers + 300))" && others | diff "$work/others" -
}

# A call of 40 bytes is a header of 16 bytes and these.
bytes() {
	before=$(carried false 1 0 bytes)
	answers=$(carried true 0 1 bytes)
	taskset -c 1 mkctl ping one --flood -q --timeout "$patience" --cpu 0 --count 10 \
		--bytes 40 && stats one && lane_is false 1 0 bytes $((before + 560)) &&
		lane_is true 0 1 bytes $((answers + 560))
}

# Not more than there were messages, and no slot is in use any more.
rings_no_more() {
	[ "$(number doorbells "$(lane false 1 1)")" -le "$sent" ] &&
		[ "$(number doorbells "$(lane false 1 1)")" -ge 1 ] &&
		lane_is false 1 1 used 0 && lane_is false 1 1 stalls 0
}

# Doorbells that the spawn's CPUs were rung.
there() {
	echo $(($(cpu true 0 doorbells) + $(cpu true 1 doorbells)))
}

# Doorbells for what was sent in each lane.
rings() {
	sed -n '/"receives":false/s/.*"doorbells":\([0-9]*\).*/\1/p' "$work/stats" |
		awk '{ sum += $1 } END { print sum + 0 }'
}

# What was rung at the spawn's CPUs since is what the lanes say.
adds_up() {
	echo "$there, now $(there); lanes $rings, now $(rings)"
	[ $(($(there) - there)) = $(($(rings) - rings)) ]
}

# more NAME KEY THAN: of the host's CPU 1, as the link of that name has it.
more() {
	stats "$1" || return 1
	echo "$2 $(cpu false 1 "$2")"
	[ "$(cpu false 1 "$2")" -gt "$3" ]
}

# How far a process on the host's CPU 1 gets in three seconds.
progress() {
	taskset -c 1 timeout 3 \
		sh -c 'trap "echo \$i; exit" TERM; i=0; while :; do i=$((i + 1)); done'
}

# begins NAME COMMAND: in the background of the spawn's shell.
begins() {
	told "$1" 60 "$2 & true"
}

# ends NAME: what was begun last.
ends() {
	told "$1" 60 'kill $!; wait $!; true'
}

# crashes WHAT: a command that has the spawn do that, see crash_test.rs.
crashes() {
	echo "echo $1 >/sys/kernel/debug/multikernel/crash"
}

# A process is not starved. How much of the CPU it gets is a matter of how fast
# interrupts come, which nobody can hold off, see hazards.rst: on an emulated CPU
# beside another that has a processor of its own, a part in a hundred.
goes_on() {
	now=$(progress)
	echo "quiet $quiet, now $now"
	[ "${now:-0}" -gt 10 ] && [ "${quiet:-0}" -gt 100 ]
}

# Messages from "two" that are taken while a process works.
taken() {
	stats two
	before=$(number messages "$(lane true 0 1)")
	progress >/dev/null
	stats two
	echo $(($(number messages "$(lane true 0 1)") - before))
}

# With one percent of the CPU it is a good deal less than with all of it. How much
# less depends on how fast the sender is, which may have a part of a real CPU only.
fewer() {
	limited=$(taken)
	set_to receive_percent 100
	all=$(taken)
	set_to receive_percent 1
	echo "limited $limited, all $all"
	[ "$limited" -gt 0 ] && [ $((all * 2)) -gt $((limited * 3)) ]
}

# Callers on one CPU of the host, to a CPU of the spawn that does not take its
# interrupts: the lane has 64 slots.
stalls() {
	begins one "taskset 2 sh -c '$(crashes spin)'" || return 1
	wait_for 60 not mkctl ping one --count 1 --cpu 1 --timeout 500 || return 1
	for _ in 1 2 3 4 5 6; do
		taskset -c 1 mkctl ping one --flood -q --count 15 --cpu 1 --bytes 1000 \
			--timeout 300 >/dev/null &
	done
	wait
	stats one
	lane false 1 1
	[ "$(number stalls "$(lane false 1 1)")" -gt 0 ] &&
		[ "$(number used "$(lane false 1 1)")" -le 64 ] &&
		[ "$(number used "$(lane false 1 1)")" -gt 40 ] &&
		[ "$(number highest "$(lane false 1 1)")" -le 64 ] &&
		[ "$(number highest "$(lane false 1 1)")" -gt 40 ]
}

set_to() {
	echo "$2" >"$settings/$1" && [ "$(cat "$settings/$1")" = "$2" ]
}

# --- Counters ----------------------------------------------------------------

mkctl pool grow 256M >/dev/null
ledger >"$work/before"
check "without instances there is nothing to tell" [ "$(mkctl top --json --count 1 \
	--interval 0)" = '[]' ]
check "run" run --cpus 2-3 --name one
check "user space comes up" ready one "$work/log"
check "with debugfs" told one 60 'mount -t debugfs none /sys/kernel/debug'
check "300 calls are 300 messages there and 300 back" exact
check "and not more doorbells, nor slots that stay in use" rings_no_more
check "bytes are those of headers and payloads" bytes
check "doorbells of CPUs are those of lanes" adds_up
check "a table" sh -c "mkctl top one --count 2 --interval 0.1 >$work/table"
check "has the lane, twice" [ "$(grep -c "^  CPU 1 to CPU 1 .* $sent\$" "$work/table")" = 2 ]
check "an instance that is not there" fails 'there is no such instance' mkctl top two
check "the host has no host" fails 'is no spawn' mkctl top --host

# --- Polling -----------------------------------------------------------------

check "polling off" set_to poll_us 0
stats one
polls=$(cpu false 1 polls)
check "calls are answered" flood one 0 300
check "nobody polled" not more one polls "$polls"
check "polling for a millisecond" set_to poll_us 1000
check "calls are answered" flood one 0 1000
check "by looking for the answers, too" more one polls "$polls"
check "not for longer" not set_to poll_us 10001
set_to poll_us 200

# --- Spawns that ring or send without end -------------------------------------

check "another one" run --cpus 4 --name two
check "comes up" ready two "$work/log"
check "with debugfs" told two 60 'mount -t debugfs none /sys/kernel/debug'
check "it is busy with itself" begins two 'while :; do :; done'
quiet=$(progress)
check "and ends that" ends two

check "it rings without end" begins two "$(crashes 'ring-flood 1')"
check "doorbells for nothing are held back" wait_for 60 more two held 1000
check "the log says so" sh -c "dmesg | grep -q 'CPU 1 is rung too often for nothing'"
check "calls from that CPU are answered all the same" flood one 0 50
check "and a process there goes on" goes_on
check "it ends that" ends two
stats two
held=$(cpu false 1 held)
check "calls are answered" flood one 0 300
check "and nothing is held back" not more two held "$held"

check "it sends without end" begins two "$(crashes 'send-flood 1')"
check "calls from that CPU are answered all the same" flood one 0 50
check "and a process there goes on" goes_on
check "links may have one percent of a CPU" set_to receive_percent 1
check "what comes has to wait" wait_for 60 more two delayed 20
check "the log says so" sh -c "dmesg | grep -q 'its share of 1 percent of CPU 1 is used up'"
check "and so less is taken" fewer
check "calls from that CPU are answered all the same" flood one 0 50
check "no less than one percent" not set_to receive_percent 0
set_to receive_percent 75
check "the one that sends can be stopped" mkctl rm --force two

# --- A lane that is full -----------------------------------------------------

check "who finds no room is counted, and no more is in use than there is" stalls
mkctl rm --force one >/dev/null
check "everything is back" same "$work/before"
mkctl pool shrink 256M >/dev/null
finish
