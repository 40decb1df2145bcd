#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Programs on the host and in a spawn talk over ports: every message arrives,
# whole and in order, whoever is slow; what is closed and what ends is told.
#
# vm: CPUS=4 MEM=2G TIMEOUT=300
#
# Functions are called by check:
# shellcheck disable=SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 15

# The spawn's user space with the server in it.
server_initrd() {
	mkdir -p "$work/root"
	cp port_test "$work/root/port_test"
	printf '#!/bin/sh\n/port_test serve\n' >"$work/root/serve"
	chmod 755 "$work/root/serve"
	(cd "$work/root" && printf 'port_test\nserve\n' | cpio -o -H newc | gzip) \
		>"$work/more" 2>/dev/null
	cat /boot/spawn.cpio.gz "$work/more" >"$work/server.cpio.gz"
}

run_server() {
	mkctl run --kernel /boot/vmlinux --initrd "$work/server.cpio.gz" \
		--append spawn.run=/serve --cpus 2-3 --memory 96M --name "$1" &&
		mkctl logs "$1" --until 'spawn: ready' --timeout 180 >/dev/null
}

port_test() {
	./port_test "$1" "$(field server id)"
}

# Both directions at the same time, and calls of the kernels beside them.
all_at_once() {
	port_test echo >"$work/echo" 2>&1 &
	echo=$!
	port_test sink >"$work/sink" 2>&1 &
	sink=$!
	port_test source >"$work/source" 2>&1 &
	source=$!
	mkctl ping server --count 500 --flood -q
	status=$?
	wait "$echo" || status=1
	wait "$sink" || status=1
	wait "$source" || status=1
	cat "$work/echo" "$work/sink" "$work/source"
	return "$status"
}

# ends COMMAND...: a reader hears of it at once.
ends() {
	port_test end >"$work/end" 2>&1 &
	reader=$!
	wait_for 60 grep -q waiting "$work/end" || return 1
	"$@" || return 1
	wait "$reader"
	status=$?
	cat "$work/end"
	return "$status"
}

again() {
	mkctl load server --kernel /boot/vmlinux --initrd "$work/server.cpio.gz" \
		--append spawn.run=/serve &&
		mkctl start server &&
		mkctl logs server --until 'spawn: ready' --timeout 180 >/dev/null &&
		port_test echo
}

mkctl pool grow 96M >/dev/null
ledger >"$work/before"
server_initrd
check "a spawn with a server" run_server server
[ "$failed" = 0 ] || finish
check "messages of all lengths, there and back" port_test echo
check "to a slow reader" port_test sink
check "from a writer who waits for credit" port_test source
check "all at once" all_at_once
check "a port is closed and opened again at the other end" port_test close
check "a port is opened again on another CPU" port_test move
check "what is refused" port_test errors
check "nothing was undeliverable, no lane is broken" \
	grep ' up .* undeliverable 0 broken 0$' /sys/kernel/debug/multikernel/links
check "a reader hears of the spawn's end by force" ends mkctl kill server
check "in its next life the spawn serves again" again
check "a reader hears of the spawn's end in order" ends mkctl stop server
check "and so does the life after that" again
check "it is removed" mkctl rm --force server
check "everything is back" same "$work/before"
mkctl pool shrink 96M >/dev/null
finish
