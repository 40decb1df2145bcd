#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Sockets between programs on the host and in a spawn, AF_VSOCK: connections in
# both directions and under load, and what is told when the other kernel ends.
#
# vm: CPUS=4 MEM=2130M TIMEOUT=600
#
# Functions are called by check:
# shellcheck disable=SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 29

# The spawn's user space with the server in it.
server_initrd() {
	mkdir -p "$work/root/usr/bin"
	cp vsock_test "$work/root/vsock_test"
	# With its libraries, of which ldd is no program here.
	if [ -x /usr/bin/socat ]; then
		cp /usr/bin/socat "$work/root/usr/bin"
		find /lib /lib64 /usr/lib -name '*.so*' | while read -r library; do
			mkdir -p "$work/root${library%/*}"
			cp "$library" "$work/root$library"
		done
	fi
	printf '#!/bin/sh\n/vsock_test serve\n' >"$work/root/serve"
	chmod 755 "$work/root/serve"
	(cd "$work/root" && find . | cpio -o -H newc | gzip) >"$work/more" 2>/dev/null
	cat /boot/spawn.cpio.gz "$work/more" >"$work/server.cpio.gz"
}

run_server() {
	mkctl run --kernel /boot/vmlinux --initrd "$work/server.cpio.gz" \
		--append spawn.run=/serve --cpus 2-3 --memory 128M --name server &&
		mkctl logs server --until 'spawn: ready' --timeout 180 >/dev/null
}

# in_spawn CASE: the client runs in the spawn, the server here.
in_spawn() {
	told server 300 "/vsock_test $1 2"
}

# Both kernels are client and server at the same time.
at_once() {
	./vsock_test load "$cid" >"$work/load" 2>&1 &
	load=$!
	in_spawn load
	status=$?
	wait "$load" || status=1
	cat "$work/load"
	return "$status"
}

# ends COMMAND...: who has a connection hears of it.
ends() {
	./vsock_test end "$cid" >"$work/end" 2>&1 &
	client=$!
	wait_for 60 grep -q waiting "$work/end" || return 1
	"$@" || return 1
	wait "$client"
	status=$?
	cat "$work/end"
	return "$status"
}

again() {
	mkctl load server --kernel /boot/vmlinux --initrd "$work/server.cpio.gz" \
		--append spawn.run=/serve &&
		mkctl start server &&
		mkctl logs server --until 'spawn: ready' --timeout 180 >/dev/null &&
		./vsock_test echo "$cid" && in_spawn echo
}

rate() {
	./vsock_test rate "$1" >"$work/rate" 2>&1
	status=$?
	comment <"$work/rate"
	cat "$work/rate" >&3
	return "$status"
}

# The ordinary program at both ends.
socat_there() {
	told server 60 "(socat VSOCK-LISTEN:3000 EXEC:'tr a-z A-Z' </dev/null >/dev/null 2>&1 &)" &&
		wait_for 60 socat_says
}

socat_says() {
	echo "good morning" | socat -T 30 - "VSOCK-CONNECT:$cid:3000" >"$work/said" 2>&1
	cat "$work/said"
	grep -qx "GOOD MORNING" "$work/said"
}

socat_here() {
	socat -u VSOCK-LISTEN:3001 "CREATE:$work/heard" &
	listener=$!
	told server 60 "until seq 1 20000 | socat -u - VSOCK-CONNECT:2:3001; do sleep 1; done" &&
		wait "$listener" && seq 1 20000 | cmp - "$work/heard"
}

# What there is of sockets besides those of the server.
no_packets_left() {
	cat /sys/kernel/debug/multikernel/vsock
	grep -q "^$cid .* waiting 0 wrong 0$" /sys/kernel/debug/multikernel/vsock
}

exec 3>&1
mkctl pool grow 128M >/dev/null
ledger >"$work/before"
server_initrd
./vsock_test serve
check "a spawn with a server" run_server
[ "$failed" = 0 ] || finish
cid=$(field server id)
check "its address is above those that are reserved" [ "$cid" -ge 3 ]

check "bytes there and back" ./vsock_test echo "$cid"
check "records there and back" ./vsock_test records "$cid"
check "many connections at once" ./vsock_test many "$cid"
check "one direction ends, the other goes on" ./vsock_test half "$cid"
check "nobody listens" ./vsock_test refused "$cid"
check "there is no such spawn" ./vsock_test nobody $((cid + 1))
check "load, and a reader who sleeps" ./vsock_test load "$cid"

check "from the spawn: bytes there and back" in_spawn echo
check "from the spawn: records there and back" in_spawn records
check "from the spawn: many connections at once" in_spawn many
check "from the spawn: one direction ends, the other goes on" in_spawn half
check "from the spawn: nobody listens" in_spawn refused
check "from the spawn: load, and a reader who sleeps" in_spawn load

check "load from both at once" at_once
check "nothing is left over, nothing was wrong" wait_for 20 no_packets_left
if [ -x /usr/bin/socat ]; then
	check "socat connects to socat in the spawn" socat_there
	check "socat in the spawn connects to socat" socat_here
else
	check "socat connects to socat in the spawn # SKIP no socat" true
	check "socat in the spawn connects to socat # SKIP no socat" true
fi
check "throughput over the link" rate "$cid"
check "throughput within the host" rate 1

check "who has a connection hears of the spawn's end by force" ends mkctl kill server
check "its address is gone from the list" not grep "^$cid " \
	/sys/kernel/debug/multikernel/vsock
check "there is no such spawn any more" ./vsock_test nobody "$cid"
check "in its next life it serves again" again
check "who has a connection hears of the spawn's end in order" ends mkctl stop server
check "and the life after that" again
check "it is removed" mkctl rm --force server
check "everything is back" same "$work/before"
mkctl pool shrink 128M >/dev/null
finish
