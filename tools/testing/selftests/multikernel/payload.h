/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A spawn kernel of a few hundred bytes, for tests that want to know what the
 * CPU does. It writes what it found at its entry to the shared area, then does
 * what its mode says. payload.S and payload.c share this file.
 */
#ifndef SELFTEST_MULTIKERNEL_PAYLOAD_H
#define SELFTEST_MULTIKERNEL_PAYLOAD_H

/* Counts up, interrupts off. */
#define MODE_SPIN	0
/* Waits, interrupts off. */
#define MODE_HALT	1
/* Counts up in an NMI handler, so that NMIs are blocked. */
#define MODE_NMI	2
/* Counts up until asked to power off, then says that it did, and waits. */
#define MODE_OBEY	3
/* Says GUEST_PANIC, rings the host, and waits. */
#define MODE_PANIC	4
/* Says GUEST_RESTART, rings the host, and waits. */
#define MODE_RESTART	5
/* Both CPUs restart each other by INIT and SIPI for ever. */
#define MODE_STORM	6

/* struct control: what the payload is told, in the first page of its memory. */
#define CONTROL_MODE		0
#define CONTROL_SHARED		8
#define CONTROL_CR3		16
#define CONTROL_STACK		24
#define CONTROL_SCRATCH		32
#define CONTROL_SIBLING		40
#define CONTROL_STARTUP		48
#define CONTROL_SIZE		56

/* struct record: what it found, in a part of the shared area that is not used. */
#define RECORD_OFFSET		0x3000
#define RECORD_DONE		0
#define RECORD_RAX		8
#define RECORD_RSI		16
/* RBX RCX RDX RDI RBP RSP R8..R15 */
#define RECORD_OTHERS		24
#define RECORD_CR0		136
#define RECORD_CR3		144
#define RECORD_CR4		152
#define RECORD_EFER		160
#define RECORD_FLAGS		168
#define RECORD_CS		176
#define RECORD_SS		184
/* One counter for each of two CPUs in a storm, 32 bits. */
#define RECORD_STORM		192
#define RECORD_SIZE		200

/* Fields of the storm's page, from storm_data on; filled in before it is loaded. */
#define STORM_IDS		0
#define STORM_COUNTERS		8

/* Offsets in the shared area: kernel/multikernel/abi.rs. */
#define SHARED_MAGIC		0
#define SHARED_VERSION		8
#define SHARED_ID		12
#define SHARED_EPOCH		16
#define SHARED_REQUEST		20
#define SHARED_HOST_APIC_ID	52
#define SHARED_HOST_VECTOR	64
#define SHARED_NAME		80
#define SHARED_GUEST_STATE	256
#define SHARED_GUEST_VECTOR	260
#define SHARED_GUEST_APIC_ID	264
#define SHARED_GUEST_FEATURES	272
#define SHARED_CPU_BEATS	0x8000
#define CPU_BEAT_APIC_ID	8
#define CPU_BEAT_ONLINE		12
/* Where the payload counts: in a part of the header's page that is not used. */
#define SHARED_COUNTER		0x400

#define GUEST_RUNNING		1

#define GUEST_FEATURE_REQUEST	0x2
#define GUEST_FEATURE_BEATS	0x4

#ifndef __ASSEMBLER__

#include "host.h"

/* Labels in payload.S: the payload, and the storm's page with what is filled in there. */
extern const char payload_begin[], payload_end[];
extern const char storm_begin[], storm_end[], storm_long[], storm_gdt[], storm_gdt_pointer[];
extern const char storm_far_pointer[], storm_data[];

struct control {
	__u64 mode;
	__u64 shared;
	__u64 cr3;
	__u64 stack;
	__u64 scratch;
	__u64 sibling;
	__u64 startup;
};

struct record {
	__u64 done;
	__u64 rax, rsi;
	__u64 others[14];
	__u64 cr0, cr3, cr4, efer, flags, cs, ss;
	__u32 storm[2];
};

/* An instance with the payload, and its shared area as this process sees it. */
struct payload {
	struct instance *instance;
	volatile char *shared;
	__u64 entry, argument;
};

/* Maps the shared area. */
int payload_map(struct payload *payload, struct instance *instance);
/* Loads the payload; @sibling is the APIC id of the instance's other CPU, if it has one. */
int payload_load(struct payload *payload, int mode, __u32 own, __u32 sibling);
int payload_start(struct payload *payload);
const volatile struct record *payload_record(const struct payload *payload);
__u32 shared_u32(const struct payload *payload, size_t offset);
__u64 shared_u64(const struct payload *payload, size_t offset);
void shared_set_u32(const struct payload *payload, size_t offset, __u32 value);

/* Until the word at @offset is not @value any more; false after @milliseconds. */
bool wait_change(const struct payload *payload, size_t offset, __u32 value, int milliseconds);
/* Until the instance is in @state. */
bool wait_state(int fd, __u32 state, struct info *info, int milliseconds);

#endif
#endif
