#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A spawn writes at random to the memory of its link, all of it, while another
# spawn and the host talk. Those two lose nothing; who talks to the hostile one
# gets errors and never hangs; it can be killed, and its next life is clean.
#
# vm: CPUS=6 MEM=2G TIMEOUT=1200
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 57

rounds=1500

run() {
	mkctl run --kernel /boot/vmlinux --initrd "$work/spawn.cpio.gz" \
		--append spawn.run=/serve --memory 96M --hang-timeout never "$@"
}

# What the sibling and the host say to each other, both ways, until peace().
talk() {
	for_ever "$work/pings" mkctl ping sibling
	pings=$endless
	while :; do
		./port_test echo "$(field sibling id)" || break
		[ ! -e "$work/peace" ] || exit 0
	done >"$work/echo" 2>&1 &
	echoes=$!
	told sibling 60 '/mkctl ping --host --flood -q --count 1000000000 --timeout 60000 \
		>/tmp/pings & pings=$!'
}

# Nothing of it was lost.
peace() {
	touch "$work/peace"
	wait "$echoes"
	status=$?
	cat "$work/echo"
	rm "$work/peace"
	endless=$pings
	ends_well "$work/pings" || status=1
	told sibling 120 'kill $pings; wait $pings' || status=1
	return "$status"
}

# key NAME FILE: the value behind a name in the last line about the host.
key() {
	grep '^0 epoch' "$2" | tail -n 1 |
		awk -v key="$1" '{ for (i = 2; i < NF; i++) if ($i == key) print $(i + 1) }'
}

# Each message between the sibling and the host that was sent was received.
balanced() {
	told sibling 60 'cat /sys/kernel/debug/multikernel/links' || return 1
	cat /sys/kernel/debug/multikernel/links
	[ "$(key sent "$work/told")" = "$(counter sibling received)" ] &&
		[ "$(key received "$work/told")" = "$(counter sibling sent)" ] &&
		[ "$(key broken "$work/told")" = 0 ] && [ "$(counter sibling broken)" = 0 ]
}

# Nothing that the host's kernel would complain of.
no_splat() {
	dmesg | grep -E 'BUG:|WARNING:|Oops|protection fault|lockup|stall|hung task' && return 1
	return 0
}

# scribble AREA SEED: from both of its CPUs.
scribble() {
	told hostile 200 "taskset 1 sh -c \
		'echo $1 $2 $rounds >/sys/kernel/debug/multikernel/scribble' &
		taskset 2 sh -c 'echo $1 1$2 $rounds >/sys/kernel/debug/multikernel/scribble' &&
		wait \$!"
}

# Programs on the host go on asking the hostile spawn for all there is.
torment() {
	./port_test torment "$(field hostile id)" >"$work/torment" 2>&1 &
	tormented=$!
	wait_for 30 grep -q 'at it' "$work/torment"
}

# They get answers or errors, and end when they are told to.
spared() {
	kill -TERM "$tormented"
	wait "$tormented"
	status=$?
	cat "$work/torment"
	return "$status"
}

# Lanes in which it did wrong have been counted, and the log says so.
broken() {
	cat /sys/kernel/debug/multikernel/links
	[ "$(counter hostile broken)" -gt 0 ] &&
		dmesg | grep -q "link to $(field hostile id): .* is broken and not used any more"
}

# Clean, and it talks.
next_life() {
	mkctl start hostile && ready hostile "$work/log" || return 1
	cat /sys/kernel/debug/multikernel/links
	[ "$(counter hostile broken)" = 0 ] &&
		mkctl ping hostile --flood -q --count 200 --timeout 60000 --cpu 0 &&
		mkctl ping hostile --flood -q --count 200 --timeout 60000 --cpu 1 &&
		./port_test echo "$(field hostile id)" &&
		[ "$(counter hostile broken)" = 0 ]
}

# No more than half of the places for calls are for one kernel that does not answer.
crowd() {
	./port_test crowd "$(field hostile id)" >"$work/crowd" 2>&1 &
	crowd=$!
	wait_for 60 grep -q crowded "$work/crowd" &&
		mkctl ping sibling --count 20 --interval 0
	status=$?
	wait "$crowd" || status=1
	cat "$work/crowd"
	return "$status"
}

printf '#!/bin/sh\nmount -t debugfs none /sys/kernel/debug\n/port_test serve\n' >"$work/serve"
chmod 755 "$work/serve"
spawn_initrd /usr/bin/mkctl port_test "$work/serve"
mkctl pool grow 192M >/dev/null
ledger >"$work/before"
check "a spawn that will be hostile" run --cpus 2-3 --name hostile
check "a sibling" run --cpus 4-5 --name sibling
check "the one is up" ready hostile "$work/log"
check "the other is up" ready sibling "$work/log"
[ "$failed" = 0 ] || finish
check "callers of one that does not answer leave places to others" crowd

seed=7
for area in slots heads directory bells state data mine host all; do
	seed=$((seed + 4))
	talk >/dev/null
	check "$area: somebody talks to it" torment
	check "$area: it scribbles, seed $seed" scribble "$area" "$seed"
	check "$area: who talked to it did not hang" spared
	case $area in
	slots | heads | mine | all)
		check "$area: broken lanes are counted" broken ;;
	esac
	mkctl kill hostile >/dev/null 2>&1
	check "$area: it is killed, and its next life is clean" next_life
	check "$area: its sibling and the host lost nothing" peace
done
check "what was sent was received" balanced
check "the host's kernel has nothing to complain of" no_splat
mkctl rm --force hostile >/dev/null
mkctl rm --force sibling >/dev/null
check "everything is back" same "$work/before"
mkctl pool shrink 192M >/dev/null
finish
