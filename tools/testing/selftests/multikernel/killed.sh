#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# mkctl is killed by SIGKILL at a random system call of each of its verbs, many
# times: before the call, or in the middle of it. Whatever it had done by then,
# the next call goes on from there, and when that has cleaned up, the ledger is
# what it was.
#
# SEED=N has the same moments again.
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

# Or it is used: whatever was done already, the rest can be done. An image that
# is there, but of which mkctl could not note any more what it is, has to be
# loaded again, as the error says.
go_on() {
	case $verb in
	grow | shrink)
		# Of what, and in how many pieces, the pool is after that is left open, so
		# that an instance may not find a piece that is large enough.
		return 0
		;;
	esac
	exists || verb create || return 1
	is killed running >/dev/null && return
	is killed loaded >/dev/null || verb load || return 1
	verb start || {
		grep -q "Load one with 'mkctl load killed'" "$work/verb" &&
			verb load && verb start
	} && is killed running
}

# One undisturbed run says of how many system calls the verb consists.
measure() {
	prepare "$1" || return 1
	words_of "$1"
	# shellcheck disable=SC2086 # several words
	calls=$(./interrupt count mkctl $words 2>&1 | tail -n 1)
	clean_up && [ "$calls" -gt 20 ]
}

# random N: a whole number from 1 to N.
random() {
	read -r fraction <&4
	awk -v most="$1" -v part="$fraction" 'BEGIN { print 1 + int(most * part) }'
}

kill_once() {
	prepare "$1" || return 1
	words_of "$1"
	at=$(random "$calls")
	if [ $(($2 % 3)) = 0 ]; then
		moment="before $at"
	else
		moment="within $at $(random 3000)"
	fi
	# shellcheck disable=SC2086 # several words
	./interrupt $moment mkctl $words >"$work/verb" 2>&1
	status=$?
	echo "'mkctl $words' $moment of $calls calls: status $status: $(cat "$work/verb")"
	# How often it looks for something is not always the same, and a late kill
	# finds it at its end.
	[ "$status" = 0 ] && killed=$((killed + 1))
	[ "$status" -lt 2 ] || return 1
	if [ $(($2 % 2)) = 0 ]; then
		go_on || return 1
	fi
	clean_up
}

kills() {
	killed=0
	for time in $(seq "$times"); do
		kill_once "$1" "$time" || return 1
	done
	echo "$killed of $times were killed before their end"
	# Otherwise this would show nothing.
	[ "$killed" -ge $((times / 2)) ]
}

mkctl pool grow 64M >/dev/null
whole=$(pool_size)
for verb in $verbs; do
	calls=0
	ledger >"$work/before"
	measure "$verb" >"$work/measure" 2>&1
	check "$verb works undisturbed" [ $? = 0 ]
	check "$verb: killed at $times of its system calls" kills "$verb"
done
mkctl pool shrink 64M >/dev/null
check "nothing is left in the pool" [ "$(pool_size)" = 0 ]
finish
