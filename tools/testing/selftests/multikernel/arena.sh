#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Arenas: memory that the host and spawns use by plain loads and stores, that is
# kept when any of them ends, whichever way, and that nobody gets to whom it was
# not granted.
#
# vm: CPUS=4 MEM=2100M TIMEOUT=1500
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 52

rounds=10

# run NAME CPUS
run() {
	mkctl run --kernel /boot/vmlinux --initrd "$work/spawn.cpio.gz" --memory 96M \
		--cpus "$2" --name "$1" --hang-timeout never &&
		ready "$1" "$work/log"
}

# again NAME: another life.
again() {
	mkctl load "$1" --kernel /boot/vmlinux --initrd "$work/spawn.cpio.gz" &&
		mkctl start "$1" && ready "$1" "$work/log"
}

# listed_as TEXT: a line of "mkctl arena ls", with single blanks.
listed_as() {
	mkctl arena ls | tr -s ' ' >"$work/list"
	cat "$work/list"
	grep -q "$1" "$work/list"
}

passes_on() {
	echo "from the host" | mkctl arena write state --offset 4096 &&
		told one 120 '[ "$(/mkctl arena read state --offset 4096 --length 13)" = \
			"from the host" ]' &&
		told one 120 'echo "from the spawn" | /mkctl arena write state --offset 8k' &&
		mkctl arena read state --offset 8k --length 14 | grep -q '^from the spawn$'
}

# What one side stores at this moment, the other sees: a counter that goes back
# and forth between two spawns.
between_two() {
	told one 120 '/arena_test fill state 7' && told two 120 '/arena_test verify state 7' &&
		told two 120 '/arena_test fill state 8' &&
		told one 120 '/arena_test verify state 8' &&
		./arena_test verify state 8
}

# Whatever it has stored is in the arenas.
panics() {
	echo 'mkdir -p /d; mount -t debugfs none /d; echo panic >/d/multikernel/crash' |
		mkctl console one --linger 100 >/dev/null 2>&1
	wait_for 60 is one crashed panic
}

# Rounds in which a process writes as its kernel panics: "make soak" plays more.
check "kernels panic, and every word is there up to one place, $rounds times" \
	mksoak --rounds 0 --stamps "$rounds" --cpus 1-2 --sibling-cpu 3 --folder "$work/soak"
mkctl pool grow 256M >/dev/null
ledger >"$work/before"
spawn_initrd /usr/bin/mkctl arena_test

check "an arena is made" mkctl arena create state 16M
check "it is listed" listed_as ' 16M .* 0 state $'
check "the ledger has it" grep -q "16384 KiB .* arena [0-9]*$" /sys/kernel/debug/multikernel/ledger
check "and so has the pool" grep -q "16M in arenas" <<-end
	$(mkctl pool)
end
check "it is zero" ./arena_test verify state 0
check "a second of that name is refused" fails "arena of this name exists" \
	mkctl arena create state 2M
check "so is one that is too large" fails "in one piece" mkctl arena create big 1G
check "so is what is no arena" fails "no such arena" mkctl arena rm big
check "large pages are used" ./arena_test large state
check "what cannot be done with it" ./arena_test refused state
check "nor with one that is only to be read" ./arena_test refused state ro
check "the host stores" ./arena_test fill state 1
check "and finds it again" ./arena_test verify state 1

check "a spawn" run one 1-2
[ "$failed" = 0 ] || finish
check "has no arena that was not granted" told one 120 '/arena_test open state rw 13'
check "and none that there is not" told one 120 '/arena_test open nothing rw 2'
check "it is granted to be read" mkctl arena grant state one --read-only
check "that is listed" listed_as ' state one (read-only)$'
check "the spawn finds what the host stored" told one 120 '/arena_test verify state 1'
check "but cannot open it to be written to" told one 120 '/arena_test open state rw 13'
check "nor map it so" told one 120 '/arena_test refused state ro'
check "it is granted to be written to" mkctl arena grant state one
check "the spawn stores" told one 120 '/arena_test fill state 2'
check "and the host finds that" ./arena_test verify state 2
check "what cannot be done with it in the spawn" told one 120 '/arena_test refused state'
check "large pages are used there too" told one 120 '/arena_test large state'
check "scripts read and write it" passes_on
check "the right to write stays while it runs" fails "granted to an instance that runs" \
	mkctl arena grant state one --read-only
check "so does the grant" fails "granted to an instance that runs" \
	mkctl arena revoke state one
check "and the arena" fails "granted to an instance that runs" mkctl arena rm state
check "and how long it is" fails "granted to an instance that runs" \
	mkctl arena resize state 2M

check "another spawn" run two 3
check "has none either" told two 120 '/arena_test open state ro 13'
check "until it is granted" mkctl arena grant state two
check "two spawns and the host use one arena" between_two
check "a spawn is stopped by force" mkctl kill two
check "what it stored is there" ./arena_test verify state 8
check "it is removed, and its grant with it" mkctl rm two
check "that is listed too" listed_as ' state one$'
told one 120 '/arena_test fill state 9' >/dev/null
check "the other one powers off" mkctl stop one
check "what it stored is there as well" ./arena_test verify state 9
check "in its next life" again one
check "it finds that" told one 120 '/arena_test verify state 9'

told one 120 '/arena_test fill state 10' >/dev/null
check "its kernel panics" panics
check "what it stored is there" ./arena_test verify state 10

check "an arena is made shorter" mkctl arena resize state 8M
check "and longer again: what was taken away is zero" sh -c '
	mkctl arena resize state 16M &&
		[ "$(mkctl arena read state --offset 8M | tr -d "\\0" | wc -c)" = 0 ] &&
		mkctl arena resize state 24M &&
		[ "$(mkctl arena read state --offset 8M | tr -d "\\0" | wc -c)" = 0 ] &&
		[ "$(mkctl arena read state --length 8M | tr -d "\\0" | wc -c)" -gt 7000000 ]'
check "a grant is taken back" mkctl arena revoke state one
check "the instance is removed" mkctl rm one
check "the arena is removed" mkctl arena rm state
check "everything is back" same "$work/before"
mkctl pool shrink 256M >/dev/null
finish
