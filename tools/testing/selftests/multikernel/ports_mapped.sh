#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Ports whose lanes are mapped: messages without system calls, with each other
# and with read and write, who sleeps is rung, and what a process does to its
# mapping hurts its own port alone. And mkctl send and recv.
#
# vm: CPUS=4 MEM=2120M TIMEOUT=400
#
# Functions are called by check:
# shellcheck disable=SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

command -v mkport >/dev/null || skip_all "there is no mkport"
plan 20

# The spawn's user space with mkport and mkctl in it.
server_initrd() {
	root=$work/root
	mkdir -p "$root"
	cp "$(command -v mkport)" "$(command -v mkctl)" "$root"
	cat >"$root/serve" <<-'END'
		#!/bin/sh
		/mkport serve &
		/mkctl recv --host 0x10200 --follow | /mkctl send --host 0x10201 - &
	END
	chmod 755 "$root/serve"
	(cd "$root" && printf '%s\n' mkport mkctl serve | cpio -o -H newc | gzip) \
		>"$work/more" 2>/dev/null
	cat /boot/spawn.cpio.gz "$work/more" >"$work/server.cpio.gz"
}

run_server() {
	mkctl run --kernel /boot/vmlinux --initrd "$work/server.cpio.gz" \
		--append spawn.run=/serve --cpus 2-3 --memory 128M --name server &&
		mkctl logs server --until 'spawn: ready' --timeout 180 >/dev/null
}

start_again() {
	mkctl load server --kernel /boot/vmlinux --initrd "$work/server.cpio.gz" \
		--append spawn.run=/serve &&
		mkctl start server &&
		mkctl logs server --until 'spawn: ready' --timeout 180 >/dev/null
}

# A port is scribbled over while others and calls go on.
scribble() {
	mkport scribble server >"$work/scribble" 2>&1 &
	scribble=$!
	mkctl ping server --count 300 --flood -q
	status=$?
	wait "$scribble" || status=1
	cat "$work/scribble"
	return "$status"
}

# One lane, that of the process to the spawn, and the spawn's to it: no others.
broken_are() {
	grep " up .* broken $1\$" /sys/kernel/debug/multikernel/links
}

# The kernel tells of a lane that a process has mapped without a touch to it.
told_meanwhile() {
	mkctl top server --count 3000 --interval 0 >"$work/top" &
	top=$!
	mkport batch server
	status=$?
	kill "$top" 2>/dev/null
	wait "$top"
	grep -m 1 '^  port .* mapped$' "$work/top" && return "$status"
}

# Who looks by itself may be rung for nothing, which is no abuse.
none_held() {
	mkctl top server --json --count 1 --interval 0 | tee "$work/stats" |
		grep -o '"cpu":[0-9]*,"peer":false,"doorbells":[0-9]*,"idle":[0-9]*,"held":[0-9]*'
	grep -q '"peer":false' "$work/stats" && ! grep -q '"held":[1-9]' "$work/stats"
}

# A process with a mapping outlives the spawn, and its next life does not mind.
outlive() {
	mkport end server >"$work/end" 2>&1 &
	end=$!
	wait_for 60 grep -q waiting "$work/end" || return 1
	mkctl kill server || return 1
	wait_for 60 grep -q ended "$work/end" || return 1
	start_again || return 1
	wait "$end"
	status=$?
	cat "$work/end"
	return "$status"
}

# relay COUNT OPTION: what standard input has goes to the spawn, whose mkctl sends it
# back; so many messages.
relay() {
	mkctl recv server 0x10201 --count "$1" --timeout 60 "$2" >"$work/got" &
	recv=$!
	mkctl send server 0x10200 "$2" --timeout 60 - || return 1
	wait "$recv"
}

relay_lines() {
	printf 'one\ntwo words\nlast' | relay 3 --lines || return 1
	printf 'one\ntwo words\nlast\n' | diff - "$work/got"
}

relay_bytes() {
	printf '{"text": "a \\"b\\""}\n{"hex": "00fF41"}\n' | relay 2 --json || return 1
	printf '{"text":"a \\"b\\""}\n{"hex":"00ff41"}\n' | diff - "$work/got" || return 1
	printf '\003\000\000\000abc\001\000\000\000\377' >"$work/frames"
	relay 2 --framed <"$work/frames" && cmp "$work/frames" "$work/got"
}

# status EXPECTED COMMAND...: what it said is in $work/said.
status() {
	expected=$1
	shift
	"$@" >"$work/said" 2>&1
	got=$?
	cat "$work/said"
	[ "$got" = "$expected" ]
}

send_recv_fail() {
	status 1 mkctl recv server 0x10201 --count 1 --timeout 0.2 &&
		status 2 mkctl recv server 65535 && grep -q '0x10000' "$work/said" &&
		status 2 mkctl send server && grep -q 'PORT is missing' "$work/said" &&
		status 2 mkctl recv server 0x10201 more &&
		status 1 mkctl send nobody 0x10201 x && grep -q 'no such instance' "$work/said" &&
		status 1 mkctl send --host 0x10201 x && grep -q 'name the instance' "$work/said" &&
		status 1 mkctl send server 0x10202 "$(printf '%01785d' 1)" &&
		grep -q '1 to 1784 bytes' "$work/said" || return 1
	# Nobody reads: there is room for some, and then no more.
	long=$(printf '%01784d' 1)
	status 1 mkctl send --timeout 0.2 server 0x10202 "$long" "$long" "$long" &&
		grep -q 'no room' "$work/said" || return 1
	mkctl recv server 0x10202 --follow &
	first=$!
	wait_for 20 has_port "$first" &&
		status 1 mkctl recv server 0x10202 --timeout 0.1 &&
		grep -q 'has it open' "$work/said"
	result=$?
	kill "$first"
	wait "$first"
	return "$result"
}

# has_port PID: whether a process has a port open.
has_port() {
	find "/proc/$1/fd" -type l -exec readlink {} \; 2>/dev/null | grep -q multikernel-port
}

# Who receives hears of the end.
recv_ends() {
	mkctl recv server 0x10203 --follow &
	recv=$!
	wait_for 20 has_port "$recv" || return 1
	mkctl kill server || return 1
	status 1 wait "$recv" || return 1
	start_again
}

mkctl pool grow 128M >/dev/null
ledger >"$work/before"
server_initrd
check "a spawn with a server" run_server
[ "$failed" = 0 ] || finish
check "neither end makes a system call" mkport strict server
check "mapped, plain and asynchronous ends" mkport faces server
check "who sleeps is rung" mkport sleep server
check "who has no credit waits" mkport pressure server
check "many at a time, while counters are asked for" told_meanwhile
check "a port is opened again after it was mapped" mkport reopen server
check "also if its process was killed in the middle" mkport killed server
check "what is refused" mkport refused server
check "no doorbell was held back" none_held
check "no lane is broken" broken_are 0
check "a process that scribbles hurts its own port alone" scribble
check "figures" mkport figures server
comment <"$work/check"
check "the mapping outlives the spawn" outlive
check "mkctl sends and receives lines" relay_lines
check "mkctl sends and receives any bytes" relay_bytes
check "mkctl says why it cannot" send_recv_fail
check "mkctl recv ends with the spawn" recv_ends
check "it is removed" mkctl rm --force server
check "everything is back" same "$work/before"
mkctl pool shrink 128M >/dev/null
finish
