#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# An arena as persistent memory of two kernels, one after the other: the project's
# makes a file system there and is stopped by force, a stock Debian kernel finds
# what it wrote, and the other way round. The Debian kernel's console is a UART
# that is lent to it; what that says the machine's runner keeps in /run/ttyS2.log.
#
# vm: CPUS=4 MEM=2200M TIMEOUT=600
# vm: BOOT="vmlinux kv.cpio.gz debian-vmlinuz spawn.cpio.gz debian-modules.cpio.gz"
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

[ -f /boot/kv.cpio.gz ] || skip_all "there is no /boot/kv.cpio.gz"
plan 18

line=/run/ttyS2.log

# What a stock kernel does there, where nobody can type.
debian_initrd() {
	mkdir -p "$work/root"
	cat >"$work/root/pmem" <<-'end'
		#!/bin/sh
		for module in /modules/*.ko; do
			insmod "$module"
		done
		tries=0
		until [ -b /dev/pmem0 ] || [ $tries = 300 ]; do
			tries=$((tries + 1))
			usleep 100000
		done
		mount -t ext4 /dev/pmem0 /mnt || exit 1
		echo "pmem: found: $(cat /mnt/first)"
		# Without sync(1) it would be in the page cache when it is stopped.
		echo "from Debian" >/mnt/second && sync && echo "pmem: written"
	end
	chmod 755 "$work/root/pmem"
	(cd "$work/root" && echo pmem | cpio -o -H newc | gzip) >"$work/more" 2>/dev/null
	cat /boot/spawn.cpio.gz /boot/debian-modules.cpio.gz "$work/more" >"$work/debian.cpio.gz"
}

ours() {
	mkdir "$work/tools"
	cp /usr/bin/mkctl "$work/tools"
	(cd "$work/tools" && echo mkctl | cpio -o -H newc | gzip) >"$work/mkctl" 2>/dev/null
	cat /boot/kv.cpio.gz "$work/mkctl" >"$work/ours.cpio.gz"
	mkctl run --kernel /boot/vmlinux --initrd "$work/ours.cpio.gz" --memory 96M --cpus 3 \
		--name ours --pmem data && ready ours "$work/log"
}

debian() {
	: >"$line"
	mkctl run --kernel /boot/debian-vmlinuz --initrd "$work/debian.cpio.gz" --cpus 2 \
		--append spawn.run=/pmem --memory 384M --name debian --uart ttyS2 --pmem data ||
		return 1
	wait_for 300 grep -q 'spawn: ready' "$line" || {
		tail -n 20 "$line"
		return 1
	}
}

found_again() {
	mkctl load ours --kernel /boot/vmlinux --initrd /boot/kv.cpio.gz --pmem data &&
		mkctl start ours && ready ours "$work/log" &&
		told ours 60 'mount -t ext4 /dev/pmem0 /mnt && grep -qx "from Debian" /mnt/second'
}

mkctl pool grow 640M >/dev/null
ledger >"$work/before"
check "an arena" mkctl arena create data 32M
check "a spawn finds it" ours
check "it makes a file system there" told ours 60 \
	'/usr/bin/mke2fs -q -t ext4 /dev/pmem0 && mount -t ext4 /dev/pmem0 /mnt'
check "it knows that nothing has to be written back" told ours 60 \
	'grep -q cpu_cache /sys/bus/nd/devices/region0/persistence_domain'
check "it writes" told ours 60 'echo "from ours" >/mnt/first && sync'
check "no session is made where a file system is" told ours 60 \
	'/mkctl handover create data 2>&1 | tee /dev/stderr | grep -q "in use\|open"'
check "which is whole" told ours 60 \
	'umount /mnt && mount -t ext4 /dev/pmem0 /mnt && grep -qx "from ours" /mnt/first'
check "it is stopped by force" mkctl kill ours
check "the grant is taken back" mkctl arena revoke data ours
check "so it cannot be started" fails "not granted to the instance to be written to" \
	mkctl start ours
check "only to be read is not enough" sh -c '
	mkctl arena grant data ours --read-only && ! mkctl start ours'
check "the arena may be moved now" mkctl arena resize data 64M

if [ -f /boot/debian-vmlinuz ] && gzip -dc /boot/debian-modules.cpio.gz | grep -q libnvdimm; then
	debian_initrd
	check "a stock Debian kernel" debian
	check "finds what the other one wrote" grep -q '^pmem: found: from ours' "$line"
	check "and writes" grep -q '^pmem: written' "$line"
	mkctl rm --force debian
	check "the first one finds that" found_again
else
	for what in "a stock Debian kernel" "finds what the other one wrote" "and writes" \
		"the first one finds that"; do
		check "$what # SKIP no modules of its" true
	done
fi
check "all is removed" sh -c 'mkctl rm --force ours && mkctl arena rm data'
check "everything is back" same "$work/before"
mkctl pool shrink 640M >/dev/null
finish
