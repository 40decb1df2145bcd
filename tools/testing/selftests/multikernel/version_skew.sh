#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Kernels of different versions of the ABI meet: of another minor version both
# use what they have in common, of another version nothing, and the logs of both
# say so. One kernel passes for another: the spawn by a word on its command line,
# the host by files in debugfs.
#
# vm: CPUS=4 MEM=2130M TIMEOUT=900
#
# Functions are called by check:
# shellcheck disable=SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh

debugfs=/sys/kernel/debug/multikernel
[ -f "$debugfs/claim_version" ] || skip_all "no CONFIG_MULTIKERNEL_FAULT_INJECTION"
plan 48

line=/run/ttyS2.log
# This kernel's own.
minor=$(cat "$debugfs/claim_minor")

# run WORDS [OPTION...]: with these words on the command line.
run() {
	words=$1
	shift
	mkctl run --kernel /boot/vmlinux --initrd "$work/spawn.cpio.gz" --cpus 2-3 \
		--memory 96M --name skew --append "spawn.run=/serve $words" "$@"
}

# claim WHAT NUMBER: what the host says of itself from now on.
claim() {
	echo "$2" >"$debugfs/claim_$1" && [ "$(cat "$debugfs/claim_$1")" = "$2" ]
}

# Everything, both ways.
talks() {
	mkctl ping skew --flood -q --count 200 --timeout 60000 &&
		./port_test echo "$(field skew id)" &&
		told skew 60 '/mkctl ping --host --flood -q --count 200 --timeout 60000' &&
		grep -E ' up .* undeliverable 0 broken 0$' "$debugfs/links"
}

# fails TEXT COMMAND...: with these words.
fails() {
	text=$1
	shift
	"$@" >"$work/said" 2>&1 && return 1
	cat "$work/said"
	grep -q "$text" "$work/said"
}

port() {
	./port_test echo "$(field skew id)"
}

call() {
	./port_test refused "$(field skew id)"
}

# says_minor NUMBER: the spawn, of itself.
says_minor() {
	cat "$debugfs/links"
	grep -q " minor $1 up " "$debugfs/links"
}

# The console, a stop in order: what needs no link.
the_rest_works() {
	told skew 60 'grep -c ^processor /proc/cpuinfo' && grep -q '^2$' "$work/told" &&
		mkctl stop skew && is skew stopped poweroff
}

# host_log TEXT: a line in the host's log about this life, and only one.
host_log() {
	dmesg | tail -n +"$((logged + 1))" >"$work/dmesg"
	[ "$(grep -c "instance $(field skew id): .*$1" "$work/dmesg")" = 1 ]
}

on_line() {
	cat "$line"
	grep -q "$1" "$line"
}

# What is said before a life does not count.
begin() {
	logged=$(dmesg | wc -l)
	: >"$line"
}

gone() {
	mkctl rm --force skew
}

printf '#!/bin/sh\n/port_test serve\n' >"$work/serve"
chmod 755 "$work/serve"
spawn_initrd /usr/bin/mkctl port_test "$work/serve"
mkctl pool grow 96M >/dev/null
ledger >"$work/before"

# --- Spawns of other minor versions -------------------------------------------

begin
check "a spawn of minor version 0" run multikernel_claim=1.0
check "1.0: is up" ready skew "$work/log"
check "1.0: has no link" fails 'does not take part in the link' mkctl ping skew
check "1.0: no port either" fails '(errno 107' port
check "1.0: all else works" the_rest_works
gone >/dev/null

check "a spawn of minor version 1" run multikernel_claim=1.1
check "1.1: is up" ready skew "$work/log"
check "1.1: talks" talks
check "1.1: that is what it says" says_minor 1
check "1.1: all else works" the_rest_works
gone >/dev/null

check "a spawn of minor version 99" run multikernel_claim=1.99
check "1.99: is up" ready skew "$work/log"
check "1.99: talks" talks
check "1.99: that is what it says" says_minor 99
check "1.99: all else works" the_rest_works
gone >/dev/null

# --- A spawn of another version -----------------------------------------------

begin
check "a spawn of version 2" run multikernel_claim=2.0 --uart ttyS2
check "2.0: is up" wait_for 120 on_line 'Run /init as init process'
check "2.0: its log says why it is alone" on_line \
	'no guest support: shared area at .*: version 1, which this kernel does not know'
check "2.0: the host's says it as well, and nobody had to call" wait_for 10 host_log \
	'refuses ABI version 1, it has 2'
check "2.0: it is not called" fails '(errno 93' call
check "2.0: no port" fails '(errno 93' port
check "2.0: the host's log said it once" host_log 'refuses ABI version 1, it has 2'
check "2.0: it is stopped by force" mkctl kill skew
gone >/dev/null

# --- A host of other minor versions ---------------------------------------------

check "a host of minor version 0" claim minor 0
check "host 1.0: a spawn" run quiet
check "host 1.0: is up" ready skew "$work/log"
check "host 1.0: has no link" fails 'does not take part in the link' mkctl ping skew
check "host 1.0: all else works" the_rest_works
gone >/dev/null

check "a host of minor version 99, with more memory than is known" claim minor 99
check "host 1.99: a spawn" run quiet
check "host 1.99: is up" ready skew "$work/log"
check "host 1.99: talks" talks
check "host 1.99: all else works" the_rest_works
gone >/dev/null
claim minor "$minor"

# --- A host of another version ---------------------------------------------------

begin
check "a host of version 2" claim version 2
check "host 2: a spawn" run loglevel=7 --uart ttyS2
check "host 2: is up" wait_for 120 on_line 'Run /init as init process'
check "host 2: its log says why it is alone" on_line \
	'no guest support: shared area at .*: version 2, which this kernel does not know'
check "host 2: the host's says it as well" wait_for 10 host_log \
	'refuses ABI version 2, it has 1'
check "host 2: it is not called" fails '(errno 93' call
check "host 2: no port" fails '(errno 93' port
gone >/dev/null
claim version 1

begin
check "a host of which only the link has version 2" claim link_version 2
check "link 2: a spawn" run quiet
check "link 2: is up" ready skew "$work/log"
check "link 2: its log says why it has no link" grep -q 'no link at .*: version 2' "$work/log"
check "link 2: the host's says it as well" wait_for 10 host_log 'refuses ABI version'
check "link 2: it is not called" fails '(errno 93' call
check "link 2: all else works" the_rest_works
gone >/dev/null
claim link_version 1

check "everything is back" same "$work/before"
mkctl pool shrink 96M >/dev/null
finish
