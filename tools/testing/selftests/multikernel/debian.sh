#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A stock Debian kernel as a spawn, unmodified, its console on a UART that is
# lent to it. What the UART says the machine's runner keeps in /run/ttyS2.log.
#
# vm: CPUS=4 MEM=2G TIMEOUT=600
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

[ -f /boot/debian-vmlinuz ] || skip_all "there is no /boot/debian-vmlinuz"
plan 9

line=/run/ttyS2.log
up() {
	wait_for 300 grep -q 'spawn: ready' "$line" || {
		tail -n 20 "$line"
		return 1
	}
}

run() {
	mkctl run --kernel /boot/debian-vmlinuz --initrd /boot/spawn.cpio.gz --cpus 2-3 \
		--memory 384M --name debian --uart ttyS2
}

mkctl pool grow 384M >/dev/null
ledger >"$work/before"
: >"$line"
check "it starts" run
check "user space comes up" up
check "it has what was lent" spawn_has "$line" 2 384
check "it is Debian's kernel" grep -q 'spawn: uname: .*Debian' $line
check "it runs" is debian running
check "the host does not list its CPUs" not listed 3
# Without guest support it cannot be asked.
check "it is stopped by force" mkctl stop debian
check "by force it was" is debian stopped forced
mkctl rm debian
check "everything is back" same "$work/before"
mkctl pool shrink 384M >/dev/null
finish
