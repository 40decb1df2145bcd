#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A key-value server whose kernel crashes: Redis as Debian has it, in a spawn, its
# append-only file in ext4 on an arena that the spawn's kernel finds as persistent
# memory. A client on the host writes all the time over sockets. The spawn's kernel
# panics, dereferences NULL or is stopped by force at random instants, and is
# started again; no write that was acknowledged may be lost, changed or doubled.
# Then the server moves to another kernel by its own persistence.
#
# KV_SEED in the environment repeats the instants of another run, as far as they
# follow from it.
#
# vm: CPUS=4 MEM=2300M TIMEOUT=1500 BOOT="bzImage vmlinux kv.cpio.gz mkkv"
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

[ -f /boot/kv.cpio.gz ] || skip_all "there is no /boot/kv.cpio.gz"
[ -x /usr/bin/socat ] || skip_all "there is no socat"
PATH=$PATH:/boot
plan 31

crashes=6
kills=3
seed=${KV_SEED:-$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}
echo "# seed $seed"

# random BELOW: follows from the seed and how often it was asked.
random() {
	seed=$(((seed * 1103515245 + 12345) % 2147483648))
	drawn=$((seed / 65536 % $1))
}

# kv NAME WORD: has the server in a spawn start or stop, or say what it does.
kv() {
	echo "$2" | socat -T 180 -t 180 - "VSOCK-CONNECT:$(field "$1" id):1026" >"$work/kv" 2>&1
	cat "$work/kv"
	[ "$(tail -n 1 "$work/kv")" = ok ]
}

kv_says() {
	kv "$1" status && grep -qx "$2" "$work/kv"
}

# client ARGUMENT...: in the background, until a signal. Each has keys of its own.
client() {
	random 2
	mkkv --json --timeout 240 --seed "$seed" "$@" >"$work/report" 2>"$work/client" &
	client=$!
}

# interrupted N: so many interruptions have come and gone.
interrupted() {
	[ "$(grep -c 'mkkv: interruption' "$work/client")" -ge "$1" ]
}

# client_ends STATUS: it reads back everything, and reports.
client_ends() {
	kill -TERM "$client"
	wait "$client"
	status=$?
	cat "$work/client" "$work/report"
	[ "$status" = "$1" ]
}

# reported KEY: a number of the report.
reported() {
	sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" "$work/report"
}

is_zero() {
	[ "$(reported "$1")" = 0 ]
}

writing() {
	wait_for 120 grep -q 'first write is acknowledged' "$work/client"
}

# spawn NAME CPU KERNEL WORDS [ARGUMENT...]: with the arena of that name, and words
# for its command line.
spawn() {
	one=$1 cpu=$2 kernel=$3 words=$4
	shift 4
	mkctl run --kernel "$kernel" --initrd /boot/kv.cpio.gz --memory 160M --cpus "$cpu" \
		--append "spawn.run=/usr/bin/kv oops=panic $words" --name "$one" "$@"
}

supervised() {
	spawn kv 2 /boot/vmlinux "" --pmem data --restart always >"$work/supervisor" 2>&1 &
	supervisor=$!
	wait_for 180 kv_says kv running || {
		cat "$work/supervisor"
		return 1
	}
}

# Under load, at no particular moment of what the server and its kernel do.
at_random() {
	random "$1"
	usleep $((drawn * 1000))
}

# fault KIND: written into the spawn's debugfs, over its console.
fault() {
	echo "mkdir -p /d; mount -t debugfs none /d; echo $1 >/d/multikernel/crash" |
		mkctl console kv --linger 100 >/dev/null 2>&1
}

# A life of ten seconds has the supervisor start again without a longer pause.
crash_rounds() {
	round=0
	while [ "$round" -lt "$crashes" ]; do
		round=$((round + 1))
		random 2
		kind=panic
		[ "$drawn" = 0 ] || kind=null
		usleep 9000000
		at_random 3000
		fault "$kind"
		wait_for 240 interrupted "$round" || return 1
	done
	cat "$work/supervisor"
	# And none but those.
	[ "$(grep -c 'crashed (panic)' "$work/supervisor")" = "$crashes" ]
}

# By force while it is at work, and every other time while it recovers from that.
kill_rounds() {
	round=0
	while [ "$round" -lt "$kills" ]; do
		round=$((round + 1))
		at_random 3000
		mkctl kill kv && mkctl start kv || return 1
		if [ $((round % 2)) = 0 ]; then
			at_random 2500
			mkctl kill kv && mkctl start kv || return 1
		fi
		wait_for 240 interrupted $((crashes + round)) && wait_for 240 kv_says kv running ||
			return 1
	done
}

# With acknowledgements that do not wait for the arena, a crash loses writes, and
# the client says so.
careless() {
	spawn careless 3 /boot/vmlinux kv.fsync=no --pmem other &&
		wait_for 180 kv_says careless running || return 1
	client careless
	writing && usleep 1000000 && mkctl kill careless && mkctl start careless &&
		wait_for 120 interrupted 1
	client_ends 1 && [ "$(reported lost)" -gt 0 ]
}

# broken WHAT KEY: an acknowledged write is tampered with.
broken() {
	random 2
	mkkv --json --timeout 120 --seed "$seed" --seconds 5 --break "$1" kv >"$work/report"
	status=$?
	cat "$work/report"
	[ "$status" = 1 ] && [ "$(reported "$2")" = 1 ]
}

# The new kernel is up before the old one lets go.
moved() {
	kv "kv" stop && kv next start && wait_for 120 interrupted 1
}

exec 3>&1
figures() {
	sed "s/^/# $1: /" "$work/report" >&3
}

mkctl pool grow 512M >/dev/null
ledger >"$work/before"

check "an arena that there is not is refused" fails "no such arena" \
	spawn kv 2 /boot/vmlinux "" --pmem data
check "nothing of that is left" not is kv loaded
check "an arena" mkctl arena create data 128M
check "an arena that is named twice is refused" fails "named twice" \
	spawn kv 2 /boot/vmlinux "" --pmem data --pmem data
check "a spawn with a server" supervised
[ "$failed" = 0 ] || finish
check "its file system is on the arena" told kv 60 "grep '^/dev/pmem0 /data ext4 ' /proc/mounts"
check "the arena is the spawn's as long as it runs" fails "granted to an instance that runs" \
	mkctl arena rm data
client kv
check "a client writes" writing
check "the kernel crashes and is started again, $crashes times" crash_rounds
check "the journal was replayed" told kv 60 "dmesg | grep 'EXT4-fs (pmem0): recovery complete'"
check "it is stopped by force, $kills times" kill_rounds
check "all that was written is read back" client_ends 0
figures crashes
check "no acknowledged write is lost" is_zero lost
check "nor changed" is_zero changed
check "nor doubled" is_zero doubled

check "a write that is lost would be seen" broken lose lost
check "one that is changed" broken change changed
check "one that is doubled" broken double doubled
mkctl arena create other 64M
check "so would a server that acknowledges too early" careless
mkctl rm --force careless
mkctl arena rm other

check "another kernel is up beside the first" sh -c "
	mkctl run --kernel /boot/bzImage --initrd /boot/kv.cpio.gz --memory 160M --cpus 3 \
		--append 'spawn.run=/usr/bin/kv kv.wait' --name next --pmem data"
check "and has not touched the arena" wait_for 180 kv_says next stopped
client kv next
writing
check "the server moves to it" moved
check "the first one has nothing of the arena any more" kv_says kv stopped
check "it is removed" mkctl rm --force kv
check "all that was written is read back from the other" client_ends 0
figures move
check "nothing is lost" is_zero lost
check "the server stops" kv next stop
check "the file system is whole" told next 120 "/usr/bin/e2fsck -fn /dev/pmem0"
check "the instance is removed" mkctl rm --force next
check "and the arena" mkctl arena rm data
check "everything is back" same "$work/before"
wait "$supervisor"
mkctl pool shrink 512M >/dev/null
finish
