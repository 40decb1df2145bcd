#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What a spawn does while the host is disturbed, and how the host sees that it
# has lost nothing. Sourced on the host after ktap.sh; also what the spawn runs
# itself, as /workload, behind spawn.run= on its command line.
#
# Each line it writes has a number and a checksum over itself and all before it:
#
#   count: 17 2d3a...
#
# A line that is lost, or memory of the spawn that changes, breaks the chain.
#
# "work" is a folder of ktap.sh.
# shellcheck disable=SC2154

if [ "${0##*/}" = workload ]; then
	sum=0
	n=0
	# In the background: /init goes on and says "ready".
	while true; do
		n=$((n + 1))
		sum=$(echo "$sum $n" | md5sum | cut -d' ' -f1)
		echo "count: $n $sum"
		usleep 200000
	done &
	exit 0
fi

# The spawn's user space with this file in it.
workload_initrd() {
	mkdir -p "$work/root"
	cp workload.sh "$work/root/workload"
	chmod 755 "$work/root/workload"
	(cd "$work/root" && echo workload | cpio -o -H newc | gzip) >"$work/more" 2>/dev/null
	cat /boot/spawn.cpio.gz "$work/more" >"$work/workload.cpio.gz"
}

# run_workload NAME CPUS [MORE...]: starts a spawn that counts.
run_workload() {
	instance=$1
	lent=$2
	shift 2
	mkctl run --kernel /boot/vmlinux --initrd "$work/workload.cpio.gz" \
		--append spawn.run=/workload --cpus "$lent" --memory 96M \
		--name "$instance" "$@" &&
		mkctl logs "$instance" --until 'count: 1 ' --timeout 180 >/dev/null
}

# counted NAME: the number of the last whole line.
counted() {
	mkctl logs "$1" | tr -d '\r' |
		sed -n 's/^.*count: \([0-9]*\) [0-9a-f]\{32\}$/\1/p' | tail -n 1
}

# reached NAME NUMBER: the last number is at least that; false if there is none.
reached() {
	now=$(counted "$1")
	[ "${now:-0}" -ge "$2" ]
}

# goes_on NAME: it writes three more lines.
goes_on() {
	from=$(counted "$1")
	[ -n "$from" ] && wait_for 60 reached "$1" $((from + 3)) && return
	echo "$1 stopped at '$(counted "$1")'"
	mkctl ps
	mkctl logs "$1" | tail -n 20
	return 1
}

# lost_nothing NAME: the whole chain is there, in order, with the right sums.
lost_nothing() {
	mkctl logs "$1" | tr -d '\r' | sed -n 's/^.*count: \([0-9]*\) \([0-9a-f]\{32\}\)$/\1 \2/p' \
		>"$work/chain"
	# shellcheck disable=SC2034 # the rest of the line
	read -r first sum <"$work/chain" || return 1
	# The console's ring keeps the last of it only.
	tail -n +2 "$work/chain" >"$work/rest"
	while read -r n is; do
		first=$((first + 1))
		sum=$(echo "$sum $n" | md5sum | cut -d' ' -f1)
		if [ "$n" != "$first" ] || [ "$is" != "$sum" ]; then
			echo "$1: line $first should have been: count: $first $sum"
			echo "it was: count: $n $is"
			return 1
		fi
	done <"$work/rest"
	echo "$1: $(wc -l <"$work/chain") lines up to $first"
	[ "$(wc -l <"$work/chain")" -gt 3 ]
}
