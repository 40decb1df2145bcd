#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The console that needs no hardware: commands go in, answers come out, and the
# log is there after a crash.
#
# vm: CPUS=2 MEM=1G TIMEOUT=300
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 10

answers() {
	answer=$(ask console "$1")
	echo "'$answer'"
	[ "$answer" = "$2" ]
}

# More than the ring holds: nothing hangs, and the end is there.
floods() {
	text='line $i of a long text, to fill the ring'
	ask console "i=0; while [ \$i -lt 3000 ]; do echo \"$text\"; i=\$((i + 1)); done" \
		>"$work/flood"
	tail -n 3 "$work/flood"
	tail -n 1 "$work/flood" | grep -q 'line 2999 '
}

mkctl pool grow 128M >/dev/null
ledger >"$work/before"
check "run" mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --cpus 1 --memory 128M \
	--name console
check "messages from the first line on" mkctl logs console --until 'Linux version' --timeout 60
check "user space comes up" ready console "$work/log"
check "the first line is there" grep -q '0.000000\] Linux version' "$work/log"
check "a command is answered" answers 'echo $((6 * 7))' 42
check "much output" floods
# Whatever user space says of what is to follow a panic.
echo 'echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger' |
	mkctl console --linger 2000 console >/dev/null 2>&1
check "a crash is noticed" wait_for 20 is console crashed panic
check "its last words are kept" mkctl logs console --until 'sysrq triggered crash' --timeout 5
mkctl start console >/dev/null
check "it comes up again" ready console "$work/log"
mkctl rm --force console
check "everything is back" same "$work/before"
mkctl pool shrink 128M >/dev/null
finish
