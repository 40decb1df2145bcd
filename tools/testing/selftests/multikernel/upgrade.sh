#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# CPUs that a running spawn is given, and a running kernel that is replaced by
# one booted beside it: what the spawn's user space sees of it, what is given
# back, what a new kernel that does not come up leaves as it was, and what the
# next mkctl makes of one that was killed half-way.
#
# vm: CPUS=6 MEM=2200M TIMEOUT=900
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
# shellcheck source=tools/testing/selftests/multikernel/workload.sh
. ./workload.sh

upgrades=${UPGRADES:-10}
kills=${KILLS:-8}
plan 74

kernel=/boot/vmlinux
cpu=/sys/devices/system/cpu

# What a spawn's shell says to a command, in one line.
says() {
	ask "$1" "$2" | tr '\n' ' ' | sed 's/ $//'
}

says_that() {
	said=$(says "$1" "$2")
	echo "$said"
	[ "$said" = "$3" ]
}

# runs_on NAME COUNT: CPUs; also of a spawn whose console is never silent.
runs_on() {
	told "$1" 60 "[ \$(nproc) = $2 ]"
}

# pinned NAME CPU: a process pinned to that CPU of the spawn computes there.
pinned() {
	spin='i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done'
	where='set -- $(cat /proc/self/stat); shift 38'
	told "$1" 60 "taskset $((1 << $2)) sh -c '$spin; $where; [ \$1 = $2 ]'"
}

has_cpus() {
	mkctl ps | awk -v name="$1" -v cpus="$2" '
		$2 == name { print; found = $5 == cpus }
		END { exit !found }'
}

# The CPU that the host does not have, and no spawn may start, stays the host's.
epoch_is() {
	[ "$(field "$1" epoch)" = "$2" ]
}

host_has() {
	[ "$(cat "$cpu/cpu$1/online")" = 1 ] && taskset $((1 << $1)) true
}

upgrade() {
	mkctl upgrade web --kernel "$kernel" --timeout 120 "$@"
}

id() {
	field "$1" id
}

# unchanged ID EPOCH: the instance "web" is still that, in the same life, and
# there is no trace of another.
unchanged() {
	mkctl ps
	[ "$(id web)" = "$1" ] && [ "$(field web epoch)" = "$2" ] && is web running &&
		! mkctl ps | grep -q web.next && [ ! -e /run/multikernel/web.upgrade ] &&
		[ ! -e /run/multikernel/web.next.json ]
}

# A signal, when the new kernel runs already.
interrupted_upgrade() {
	# Not by upgrade: the process has to be mkctl itself, which is sent the signal.
	mkctl upgrade web --kernel "$kernel" --timeout 300 --ready 'never said' >"$work/said" 2>&1 &
	upgrader=$!
	wait_for 60 is web.next running || return 1
	kill -TERM "$upgrader"
	wait "$upgrader"
	status=$?
	cat "$work/said"
	[ "$status" = 1 ] && grep -q 'interrupted by a signal' "$work/said"
}

# kill_once NUMBER BEGIN CALL: mkctl is killed at a system call of the upgrade,
# counted from its beginning, or from that ioctl on. Whoever has the name then
# runs; the next one begins anew, or goes on.
kill_once() {
	before=$(id web)
	# shellcheck disable=SC2086 # several words
	./interrupt $2 before "$3" mkctl upgrade web --kernel "$kernel" --timeout 120 \
		--ready 'count: 3 ' >"$work/verb" 2>&1
	status=$?
	echo "$2 before $3: status $status: $(cat "$work/verb")"
	[ "$status" -lt 2 ] && is web running || return 1
	if [ "$(id web)" = "$before" ] && [ $(($1 % 2)) = 0 ] &&
		! grep -q '"committed": true' /run/multikernel/web.upgrade 2>/dev/null; then
		mkctl upgrade web --abort && unchanged "$before" "$(field web epoch)" || return 1
	fi
	if grep -q '"committed": true' /run/multikernel/web.upgrade 2>/dev/null; then
		finished=$((finished + 1))
		fails 'taken over already' mkctl upgrade web --abort || return 1
	fi
	upgrade --ready 'count: 3 ' && goes_on web || return 1
	after=$(id web)
	unchanged "$after" 1 && [ "$(mkctl ps | grep -c 'web')" = 1 ] &&
		runs_on web 2
}

killed_often() {
	finished=0
	all=$(./interrupt count mkctl upgrade web --kernel "$kernel" --timeout 120 \
		--ready 'count: 3 ' | tail -n 1)
	last=$(./interrupt from 0xb94e count mkctl upgrade web --kernel "$kernel" --timeout 120 \
		--ready 'count: 3 ' | tail -n 1)
	echo "$all calls, $last from the exchange of names on"
	[ "$last" -gt 20 ] && [ "$all" -gt "$last" ] || return 1
	for n in $(seq "$kills"); do
		kill_once "$n" '' $((n * all / (kills + 1))) || return 1
		kill_once "$n" 'from 0xb94e' $((n * last / (kills + 1))) || return 1
	done
	echo "$finished had to be finished"
	# Otherwise this would show nothing.
	[ "$finished" -ge $((kills / 2)) ]
}

upgraded_often() {
	for n in $(seq "$upgrades"); do
		upgrade --ready 'count: 3 ' && goes_on web || return 1
		mkctl ps
		runs_on web 2 || return 1
	done
	# Nothing but the one, and as much in the pool.
	unchanged "$(id web)" 1
}

mkctl pool grow 448M >/dev/null
workload_initrd
ledger >"$work/before"

# --- CPUs for a running spawn ------------------------------------------------

mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --memory 96M --cpus 2 \
	--later-cpus 3-5 --name web >/dev/null
check "a spawn is told of CPUs that it does not have" ready web "$work/log"
check "it runs on its own" says_that web "nproc; cat $cpu/present" "1 0-3"
check "it does not start one that it was not given" not told web 60 "echo 1 >$cpu/cpu1/online"
check "... of which it learns why" grep -q "Operation not permitted" "$work/told"
check "... and the host has that CPU" host_has 3
check "a call of its own does not change that" not told web 60 "echo 1 >$cpu/cpu3/online"
check "it is given one" mkctl cpu add web 4
check "it runs on that" says_that web "nproc; cat $cpu/online" "2 0,2"
check "a process that is pinned there runs there" pinned web 2
check "the host shows whose it is" has_cpus web 2,4
check "the host does not start it" not sh -c "echo 1 2>/dev/null >$cpu/cpu4/online"
check "messages go to it" mkctl ping web --cpu 2 --flood -q --count 200 --timeout 60000
check "giving it again changes nothing" mkctl cpu add web 4
check "the others are given at once" mkctl cpu add web 5,3
check "it runs on all" says_that web nproc 4
check "one of them is pinned" pinned web 1
check "it goes off and on line" told web 60 "echo 0 >$cpu/cpu2/online; echo 1 >$cpu/cpu2/online"
check "CPU 0 cannot be given" fails "CPU 0" mkctl cpu add web 0
check "nor one that its tables do not have" fails "not told of that" mkctl cpu add web 1
check "a forced stop takes them back" mkctl kill web
check "its next life begins with all" sh -c "mkctl start web && mkctl logs web \
	--until 'spawn: ready' --timeout 120 >$work/log"
check "it has them" says_that web nproc 4
mkctl rm --force web >/dev/null
check "the ledger is what it was" same "$work/before"

mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --memory 96M --cpus 2 \
	--later-cpus 3 --name web --append 'spawn.run=/bin/true' >/dev/null
ready web "$work/log"
mkctl cpu add web 3 >/dev/null
check "a panic with an added CPU is one" sh -c \
	"echo 'echo c >/proc/sysrq-trigger' | mkctl console web --linger 100 >/dev/null 2>&1; true"
check "it has crashed" wait_for 60 is web crashed panic
mkctl dump web "$work/core" >"$work/dumped" 2>&1
rm -f "$work/core"
check "its dump has the registers of both CPUs" grep -q 'registers of 2 of 2 CPUs' "$work/dumped"
mkctl rm web >/dev/null
mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --memory 96M --cpus 2 \
	--later-cpus 3 --name web --hang-timeout 5 >/dev/null
ready web "$work/log"
mkctl cpu add web 3 >/dev/null
echo 'mount -t debugfs none /sys/kernel/debug
	taskset 2 sh -c "echo spin >/sys/kernel/debug/multikernel/crash"' |
	mkctl console web --linger 100 >/dev/null 2>&1
check "an added CPU that takes no interrupts is noticed" wait_for 60 is web crashed hung
check "without --later-cpus nothing can be added to one that runs" sh -c \
	"mkctl load web --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz && mkctl start web &&
	! mkctl cpu add web 4"
mkctl kill web >/dev/null
check "but to one that does not" mkctl cpu add web 4
check "... which has it" has_cpus web 2-4
mkctl create other --cpus 5 --memory 32M >/dev/null
mkctl unload web >/dev/null 2>&1
check "CPUs are moved from it to another" mkctl cpu add other 3-4 --from web
check "... which has them" has_cpus other 5,3-4
check "one stays" fails "none left" mkctl cpu add other 2 --from web
mkctl rm other >/dev/null
mkctl rm web >/dev/null
check "the ledger is what it was" same "$work/before"

# --- One upgrade -------------------------------------------------------------

run_workload web 2-3 >/dev/null
old=$(id web)
check "a spawn counts" goes_on web
check "it is upgraded" upgrade --spare-cpu 5 --ready 'count: 3 '
check "another instance has the name" not [ "$(id web)" = "$old" ]
check "with as many CPUs" has_cpus web 5,3
check "which it runs on" runs_on web 2
check "its workload counts" goes_on web
check "its other CPU is the host's" host_has 2
check "a second time, as JSON" sh -c "mkctl upgrade web --kernel $kernel --json \
	--ready 'count: 3 ' --timeout 120 >$work/json"
check "... with the times of all steps" awk '/"answers":[0-9.]*,"committed":[0-9.]*,"cpus"/ &&
	/"removed"/ && /"started"/ && /"stopped"/ && /"up"/ { found = 1 } END { exit !found }' \
	"$work/json"

# --- New kernels that do not come up -----------------------------------------

old=$(id web)
epoch=$(field web epoch)
ledger >"$work/running"
check "one that panics is an error" fails "crashed (panic): VFS: Unable to mount root" \
	upgrade --append 'rdinit=/none root=/dev/none'
check "... which changes nothing" unchanged "$old" "$epoch"
check "... nor in the ledger" same "$work/running"
check "the old one goes on" goes_on web
check "... and has lost nothing" lost_nothing web
check "one that is not up in time is an error" fails "not up within 5 s: the text" \
	mkctl upgrade web --kernel "$kernel" --timeout 5 --ready 'never said'
check "one for which a command says so too" fails "not up within 5 s: the command" \
	mkctl upgrade web --kernel "$kernel" --timeout 5 --ready-command false
check "... which changes nothing" unchanged "$old" "$epoch"
check "a file that is no kernel is an error" fails "cannot be used as a kernel" \
	mkctl upgrade web --kernel ./ktap.sh
check "no spare CPU is an error" sh -c "mkctl create hog --cpus 1,2,4 --memory 32M >/dev/null ||
	mkctl create hog --cpus 1,2,5 --memory 32M >/dev/null
	mkctl ps
	mkctl upgrade web --kernel $kernel 2>&1 | grep 'no CPU to spare'"
mkctl rm hog >/dev/null
check "no memory is an error" fails "so much memory" upgrade --memory 8G
check "a signal undoes it" interrupted_upgrade
check "... which changes nothing" unchanged "$old" "$epoch"
check "... nor in the ledger" same "$work/running"
check "the old one goes on" goes_on web
check "... and has lost nothing" lost_nothing web

# --- mkctl is killed ---------------------------------------------------------

check "killed at any moment, the next one goes on from there" killed_often
check "there is one instance, and it counts" goes_on web

# --- What follows the name ---------------------------------------------------

mkctl arena create data 2M >/dev/null
mkctl arena grant data web
mkctl create peer --cpus 1 --memory 32M >/dev/null
mkctl link web peer >/dev/null
check "with an arena, and a link, it is upgraded" upgrade --ready 'count: 3 '
check "the arena is granted to it" sh -c "mkctl arena ls | grep -q 'data .* web\$'"
check "the link is its own" sh -c "mkctl inspect peer | grep '^link  *to web,'"
mkctl rm peer >/dev/null
mkctl rm --force web >/dev/null
check "both go with it" not sh -c "mkctl arena ls | grep -q 'data .* web'"
mkctl arena rm data >/dev/null
mkctl run --kernel "$kernel" --initrd "$work/workload.cpio.gz" --append spawn.run=/workload \
	--cpus 2-3 --memory 96M --name web --restart always >"$work/supervisor" 2>&1 &
supervisor=$!
check "a supervised one counts" wait_for 60 reached web 3
check "it is upgraded" upgrade --ready 'count: 3 '
check "its supervisor turns to the new one" wait_for 20 \
	grep -q "was upgraded, and is id $(id web)" "$work/supervisor"
echo 'echo c >/proc/sysrq-trigger' | mkctl console web --linger 100 >/dev/null 2>&1
check "which is started again when it panics" wait_for 60 epoch_is web 2
check "... with its CPUs" wait_for 60 runs_on web 2
kill -TERM "$supervisor"
check "and stopped with its supervisor" wait "$supervisor"
mkctl rm web >/dev/null
check "the ledger is what it was" same "$work/before"

run_workload web 2-3 >/dev/null

# --- Many --------------------------------------------------------------------

check "$upgrades upgrades in a row" upgraded_often
mkctl rm --force web >/dev/null
check "the ledger is what it was" same "$work/before"

finish
