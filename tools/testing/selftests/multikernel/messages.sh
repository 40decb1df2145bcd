#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Messages between the host and spawns of our own kernel, in both directions:
# every CPU and size, many callers at once, CPUs that come and go on both sides,
# spawns that end while they are called, two of them at once. Nothing is lost,
# and who waits for a spawn that has ended is told so at once.
#
# vm: CPUS=6 MEM=2G TIMEOUT=900
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 46

cpus=/sys/devices/system/cpu
# For calls that have to be answered, however slow the machine; in milliseconds.
patience=60000

run() {
	mkctl run --kernel /boot/bzImage --initrd "$work/spawn.cpio.gz" --memory 128M \
		--hang-timeout never "$@"
}

# flood NAME [MORE...]: every one is answered.
flood() {
	target=$1
	shift
	mkctl ping "$target" --flood -q --timeout "$patience" "$@"
}

# One slot, as much as fits into it, a byte more, the same with two, the longest.
sizes() {
	for bytes in 0 1 32 33 88 89 512 1023 1024; do
		echo "$bytes bytes"
		flood one --cpu "$1" --bytes "$bytes" --count 50 || return 1
	done
}

# all PROCESS...: all have ended with status 0.
all() {
	for process; do
		wait "$process" || return 1
	done
}

# Many callers on each of the host's CPUs, to both of the spawn's.
parallel() {
	callers=
	for caller in 0 1 2 3 4 5 6 7; do
		taskset -c $((caller % 2)) mkctl ping one --flood -q --timeout "$patience" \
			--count 1000 --bytes $((caller * 32)) --cpu $((caller / 2 % 2)) \
			>"$work/caller$caller" 2>&1 &
		callers="$callers $!"
	done
	# shellcheck disable=SC2086 # several words
	all $callers && return
	cat "$work"/caller?
	return 1
}

# Each message that was sent has been received, on either side.
adds_up() {
	told one 60 'grep "^0 " /sys/kernel/debug/multikernel/links' || return 1
	line=$(grep '^0 epoch' "$work/told" | tail -n 1)
	cat /sys/kernel/debug/multikernel/links
	# shellcheck disable=SC2086 # several words
	set -- $line
	# 0 epoch 1 minor 1 up sent 5 rung 5 stalls 0 received 5 undeliverable 0 broken 0
	[ "$6" = up ] && [ "$8" = "$(counter one received)" ] &&
		[ "${14}" = "$(counter one sent)" ] &&
		[ "$8" = "${14}" ] && [ "${18}" = 0 ] && [ "$(counter one broken)" = 0 ]
}

# Every doorbell is for at least one message, and for more than one now and then.
rings_less() {
	echo "$(counter one rung) doorbells for $(counter one sent) messages"
	[ "$(counter one rung)" -lt "$(counter one sent)" ]
}

# Goes on until the counter is so much higher: it is not stuck.
more_than() {
	[ "$(counter one "$1")" -gt "$2" ]
}

moves_on() {
	wait_for 60 more_than sent $(($(counter one sent) + 100)) &&
		wait_for 60 more_than received $(($(counter one received) + 100))
}

online() {
	echo "$2" >"$cpus/cpu$1/online"
}

host_hotplug() {
	for round in 1 2 3 4 5; do
		echo "round $round"
		online 1 0 && moves_on && online 1 1 && moves_on || return 1
	done
}

spawn_hotplug() {
	for round in 1 2 3 4 5; do
		echo "round $round"
		told one 60 'echo 0 >/sys/devices/system/cpu/cpu1/online' && moves_on &&
			told one 60 'echo 1 >/sys/devices/system/cpu/cpu1/online' && moves_on ||
			return 1
	done
}

# in_call PROCESS: it waits in MULTIKERNEL_IOCTL_CALL.
in_call() {
	grep -q '^16 0x[0-9a-f]* 0xb946 ' "/proc/$1/syscall" && grep -q ') S ' "/proc/$1/stat"
}

# Has CPU 1 take no interrupt, and four wait for its answers, for ten minutes.
waiters() {
	echo 'taskset 2 sh -c "echo spin >/sys/kernel/debug/multikernel/crash" &' |
		mkctl console one --linger 500 >/dev/null 2>&1
	wait_for 60 not mkctl ping one --count 1 --cpu 1 --timeout 500 || return 1
	waiting=
	for caller in 1 2 3 4; do
		mkctl ping one --count 1 --cpu 1 --timeout 600000 >"$work/waiter$caller" 2>&1 &
		waiting="$waiting $!"
		wait_for 60 in_call $! || return 1
	done
}

# ended PROCESS: also one that nobody has waited for yet.
ended() {
	[ ! -e "/proc/$1" ] || grep -q ') Z ' "/proc/$1/stat"
}

# All are told, long before their time is over, that nobody is there any more.
told_at_once() {
	for process in $waiting; do
		wait_for 30 ended "$process" || return 1
		wait "$process" && return 1
	done
	cat "$work"/waiter?
	[ "$(cat "$work"/waiter? | grep -c 'its kernel ended')" = 4 ]
}

# answers NAME EPOCH: a new life has a new link. Its kernel has called the host
# once, to say that it takes part in links to other spawns.
answers() {
	mkctl start "$1" && ready "$1" "$work/log" && flood "$1" --count 100 --cpu 0 &&
		flood "$1" --count 100 --cpu 1 || return 1
	cat /sys/kernel/debug/multikernel/links
	[ "$(field "$1" epoch)" = "$2" ] && [ "$(counter "$1" epoch)" = "$2" ] &&
		[ "$(counter "$1" sent)" = 201 ] && [ "$(counter "$1" received)" = 201 ]
}

# ends_with FILE TEXT...: the endless one has failed, with one of these.
ends_with() {
	file=$1
	shift
	wait_for 60 ended "$endless" || return 1
	wait "$endless" && return 1
	cat "$file"
	for text; do
		grep -q "$text" "$file" && return
	done
	return 1
}

links() {
	[ "$(wc -l </sys/kernel/debug/multikernel/links)" = "$1" ]
}

both_ways() {
	flood='mkctl ping --host --flood -q --count 3000 --timeout 60000'
	told one 60 "$flood >/tmp/one & caller=\$!" &&
		told two 60 "$flood >/tmp/two & caller=\$!" ||
		return 1
	callers=
	for name in one two one two; do
		mkctl ping "$name" --flood -q --count 2000 --timeout "$patience" \
			>"$work/$name" 2>&1 &
		callers="$callers $!"
	done
	# shellcheck disable=SC2086 # several words
	all $callers || return 1
	told one 120 'wait $caller' && told two 120 'wait $caller'
}

# --- From the host -----------------------------------------------------------

spawn_initrd /usr/bin/mkctl spawn_calls
mkctl pool grow 256M >/dev/null
ledger >"$work/before"
mkctl create empty --cpus 2 --memory 2M >/dev/null
check "nobody answers where nothing runs" fails 'it is not running' mkctl ping empty
mkctl rm empty >/dev/null
check "no link without a spawn" links 0
check "run" run --cpus 2-3 --name one
check "user space comes up" ready one "$work/log"
check "one link" links 1
check "ping" mkctl ping one --interval 0.05
mkctl ping one --interval 0 --count 3 --bytes 100 --cpu 1 >"$work/said"
check "ping: a line for each" [ "$(grep -c '^100 bytes from one CPU 1: seq=[123] time=[0-9.]* us$' \
	"$work/said")" = 3 ]
check "ping: a summary" sh -c "grep -q '^3 sent, 3 answered, 0 lost$' $work/said &&
	grep -q '^min/median/avg/max = [0-9.]*/[0-9.]*/[0-9.]*/[0-9.]* us$' $work/said"
mkctl ping one --flood --json -q >"$work/said"
check "ping: JSON" grep -q \
	'"to":"one","bytes":56,"cpu":null,"sent":1000,"answered":1000,"lost":0,' \
	"$work/said"
check "ping: a CPU that it does not have" fails 'it has no CPU 2' mkctl ping one --cpu 2
check "ping: the host has no host" fails 'is no spawn' mkctl ping --host
check "CPU 0, each size" sizes 0
check "CPU 1, each size" sizes 1
check "the spawn has what shows its counters" told one 60 'mount -t debugfs none /sys/kernel/debug'
check "what was sent was received" adds_up
before=$(counter one sent)
check "eight callers on two CPUs" parallel
check "each call is one message there" [ $(($(counter one sent) - before)) = 8000 ]
check "and one back" adds_up
check "not a doorbell for each message" rings_less

# --- From the spawn ----------------------------------------------------------

check "errnos in a spawn" told one 120 /spawn_calls
check "the spawn calls host CPU 0" told one 120 \
	'/mkctl ping --host --flood -q --count 2000 --timeout 60000 --cpu 0'
check "the spawn calls host CPU 1" told one 120 \
	'/mkctl ping --host --flood -q --count 2000 --timeout 60000 --cpu 1 --bytes 1024'
check "one that has left the host answers by another" told one 120 \
	'/mkctl ping --host --flood -q --count 100 --timeout 60000 --cpu 2'
check "a spawn has no instances" not told one 60 '/mkctl ps'
check "what was sent was received, both ways" adds_up

# --- CPUs come and go --------------------------------------------------------

told one 60 'PATH=$PATH:/; taskset 2 mkctl ping --host --flood -q --count 1000000000 \
	--timeout 60000 --cpu 1 >/tmp/endless & endless=$!' >/dev/null
for_ever "$work/endless" taskset -c 1 mkctl ping one
check "host CPU 1 goes and comes while the spawn calls it" host_hotplug
check "all were answered" ends_well "$work/endless"
check "so were the spawn's" told one 120 'kill $endless; wait $endless'
for_ever "$work/endless" mkctl ping one --cpu 1
check "spawn CPU 1 goes and comes while the host calls it" spawn_hotplug
check "all calls to it were answered" ends_well "$work/endless"
check "what was sent was received, after all that" adds_up

# --- Two of them -------------------------------------------------------------

run --cpus 4-5 --name two >/dev/null
check "another one comes up" ready two "$work/log"
told two 60 'PATH=$PATH:/' >/dev/null
check "two links" links 2
check "both call, both are called" both_ways
mkctl rm --force two >/dev/null
check "one is as it was" adds_up
check "one link is left" links 1

# --- Ends --------------------------------------------------------------------

check "callers wait for a CPU that hangs" waiters
mkctl kill one >/dev/null
check "killed: they are told at once" told_at_once
check "killed: no link is left" links 0
check "killed: the next life answers" answers one 2
told one 60 'mount -t debugfs none /sys/kernel/debug' >/dev/null
check "callers wait again" waiters
echo 'echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger' |
	mkctl console one --linger 500 >/dev/null 2>&1
check "panicked: they are told at once" told_at_once
check "panicked: the next life answers" answers one 3
for_ever "$work/endless" mkctl ping one
moves_on
mkctl stop one --timeout 60 >/dev/null
check "powered off: the caller is told" \
	ends_with "$work/endless" 'its kernel ended' 'is not running'
check "powered off: the next life answers" answers one 4
mkctl rm --force one >/dev/null
check "everything is back" same "$work/before"
mkctl pool shrink 256M >/dev/null
finish
