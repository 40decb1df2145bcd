#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The host's own CPU hotplug beside lent CPUs, and its IPI shorthands.
#
# vm: CPUS=4 MEM=1G TIMEOUT=300
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 15

cpus=/sys/devices/system/cpu

online() {
	echo "$2" >$cpus/cpu"$1"/online
}

shorthand_off() {
	mkctl pool --json | grep -q "\"shorthand_off\": $1"
}

mkctl pool grow 64M >/dev/null
ledger >"$work/before"
check "shorthands are in use" shorthand_off false
check "create" mkctl create plug --cpus 2 --memory 32M
check "shorthands are off while a CPU is lent" shorthand_off true
check "doctor says so" sh -c 'mkctl doctor | grep -i "IPI shorthands" | grep -qi off'
online 2 1 2>"$work/error"
check "the host cannot take it" grep -qi busy "$work/error"
check "nor is it online" [ "$(cat $cpus/online)" = 0-1,3 ]
# A second instance comes and goes; the first still needs them off.
check "another" mkctl create plug2 --cpus 3 --memory 32M
mkctl rm plug2
check "shorthands are still off" shorthand_off true
check "a CPU that is the host's goes offline" online 3 0
check "an offline CPU is not lent" not mkctl create plug3 --cpus 3 --memory 2M
check "and comes online" online 3 1
check "remove" mkctl rm plug
check "shorthands are in use again" shorthand_off false
check "the CPU is online" [ "$(cat $cpus/online)" = 0-3 ]
check "everything is back" same "$work/before"
mkctl pool shrink 64M >/dev/null
finish
