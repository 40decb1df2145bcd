# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC2317 # called by those who source it
#
# What the scripts beside this file share: results in KTAP, and questions to
# mkctl and the host. Sourced, with the number of tests as argument.
#
# A test says what it expects by "check DESCRIPTION COMMAND...": passed if the
# command succeeds; what it printed is shown if not.

work=$(mktemp -d)
name=${0##*/}
number=0
failed=0

plan() {
	echo "TAP version 13"
	echo "1..$1"
}

skip_all() {
	echo "TAP version 13"
	echo "1..0 # SKIP $*"
	exit 4
}

comment() {
	sed 's/^/# /'
}

check() {
	description=$1
	shift
	number=$((number + 1))
	if "$@" >"$work/check" 2>&1; then
		echo "ok $number $description"
	else
		# Before the result, as readers of KTAP expect it.
		echo "$*" | comment
		tail -n 30 "$work/check" | comment
		echo "not ok $number $description"
		failed=$((failed + 1))
	fi
}

finish() {
	rm -rf "$work"
	[ "$failed" = 0 ]
	exit
}

# Ends a test in a kernel that was booted by kexec in the middle of it: what ran
# the test is gone, so the line for which the reader of the output waits is
# written here (see scripts/multikernel/check).
finish_elsewhere() {
	printf '\n@@ end %s %d\n' "$name" "$failed"
	exit "$failed"
}

# Who owns what, and which CPUs the host runs on.
ledger() {
	cat /sys/kernel/debug/multikernel/ledger
	echo "online $(cat /sys/devices/system/cpu/online)"
	mkctl ps
}

# same FILE: the ledger is what it was when FILE was written.
same() {
	ledger >"$work/ledger"
	diff "$1" "$work/ledger"
}

# value FILE WHAT: what the last line "spawn: WHAT: ..." in FILE says.
value() {
	tr -d '\r' <"$1" | sed -n "s/.*spawn: $2: //p" | tail -n 1
}

# told NAME SECONDS COMMAND: typed into the spawn's shell; the command's status,
# and what it and those before it printed in $work/told.
mark=0
told() {
	mark=$((mark + 1))
	echo "$3; echo ma''rk $mark: \$?" | mkctl console "$1" --linger 100 >/dev/null 2>&1
	mkctl logs "$1" --until "mark $mark: " --timeout "$2" | tr -d '\r' >"$work/told"
	tail -n 15 "$work/told"
	# What was printed last may be the prompt.
	echo
	grep -q "^mark $mark: 0\$" "$work/told"
}

# spawn_initrd FILE...: the spawn's user space, and these files of the host at its
# root, as $work/spawn.cpio.gz.
spawn_initrd() {
	mkdir -p "$work/root"
	cp "$@" "$work/root"
	(cd "$work/root" && for file; do echo "${file##*/}"; done | cpio -o -H newc | gzip) \
		>"$work/more" 2>/dev/null
	cat /boot/spawn.cpio.gz "$work/more" >"$work/spawn.cpio.gz"
}

# fails TEXT COMMAND...: with these words.
fails() {
	text=$1
	shift
	"$@" >"$work/said" 2>&1 && return 1
	cat "$work/said"
	grep -q "$text" "$work/said"
}

# field NAME KEY: a value of "mkctl inspect --json", numbers and strings.
field() {
	mkctl inspect "$1" --json |
		sed -n "s/^ *\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" |
		head -n 1
}

# is NAME STATE [REASON]
is() {
	mkctl ps | awk -v name="$1" -v state="$2" -v reason="${3:-}" '
		$2 == name { print; found = $3 == state && (reason == "" || $4 == reason) }
		END { exit !found }'
}

# ready NAME FILE: waits until the spawn's user space is up; FILE gets its log.
ready() {
	mkctl logs "$1" --until 'spawn: ready' --timeout 120 >"$2"
}

# listed CPU: whether the host's /proc/cpuinfo has it.
listed() {
	grep -q "^processor[[:space:]]*: $1\$" /proc/cpuinfo
}

not() {
	! "$@"
}

# spawn_has FILE CPUS MEGABYTES: what the spawn found is what was lent.
spawn_has() {
	memory=$(value "$1" memory)
	memory=${memory% kB}
	echo "cpus $(value "$1" cpus), memory $memory kB, clock $(value "$1" clock)"
	# The kernel's own part, and what the tables take, are not in MemTotal.
	[ "$(value "$1" cpus)" = "$2" ] &&
		[ "${memory:-0}" -gt $(($3 * 1024 * 3 / 4)) ] &&
		[ "$memory" -le $((($3 + 1) * 1024)) ] &&
		value "$1" clock | awk '{ exit !($1 > 0 && $3 > $1) }'
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
	deadline=$(($(cut -d. -f1 /proc/uptime) + $1))
	shift
	until "$@"; do
		[ "$(cut -d. -f1 /proc/uptime)" -lt "$deadline" ] || return 1
		usleep 100000
	done
}

# ask NAME COMMAND: what a command prints in the spawn's shell. The quotes tell
# the answer from the question, which the terminal echoes; the last answer
# counts, as mkctl shows the end of what came before too.
ask() {
	echo "echo be''gin; $2; echo e''nd" | mkctl console "$1" --linger 3000 | tr -d '\r' |
		awk '/^begin$/ { answer = ""; on = 1; next }
		     /^end$/ { on = 0 }
		     on { answer = answer $0 "\n" }
		     END { printf "%s", answer }'
}

# counter NAME KEY: of the host's link to it, or in a spawn to the host.
counter() {
	awk -v id="$(field "$1" id)" -v key="$2" '
		$1 == id { for (i = 2; i < NF; i++) if ($i == key) print $(i + 1) }' \
		/sys/kernel/debug/multikernel/links
}

# for_ever FILE COMMAND...: in the background, until a signal; $endless is its process.
for_ever() {
	file=$1
	shift
	"$@" --flood -q --count 1000000000 --timeout 60000 >"$file" 2>&1 &
	endless=$!
}

# ends_well FILE: the endless one has had all answered until now.
ends_well() {
	kill -TERM "$endless"
	wait "$endless"
	status=$?
	cat "$1"
	[ "$status" = 0 ]
}
