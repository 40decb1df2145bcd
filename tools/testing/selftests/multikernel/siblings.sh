#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Spawns that the host lets talk to each other: by calls and by ports, in both
# directions, three of them pairwise; one that ends in any way is noticed by the
# others and found again in its next life; what is revoked is over at once; one
# that does not answer holds up nobody.
#
# vm: CPUS=7 MEM=2G TIMEOUT=900
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 66

load() {
	mkctl load "$1" --kernel /boot/bzImage --initrd "$work/spawn.cpio.gz"
}

# up NAME: its kernel and its user space, and what tests need there.
up() {
	mkctl start "$1" --hang-timeout never && ready "$1" "$work/log" &&
		told "$1" 60 'mount -t debugfs none /sys/kernel/debug; PATH=$PATH:/'
}

# standing ONE OTHER STATE: how it stands with their link, as both show it.
standing() {
	mkctl inspect "$1" | grep "^link  *to $2, $3" &&
		mkctl inspect "$2" | grep "^link  *to $1, $3"
}

linked() {
	wait_for 60 standing "$1" "$2" up
}

# epoch ONE OTHER: of their link.
epoch() {
	mkctl inspect "$1" | sed -n "s/^link  *to $2, up, epoch //p"
}

# higher EPOCH ONE OTHER: there is a link, and it is another one.
higher() {
	linked "$2" "$3" && echo "epoch $(epoch "$2" "$3"), before $1" &&
		[ "$(epoch "$2" "$3")" -gt "$1" ]
}

# pings NAME PEER [COUNT]: a spawn calls another, and all is answered.
pings() {
	told "$1" 120 "mkctl ping $2 --flood -q --timeout 60000 --count ${3:-200}"
}

# serves NAME PEER: from now on, by ports.
serves() {
	told "$1" 60 "port_test serve $(field "$2" id) >/dev/null"
}

serves_no_more() {
	told "$1" 60 'killall port_test'
}

# port NAME CASE PEER: a program in a spawn and the server in another.
port() {
	told "$1" 300 "port_test $2 $(field "$3" id)"
}

# All of them call each other at the same time.
pairwise() {
	for pair in 'a b c' 'b a c' 'c a b'; do
		# shellcheck disable=SC2086 # several words
		set -- $pair
		told "$1" 60 "(mkctl ping $2 --flood -q --timeout 60000 --count 500 && \
			mkctl ping $3 --flood -q --timeout 60000 --count 500; \
			echo status \$?) >/tmp/all 2>&1 & true" || return 1
	done
	for spawn in a b c; do
		wait_for 180 told "$spawn" 60 'cat /tmp/all; grep -q "^status 0" /tmp/all' ||
			return 1
	done
}

# for_ever NAME PEER: a spawn calls another until that fails.
for_ever() {
	told "$1" 60 "mkctl ping $2 --flood -q --timeout 60000 --count 1000000000 \
		>/tmp/endless 2>&1 & endless=\$!"
	# It has begun.
	wait_for 60 told "$1" 60 "grep '^$(field "$2" id) epoch .* sent [1-9]' \
		/sys/kernel/debug/multikernel/links"
}

# hears NAME: it was told, in a call or before the next one, and did not wait
# until its time was over.
hears() {
	told "$1" 60 'wait $endless; cat /tmp/endless;
		grep -q -e "its kernel ended" -e "does not take part" /tmp/endless'
}

# reads NAME PEER: a program waits for a message of another spawn.
reads() {
	told "$1" 60 "(port_test end $(field "$2" id); echo status \$?) >/tmp/end 2>&1 & true" &&
		wait_for 60 told "$1" 60 'grep -q waiting /tmp/end'
}

read_ends() {
	wait_for 60 told "$1" 60 'cat /tmp/end; grep -q "^status 0" /tmp/end'
}

# The spawn has no link to that one: neither is it open nor in the list.
apart() {
	told "$1" 60 "mkctl ping $2 --count 1 2>&1 | grep 'no such instance'" &&
		told "$1" 60 "! grep '^$(field "$2" id) ' /sys/kernel/debug/multikernel/links"
}

uptime_ms() {
	awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime
}

# quick LIMIT COMMAND...: it takes no longer, in milliseconds.
quick() {
	limit=$1
	shift
	begin=$(uptime_ms)
	"$@" || return 1
	took=$(($(uptime_ms) - begin))
	echo "$took ms"
	[ "$took" -lt "$limit" ]
}

# Nobody answers there any more: its one CPU takes no interrupt.
hangs() {
	echo 'echo spin >/sys/kernel/debug/multikernel/crash' |
		mkctl console "$1" --linger 500 >/dev/null 2>&1
	wait_for 60 not mkctl ping "$1" --count 1 --timeout 500
}

kernel_bytes() {
	mkctl pool --json | sed -n 's/^ *"kernel_bytes": \([0-9]*\).*/\1/p'
}

# held BYTES: so much memory the subsystem holds.
held() {
	echo "$(kernel_bytes) bytes, expected $1"
	[ "$(kernel_bytes)" = "$1" ]
}

host_calls() {
	for spawn; do
		mkctl ping "$spawn" --flood -q --count 100 --timeout 60000 || return 1
	done
}

spawn_initrd /usr/bin/mkctl port_test
mkctl pool grow 320M >/dev/null
ledger >"$work/before"
bytes=$(kernel_bytes)

# --- Granted before they run -------------------------------------------------

mkctl create a --cpus 2-3 --memory 96M >/dev/null
mkctl create b --cpus 4 --memory 96M >/dev/null
check "not with itself" fails 'with itself' mkctl link a a
check "not with one that is not there" fails 'no such instance' mkctl link a nobody
check "nothing to revoke" fails 'are not linked' mkctl unlink a b
check "granted before they run" mkctl link a b
check "once only" fails 'are linked already' mkctl link b a
check "it is shown as down" standing a b down
load a >/dev/null && load b >/dev/null
check "one of them comes up" up a
check "one alone has no link" standing a b down
check "nor does it know of the other" \
	told a 60 "mkctl ping b --count 1 2>&1 | grep 'no such instance'"
check "the other one comes up" up b
check "there is a link" linked a b
check "JSON shows it" sh -c 'mkctl ps --json | grep -q "\"state\": \"up\""'
check "a calls b" pings a b
check "b calls a" pings b a
check "each of two CPUs" told b 120 \
	'mkctl ping a --flood -q --timeout 60000 --count 100 --cpu 0 && \
	 mkctl ping a --flood -q --timeout 60000 --count 100 --cpu 1'
check "no CPU that it does not have" told a 60 \
	"mkctl ping b --cpu 1 --count 1 2>&1 | grep 'it has no CPU 1'"
check "the host calls both" host_calls a b

# --- Ports -------------------------------------------------------------------

check "b serves a" serves b a
check "a program in a and one in b: messages of all lengths" port a echo b
check "closed and opened again at the other end" port a close b
check "b does no more" serves_no_more b
check "a serves b" serves a b
check "the other way round" port b echo a
check "a does no more" serves_no_more a

# --- Three, and one that cannot ----------------------------------------------

mkctl create c --cpus 5 --memory 96M >/dev/null
load c >/dev/null
check "a third one comes up" up c
check "not linked, it knows nobody" apart c a
check "linked while they run" mkctl link c a
check "and with the other" mkctl link b c
check "there is a link to the one" linked a c
check "and to the other" linked b c
check "all call each other at the same time" pairwise
mkctl create plain --cpus 6 --memory 32M >/dev/null
mkctl load plain --kernel /boot/bzImage --initrd "$work/spawn.cpio.gz" --no-guest >/dev/null
mkctl start plain >/dev/null
check "one without guest support can be linked" mkctl link plain a
check "and stays down" standing plain a down
mkctl rm --force plain >/dev/null
check "with it goes the grant" not sh -c 'mkctl inspect a | grep "^link .*plain"'

# --- The end of one ----------------------------------------------------------

before=$(epoch a b)
check "a calls b for ever" for_ever a b
check "b serves again" serves b a
check "a reads" reads a b
mkctl kill b >/dev/null
check "killed: the caller hears of it" hears a
check "killed: so does the reader" read_ends a
check "killed: the others talk" pings a c
check "killed: the link is down" wait_for 60 standing a b down
check "killed: so it is for the spawn" apart a b
check "its next life" up b
check "has another link" higher "$before" a b
check "by which they talk" pings a b
before=$(epoch a b)
for_ever a b >/dev/null
echo 'echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger' |
	mkctl console b --linger 500 >/dev/null 2>&1
check "panicked: the caller hears of it" hears a
check "its next life after that" up b
check "has another link again" higher "$before" a b
before=$(epoch a b)
for_ever a b >/dev/null
mkctl stop b --timeout 60 >/dev/null
check "powered off: the caller hears of it" hears a
check "its next life talks as well" up b
check "by another link" higher "$before" b a
check "and the host to all of them" host_calls a b c

# --- Revoked -----------------------------------------------------------------

for_ever a b >/dev/null
before=$(epoch a b)
check "revoked while they talk" mkctl unlink b a
check "the caller hears of it" hears a
check "neither knows the other" apart a b
check "nor the other way round" apart b a
check "granted again" mkctl link a b
check "there is another link" higher "$before" a b
check "they talk again" pings b a

# --- One that does not answer ------------------------------------------------

check "one hangs" hangs c
check "another one is killed as fast as ever" quick 2000 mkctl kill b
check "it is started again" up b
check "it talks to who answers" pings b a
check "from the one that hangs a grant is taken back all the same" \
	fails 'has not said that it knows' mkctl unlink a c
mkctl kill c >/dev/null
for spawn in a b c; do
	mkctl rm --force $spawn >/dev/null
done
check "no memory is held for links" wait_for 30 held "$bytes"
check "everything is back" same "$work/before"
mkctl pool shrink 320M >/dev/null
finish
