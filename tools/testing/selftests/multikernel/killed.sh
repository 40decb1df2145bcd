#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# mkctl is killed by SIGKILL at a random moment of each of its verbs, many
# times. Whatever it had done by then, the next call goes on from there, and
# when that has cleaned up, the ledger is what it was.
#
# SEED=N has the same moments again, as far as the machine is as fast.
#
# vm: CPUS=4 MEM=2G TIMEOUT=900
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

times=${TIMES:-12}
seed=${SEED:-$(awk '{ print int($1 * 100) }' /proc/uptime)}
verbs="create load start stop kill unload rm run grow shrink"
plan $((1 + 2 * $(echo "$verbs" | wc -w)))
echo "# SEED=$seed"

# Random numbers below 1, one a line.
awk -v seed="$seed" 'BEGIN { srand(seed); for (i = 0; i < 10000; i++) print rand() }' \
	>"$work/random"
exec 4<"$work/random"

milliseconds() {
	awk '{ print int($1 * 1000) }' /proc/uptime
}

# Memory in the pool, in KiB.
pool_size() {
	awk '$1 == "memory" { kb += $3 } END { print kb + 0 }' /sys/kernel/debug/multikernel/ledger
}

# Puts the words of a verb into $words.
words_of() {
	kernel="--kernel /boot/vmlinux --initrd /boot/spawn.cpio.gz"
	case $1 in
	create) words="create killed --cpus 2-3 --memory 64M" ;;
	load) words="load killed $kernel" ;;
	stop) words="stop killed --timeout 1" ;;
	start | kill | unload | rm) words="$1 killed" ;;
	run) words="run --name killed --cpus 2-3 --memory 64M $kernel" ;;
	grow) words="pool grow 32M" ;;
	shrink) words="pool shrink 32M" ;;
	esac
}

verb() {
	words_of "$1"
	# shellcheck disable=SC2086 # several words
	mkctl $words >"$work/verb" 2>&1 || {
		cat "$work/verb"
		return 1
	}
}

# Brings about what a verb needs.
prepare() {
	case $1 in
	load | rm) verb create ;;
	start | unload) verb create && verb load ;;
	stop | kill) verb create && verb load && verb start ;;
	shrink) verb grow ;;
	esac
}

exists() {
	mkctl ps | awk '$2 == "killed" { found = 1 } END { exit !found }'
}

# Whatever is there goes at once, by the ordinary verbs.
clean_up() {
	if exists; then
		mkctl rm --force killed || return 1
	fi
	case $verb in
	grow | shrink)
		if [ "$(pool_size)" != "$whole" ]; then
			mkctl pool shrink 32M >/dev/null || return 1
		fi
		# Which memory is in the pool need not be what it was.
		[ "$(pool_size)" = "$whole" ]
		;;
	*)
		same "$work/before"
		;;
	esac
}

# Or it is used: whatever was done already, the rest can be done.
go_on() {
	exists || verb create || return 1
	is killed running >/dev/null && return
	is killed loaded >/dev/null || verb load || return 1
	verb start && is killed running
}

# One undisturbed run says how long the verb takes here, in milliseconds.
measure() {
	prepare "$1" || return 1
	from=$(milliseconds)
	verb "$1" || return 1
	took=$(($(milliseconds) - from))
	clean_up
}

kill_at() {
	prepare "$1" || return 1
	words_of "$1"
	# shellcheck disable=SC2086 # several words
	mkctl $words >"$work/verb" 2>&1 &
	pid=$!
	usleep $(($2 * 1000))
	kill -9 "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	status=$?
	echo "'mkctl $words' after $2 of about $took ms: status $status: $(cat "$work/verb")"
	# All that a killed process was doing in the kernel has come to its end.
	if [ "$status" = 137 ]; then
		killed=$((killed + 1))
	elif [ "$2" -gt 4 ]; then
		# It takes less than when it was measured.
		took=$2
	fi
	if [ $(($3 % 2)) = 0 ]; then
		go_on || return 1
	fi
	clean_up
}

kills() {
	killed=0
	for time in $(seq "$times"); do
		read -r fraction <&4
		at=$(awk -v took="$took" -v part="$fraction" 'BEGIN { print int(took * part) }')
		kill_at "$1" "$at" "$time" || return 1
	done
	echo "$killed of $times were killed before their end"
	# Otherwise this would show nothing.
	[ "$killed" -ge $((times / 3)) ]
}

mkctl pool grow 64M >/dev/null
whole=$(pool_size)
for verb in $verbs; do
	took=0
	ledger >"$work/before"
	measure "$verb" >"$work/measure" 2>&1
	check "$verb works undisturbed" [ $? = 0 ]
	check "$verb: killed $times times within $took ms" kills "$verb"
done
mkctl pool shrink 64M >/dev/null
check "nothing is left in the pool" [ "$(pool_size)" = 0 ]
finish
