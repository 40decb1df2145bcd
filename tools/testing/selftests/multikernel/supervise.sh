#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Who looks after an instance: events, a stop with a deadline, restarts by
# policy, and what is left to read of a spawn that panicked.
#
# vm: CPUS=4 MEM=2G TIMEOUT=600
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 50

run() {
	mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --memory 128M "$@"
}

# in_spawn NAME COMMAND: typed into its shell, without waiting for an answer.
in_spawn() {
	echo "$2" | mkctl console "$1" --linger 200 >/dev/null 2>&1
}

# says FILE TEXT: waits until the text is in the file.
says() {
	wait_for 60 grep -q -- "$2" "$1" || {
		cat "$1"
		return 1
	}
}

epoch_is() {
	[ "$(field "$1" epoch)" = "$2" ]
}

# started NAME N: its Nth life is up, as far as its user space.
started() {
	wait_for 60 epoch_is "$1" "$2" && ready "$1" "$work/log"
}

# ended PROCESS: also one that nobody has waited for yet.
ended() {
	[ ! -e "/proc/$1" ] || grep -q ') Z ' "/proc/$1/stat"
}

# An events fd among the files of a process.
watches() {
	find "/proc/$1/fd/" -exec readlink {} \; | grep -q '^anon_inode:'
}

# supervised POLICY [ARGUMENT...]: in the background; $supervisor is its process.
supervised() {
	policy=$1
	shift
	# What the one before said is gone before this one begins.
	: >"$work/said"
	# Not by run: the process has to be mkctl itself, which is sent signals.
	mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz --memory 128M --cpus 2-3 \
		--name kept --restart "$policy" "$@" >"$work/said" 2>&1 &
	supervisor=$!
	says "$work/said" 'started instance "kept", id' && ready kept "$work/log"
}

# ends STATUS: the supervisor ends by itself, with that status.
ends() {
	wait_for 60 ended "$supervisor" || return 1
	wait "$supervisor"
	status=$?
	cat "$work/said"
	[ "$status" = "$1" ]
}

in_order() {
	awk -v want="$2" 'NR > 1 { states = states " " $3 "/" $4 "/" $5 }
		END { print substr(states, 2); exit substr(states, 2) != want }' "$1"
}

mkctl pool grow 256M >/dev/null
ledger >"$work/before"

# --- Events ------------------------------------------------------------------

mkctl events >"$work/all" &
watcher=$!
check "events: the watcher is ready" says "$work/all" TIME
run --cpus 2-3 --name seen >/dev/null
mkctl events seen --timeout 200 >"$work/one" &
one=$!
mkctl events --json --count 2 --timeout 60 >"$work/json" &
json=$!
check "events: so is one of a single instance" says "$work/one" TIME
check "user space comes up" ready seen "$work/log"
# This one says nothing before the first event.
check "events: it watches" wait_for 60 watches "$json"
check "events: stop powers it off" mkctl stop seen --timeout 60
check "events: JSON ends after as many as asked for" wait "$json"
check "events: JSON has time, name, state, reason" sh -c \
	"grep -q '\"time\":\"20.*Z\"' $work/json &&
	grep '\"name\":\"seen\"' $work/json |
	grep '\"state\":\"stopped\"' | grep '\"reason\":\"poweroff\"' | grep '\"epoch\":1'"
mkctl rm seen >/dev/null
check "events: the single one ends when the instance is gone" wait "$one"
check "events: what it saw, in order" in_order "$work/one" \
	"stopping/-/1 stopped/poweroff/1 gone/poweroff/1"
# That one is another process, which may be told later.
check "events: all that happened, in order" wait_for 60 in_order "$work/all" \
	"ready/-/0 loaded/-/0 running/-/1 stopping/-/1 stopped/poweroff/1 gone/poweroff/1"
kill "$watcher"
check "events: too few by the timeout is a failure" not mkctl events --count 1 --timeout 1

# --- Stop with a deadline ----------------------------------------------------

# A poweroff that does nothing.
run --cpus 2-3 --name deaf >/dev/null
ready deaf "$work/log"
ask deaf 'printf "#!/bin/sh\n" >/sbin/poweroff; chmod 755 /sbin/poweroff; echo done' >"$work/deaf"
check "a spawn that ignores the request" grep -q "done" "$work/deaf"
check "stop --no-force leaves it running" not mkctl stop deaf --timeout 1 --no-force
check "it does" is deaf running
mkctl stop deaf --timeout 1 >"$work/said"
check "stop says that it was by force" grep -q 'did not end within 1 s: stopping it by force' \
	"$work/said"
check "it was" is deaf stopped forced
mkctl rm deaf >/dev/null

run --cpus 2-3 --name stock --no-guest >/dev/null
mkctl stop stock >"$work/said"
check "stop of a kernel without guest support is by force, at once" grep -q \
	'no guest support: stopping it by force' "$work/said"
mkctl rm stock >/dev/null

# --- A panic, and what is left of it -----------------------------------------

run --cpus 2-3 --name kept --hang-timeout never >/dev/null
ready kept "$work/log"
check "the bound for hangs is shown" [ "$(field kept hang_ms)" = never ]
in_spawn kept 'echo 60 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger'
check "a panic is noticed" wait_for 20 is kept crashed panic
check "ps has its message" sh -c 'mkctl ps | grep kept | grep "sysrq triggered crash"'
check "inspect has its message" sh -c \
	'mkctl inspect kept | grep "^message *sysrq triggered crash"'
check "inspect has it in JSON" [ "$(field kept message)" = "sysrq triggered crash" ]
check "logs has the last of the kernel log" sh -c \
	'mkctl logs kept | grep -q "Kernel panic - not syncing: sysrq triggered crash"'
check "dump" mkctl dump kept "$work/core"
mkctl dump kept "$work/core" >"$work/said"
check "dump: registers of both CPUs" grep -q 'registers of 2 of 2 CPUs' "$work/said"
check "dump: which kernel" grep -q "^kernel: $(uname -r), build id [0-9a-f]*, moved by 0x" \
	"$work/said"
check "dump: nothing is missing" not grep -q 'cannot\|searching\|without' "$work/said"
check "dump: which CPU panicked" grep -q 'panic on CPU [01] (gdb: thread [12]): sysrq trig' \
	"$work/said"
check "dump: an ELF core for x86-64" sh -c \
	"head -c 20 $work/core | od -An -tx1 | tr -d ' \n' | grep -q '^7f454c46020101.*04003e00$'"
check "dump: VMCOREINFO is in it" sh -c \
	"grep -a -q 'OSRELEASE=$(uname -r)' $work/core"
check "dump: zero pages take no room" [ "$(du -k "$work/core" | cut -f1)" -lt 100000 ]
check "dump: to a folder is refused" not mkctl dump kept "$work"
rm "$work/core"
mkctl start kept >/dev/null
ready kept "$work/log"
check "the bound for hangs stays" [ "$(field kept hang_ms)" = never ]
mkctl dump kept "$work/core" >"$work/said" 2>&1
check "dump of one that runs says so" grep -q 'changes while it is read' "$work/said"
rm "$work/core"
mkctl rm --force kept >/dev/null

# --- Restarts ----------------------------------------------------------------

check "on-failure: it runs" supervised on-failure --rm --hang-timeout 5
in_spawn kept 'echo c >/proc/sysrq-trigger'
check "on-failure: restarted after a panic" started kept 2
check "on-failure: the message is shown" grep -q \
	'crashed (panic), start 1: sysrq triggered crash' "$work/said"
in_spawn kept 'reboot -f'
check "on-failure: restarted after a reboot" started kept 3
in_spawn kept 'mount -t debugfs none /sys/kernel/debug;
	echo spin >/sys/kernel/debug/multikernel/crash'
check "on-failure: restarted after a hang" started kept 4
check "on-failure: it is said that it hung" grep -q 'crashed (hung), start 3$' "$work/said"
in_spawn kept 'poweroff -f'
check "on-failure: not after a power-off" ends 0
check "on-failure: with --rm everything is back" same "$work/before"

check "always: it runs" supervised always --restart-limit 2
in_spawn kept 'poweroff -f'
check "always: restarted after a power-off" started kept 2
mkctl kill kept >/dev/null
check "always: not after a kill by somebody else" ends 0
mkctl rm kept >/dev/null

check "a limit: it runs" supervised on-failure --restart-limit 0 --rm
in_spawn kept 'reboot -f'
check "a limit: reached" ends 1

check "a signal: it runs" supervised always --rm
kill -TERM "$supervisor"
check "a signal: stops the spawn in order" ends 0
check "a signal: it powered off" grep -q 'stopped instance "kept" (poweroff)' "$work/said"
check "everything is back" same "$work/before"
mkctl pool shrink 256M >/dev/null
finish
