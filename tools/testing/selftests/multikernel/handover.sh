#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Sessions: entries in an arena that have one owner, and go from one kernel to
# another by offer, accept and commit, whoever ends meanwhile.
#
# vm: CPUS=4 MEM=2140M TIMEOUT=900
#
# Functions are called by check, and quoted commands are for other shells:
# shellcheck disable=SC2016,SC2317

# shellcheck source=tools/testing/selftests/multikernel/ktap.sh
. ./ktap.sh
plan 54

# in NAME COMMAND: in the spawn's shell.
in_spawn() {
	told "$1" 120 "$2"
}

# not_in TEXT NAME COMMAND: fails there, with these words.
not_in() {
	! in_spawn "$2" "$3" && grep -q "$1" "$work/told"
}

# session NAME STATE OWNER [TO]: how "mkctl handover ls" has it.
session() {
	mkctl handover ls --json >"$work/sessions"
	cat "$work/sessions"
	owner=0
	[ "$3" = host ] || owner=$(field "$3" id)
	to=null
	case ${4:-} in
	'') ;;
	host) to=0 ;;
	*) to=$(field "$4" id) ;;
	esac
	tr -d ' \n' <"$work/sessions" | sed 's/},{/,}\n{/g; s/}]/,}/' | grep "\"name\":\"$1\"" |
		grep "\"owner\":$owner," | grep "\"to\":$to," | grep -q "\"state\":\"$2\""
}

# log TEXT: the host's log has it by now.
host_log() {
	dmesg | grep "$1"
}

ledger >"$work/before"
mkctl pool grow 512M >/dev/null
spawn_initrd /usr/bin/mkctl
seq 1 300000 >"$work/big"
sum=$(md5sum <"$work/big")

# On the host alone.
check "a session is made" mkctl handover create state --size 16M
check "it is the host's" session state owned host
check "there is one of its name" fails "there is a session of this name" \
	mkctl handover create state
check "its arena is not to be had" fails "it is open" mkctl arena read state --length 1
check "nor to be removed" fails "session\|is open" mkctl arena rm state
puts() {
	echo one | mkctl handover put state first &&
		mkctl handover put state big --file "$work/big" &&
		echo three | mkctl handover put state pages --pages 4M &&
		echo two | mkctl handover put state first
}
check "entries are put" puts
entry_is() {
	[ "$(mkctl handover get state "$1" | head -c "$2")" = "$3" ]
}
check "the last bytes of a key are there" entry_is first 3 two
check "and the pages" entry_is pages 5 three
big_is_whole() {
	[ "$(mkctl handover get state big | md5sum)" = "$sum" ]
}
check "and the file, whole" big_is_whole
check "what is not there is not" fails "there is no such entry" mkctl handover get state none
check "there is no room for more than fits" fails "no room" \
	mkctl handover put state huge --pages 16M </dev/null
check "and nothing has changed" big_is_whole
check "to nobody it is not offered" fails "no such" mkctl handover offer state nobody
check "an entry is taken out" mkctl handover delete state pages

# From the host to a spawn and back.
run() {
	mkctl run --kernel /boot/vmlinux --initrd "$work/spawn.cpio.gz" --memory 96M \
		--cpus "$2" --name "$1" --hang-timeout never &&
		ready "$1" "$work/log"
}
again() {
	mkctl load "$1" --kernel /boot/vmlinux --initrd "$work/spawn.cpio.gz" &&
		mkctl start "$1" && ready "$1" "$work/log"
}
check "a spawn runs" run one 2
check "it does not get what is not offered" not_in "not offered to this kernel" one \
	'/mkctl handover accept state'
check "it is offered" mkctl handover offer state one
check "and that is seen" session state offered host one
check "what is offered is not changed" fails "offered to another" \
	mkctl handover put state late </dev/null
check "a check that fails leaves it" not_in "stays with its owner" one \
	'/mkctl handover accept state --expect absent'
check "with the host" session state owned host
check "it is offered again" mkctl handover offer state one
check "and taken over" in_spawn one '/mkctl handover accept state --expect big -- true'
check "it is the spawn's" session state owned one
check "the host has it no more" fails "another's" mkctl handover get state first
check "the spawn has what was put" in_spawn one \
	'[ "$(/mkctl handover get state first)" = two ] &&
	[ "$(/mkctl handover get state big | md5sum)" = "'"$sum"'" ]'
check "and puts more" in_spawn one 'echo from one | /mkctl handover put state second'

# From one spawn to another, waiting.
check "a second spawn runs" run two 3
check "what is offered to one" in_spawn one '/mkctl handover offer state --host'
check "is not offered to another" not_in "offered to another" one '/mkctl handover offer state two'
check "before it is called off" in_spawn one '/mkctl handover abort state'
both() {
	echo '/mkctl handover accept state --timeout 60; echo acc''epted $?' |
		mkctl console two --linger 100 >/dev/null 2>&1
	in_spawn one '/mkctl handover offer state two --wait 60' &&
		mkctl logs two --until 'accepted 0' --timeout 60 >"$work/log"
}
check "who waits for an offer gets it, and who offers hears of it" both
check "it is the other's" session state owned two
check "which has all of it" in_spawn two \
	'[ "$(/mkctl handover get state second)" = "from one" ] &&
	[ "$(/mkctl handover get state big | md5sum)" = "'"$sum"'" ]'
check "and the first has nothing" not_in "another's" one '/mkctl handover get state second'

# Owner and adopter end.
crash() {
	in_spawn "$1" 'mkdir -p /d && mount -t debugfs none /d'
	echo 'echo panic >/d/multikernel/crash' | mkctl console "$1" --linger 100 >/dev/null 2>&1
	wait_for 60 is "$1" crashed panic
}
check "its owner crashes" crash two
check "and has it still" session state owned two
check "the next life opens it" again two
check "with all that was in it" in_spawn two \
	'[ "$(/mkctl handover get state second)" = "from one" ] &&
	[ "$(/mkctl handover get state big | md5sum)" = "'"$sum"'" ]'
check "it offers it to one that crashes" in_spawn two '/mkctl handover offer state one'
crash_while_accepting() {
	echo '/mkctl handover accept state -- sh -c "echo acc''epting; exec sleep 1000"' |
		mkctl console one --linger 100 >/dev/null 2>&1
	mkctl logs one --until accepting --timeout 60 >"$work/log" &&
		session state accepted two one && mkctl kill one
}
check "while it looks at it" crash_while_accepting
check "the owner has it" session state owned two
check "and goes on" in_spawn two 'echo more | /mkctl handover put state third'
check "it is not taken from one that runs" fails "open elsewhere" mkctl handover seize state
# An upgrade takes the session along, or leaves all as it was.
upgrade() {
	mkctl upgrade two --kernel /boot/vmlinux --spare-cpu 1 --timeout 120 "$@"
}
export work
cat >"$work/take" <<'E'
echo '/mkctl handover accept state --timeout 60 --hold 60' |
	mkctl console "$MKCTL_INSTANCE" --linger 100 >/dev/null 2>&1
echo "/mkctl handover offer state $MKCTL_INSTANCE" |
	mkctl console "$MKCTL_OLD" --linger 100 >/dev/null 2>&1
mkctl logs "$MKCTL_INSTANCE" --until 'accepted session' --timeout 60 >/dev/null
E
same_two() {
	[ "$(field two id)" = "$old" ] && session state owned two &&
		in_spawn two '[ "$(/mkctl handover get state third)" = more ]'
}
old=$(field two id)
check "an upgrade does not lose a session" fails "has not accepted" upgrade --ready 'spawn: ready'
check "nor does one whose command fails" fails "ended with" upgrade --ready 'spawn: ready' \
	--handover-command 'sh $work/take; false'
aborted() {
	in_spawn two '/mkctl handover abort state || true' && same_two
}
check "the old kernel has it still" aborted
check "with the command the new one gets it" upgrade --ready 'spawn: ready' \
	--handover-command 'sh $work/take'
new_two() {
	[ "$(field two id)" != "$old" ] && session state owned two
}
check "it is another instance's" new_two
check "with all that was in it" in_spawn two \
	'[ "$(/mkctl handover get state third)" = more ] &&
	[ "$(/mkctl handover get state big | md5sum)" = "'"$sum"'" ]'

check "its owner is stopped" mkctl kill two
check "the host takes it" mkctl handover seize state
check "with all that was in it" entry_is third 4 more
check "instances are removed" sh -c "mkctl rm --force one && mkctl rm two"
all_back() {
	mkctl handover rm state && mkctl arena rm state && mkctl pool shrink 512M &&
		same "$work/before"
}
check "and everything is back" all_back
finish
