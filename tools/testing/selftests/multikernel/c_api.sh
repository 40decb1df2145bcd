#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Modules in C talk over a link: multikernel_test.ko, loaded on the host and in a
# spawn, calls itself on the other side, and is unloaded while it is called.
# multikernel_session_test.ko hands a session over in both directions.
#
# vm: CPUS=4 MEM=2110M TIMEOUT=600
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

module=/boot/multikernel_test.ko
[ -f $module ] || skip_all "no $module"
plan 43

parameters=/sys/module/multikernel_test/parameters

run() {
	mkctl run --kernel /boot/vmlinux --initrd "$work/spawn.cpio.gz" --cpus 2-3 \
		--memory 96M --name modular --hang-timeout never
}

# host WHAT WORDS: has the host's module do something with the spawn's.
host() {
	echo "$(field modular id) $2" >"$parameters/$1"
}

# spawn WHAT WORDS: the other way round.
spawn() {
	told modular 120 "echo '0 $2' >$parameters/$1"
}

host_counted() {
	cat "$parameters/calls" "$parameters/messages"
	[ "$(cat "$parameters/$1")" = "$2" ]
}

spawn_counted() {
	told modular 60 "[ \"\$(cat $parameters/$1)\" = $2 ]"
}

# ends PROCESS FILE: it is told to, and has been answered and refused.
ends() {
	kill -TERM "$1"
	wait "$1"
	status=$?
	cat "$2"
	return "$status"
}

# The spawn's module goes and comes while the host calls it.
reload_in_spawn() {
	./port_test module "$(field modular id)" >"$work/calls" 2>&1 &
	caller=$!
	told modular 240 'status=0; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
		rmmod multikernel_test && insmod /multikernel_test.ko delay_us=200 &&
		usleep 30000 || status=1; done; [ $status = 0 ]' || {
		kill -TERM "$caller"
		return 1
	}
	ends "$caller" "$work/calls"
}

# The host's goes and comes while the spawn calls it.
reload_on_host() {
	told modular 60 '/port_test module host >/tmp/calls 2>&1 & caller=$!' || return 1
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
		rmmod multikernel_test && insmod "$module" delay_us=200 && usleep 30000 || return 1
	done
	told modular 60 'kill -TERM $caller; wait $caller; status=$?; cat /tmp/calls;
		[ $status = 0 ]'
}

sessions=/sys/module/multikernel_session_test/parameters

# host_does WHAT WORDS: has the host's module make a step with a session.
host_does() {
	echo "$2" >"$sessions/$1"
}

spawn_does() {
	told modular 120 "echo '$2' >$sessions/$1"
}

spawn_cannot() {
	! spawn_does "$1" "$2"
}

# The entries as "mkctl handover" sees them.
has_entries() {
	mkctl handover ls state >"$work/entries"
	cat "$work/entries"
	grep -q '^bytes *70000 *state$' "$work/entries" &&
		grep -q '^pages *65536 *records$' "$work/entries"
}

no_splat() {
	dmesg | grep -E 'BUG:|WARNING:|Oops|protection fault|lockup|stall|hung task' && return 1
	return 0
}

for name in multikernel_test multikernel_session_test; do
	cp "/boot/$name-spawn.ko" "$work/$name.ko"
done
spawn_initrd port_test "$work/multikernel_test.ko" "$work/multikernel_session_test.ko"
mkctl pool grow 100M >/dev/null
ledger >"$work/before"
check "a spawn" run
check "it is up" ready modular "$work/log"
[ "$failed" = 0 ] || finish
check "without the module the spawn refuses" fails 'errno 111' \
	./port_test refused "$(field modular id)"
check "the module on the host, which looks at what is refused" insmod "$module"
check "and in the spawn" told modular 60 'insmod /multikernel_test.ko'
check "the host calls" host call '-1 500 64'
check "CPU 1, as much as is answered" host call '1 200 256'
check "nothing at all" host call '0 50 0'
check "the spawn has counted" spawn_counted calls 750
check "the spawn calls" spawn call '-1 500 64'
check "and host CPU 1" spawn call '1 250 200'
check "the host has counted" host_counted calls 750
check "the handler's errno comes back" fails 'too long' host call '-1 1 257'
check "a CPU that it does not have" fails 'Invalid' host call '2 1 8'
check "a call that is too long" fails 'too long\|too large' host call '-1 1 1025'
check "the host sends" host send '-1 1000'
check "all came" wait_for 60 spawn_counted messages 1000
check "the spawn sends" spawn send '1 1000'
check "all of these came" wait_for 60 host_counted messages 1000
check "the spawn's module goes and comes while it is called" reload_in_spawn
check "so does the host's" reload_on_host
check "an arena for records" mkctl arena create plain 2M
check "and one for a session" mkctl arena create state 2M
check "the modules with sessions" insmod /boot/multikernel_session_test.ko
check "in the spawn too" told modular 60 'insmod /multikernel_session_test.ko'
check "the host's writes records to the arena" host_does arena plain
check "the spawn's was not granted it" spawn_cannot arena plain
check "it is granted it" mkctl arena grant plain modular
check "and writes there" spawn_does arena plain
check "the host's makes a session and offers it" host_does give 'state modular'
check "the spawn's looks at it, and leaves it" spawn_does look 'state 10000'
check "of which the host's hears" fails 'anceled' host_does given 10000
check "the entries are there" has_entries
check "it is removed" mkctl handover rm state
check "the next" host_does give 'state modular'
check "is waited for in vain by itself" fails 'timed out' host_does given 100
check "the spawn's takes it" spawn_does take 'state 10000'
check "of which the host's hears too" host_does given 10000
check "the spawn's makes one for the host" spawn_does give 'state -'
check "whose takes it" host_does take 'state 10000'
check "and the spawn's hears of it" spawn_does given 10000
check "the host's kernel has nothing to complain of" no_splat
rmmod multikernel_session_test
rmmod multikernel_test
mkctl rm --force modular >/dev/null
mkctl arena rm state
mkctl arena rm plain
check "everything is back" same "$work/before"
mkctl pool shrink 100M >/dev/null
finish
