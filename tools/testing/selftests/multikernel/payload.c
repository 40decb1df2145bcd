// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "../kselftest.h"
#include "payload.h"

/* Where things are in the instance's memory, from its base. */
#define CONTROL_AT	0
#define STACK_TOP	PAGE
#define CODE_AT		PAGE
#define TABLES_AT	(2 * PAGE)
#define TABLES		6

#define PRESENT_WRITABLE	0x3
#define LARGE			0x80
#define UNCACHED		0x10

int payload_map(struct payload *payload, struct instance *instance)
{
	void *shared = mmap(NULL, instance->shared_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    instance->fd, 0);

	if (shared == MAP_FAILED)
		return -errno;
	payload->instance = instance;
	payload->shared = shared;
	return 0;
}

/* Maps the first 4 GiB to themselves; the last GiB, with the local APIC in it, uncached. */
static void fill_tables(__u64 base, __u64 tables[TABLES][512])
{
	int i, j;

	tables[0][0] = (base + PAGE) | PRESENT_WRITABLE;
	for (i = 0; i < 4; i++) {
		tables[1][i] = (base + (2 + i) * PAGE) | PRESENT_WRITABLE;
		for (j = 0; j < 512; j++)
			tables[2 + i][j] = (i * 512ULL + j) << 21 | LARGE | PRESENT_WRITABLE |
					   (i == 3 ? UNCACHED : 0);
	}
}

static void put_u32(char *at, __u32 value)
{
	memcpy(at, &value, sizeof(value));
}

static void fill_storm(char *page, __u64 low, __u64 counters, __u32 own, __u32 sibling)
{
	memcpy(page, storm_begin, storm_end - storm_begin);
	put_u32(page + (storm_gdt_pointer - storm_begin) + 2, low + (storm_gdt - storm_begin));
	put_u32(page + (storm_far_pointer - storm_begin), low + (storm_long - storm_begin));
	put_u32(page + (storm_data - storm_begin) + STORM_IDS, own);
	put_u32(page + (storm_data - storm_begin) + STORM_IDS + 4, sibling);
	put_u32(page + (storm_data - storm_begin) + STORM_COUNTERS, counters);
}

int payload_load(struct payload *payload, int mode, __u32 own, __u32 sibling)
{
	static __u64 tables[TABLES][512];
	static char storm[PAGE];
	struct instance *instance = payload->instance;
	__u64 base = instance->base;
	struct control control = {
		.mode = mode,
		.shared = instance->shared_base,
		.cr3 = base + TABLES_AT,
		.stack = base + STACK_TOP,
		.sibling = sibling,
		.startup = instance->low,
	};
	struct kexec_segment list[] = {
		segment(&control, sizeof(control), base + CONTROL_AT, PAGE),
		segment(payload_begin, payload_end - payload_begin, base + CODE_AT, PAGE),
		segment(tables, sizeof(tables), base + TABLES_AT, sizeof(tables)),
		segment(storm, sizeof(storm), instance->low, PAGE),
	};

	/* What the tables do not reach, the payload cannot use. */
	if (base >> 32 || instance->shared_base >> 32)
		return -EOPNOTSUPP;
	memset(tables, 0, sizeof(tables));
	fill_tables(base + TABLES_AT, tables);
	fill_storm(storm, instance->low,
		   instance->shared_base + RECORD_OFFSET + RECORD_STORM, own, sibling);
	memset((void *)payload->shared + RECORD_OFFSET, 0, sizeof(struct record));
	memset((void *)payload->shared + SHARED_COUNTER, 0, sizeof(__u64));
	payload->entry = base + CODE_AT;
	payload->argument = base + CONTROL_AT;
	return load(instance->id, payload->entry, list, ARRAY_SIZE(list));
}

int payload_start(struct payload *payload)
{
	return start(payload->instance->fd, payload->argument);
}

const volatile struct record *payload_record(const struct payload *payload)
{
	return (const volatile void *)(payload->shared + RECORD_OFFSET);
}

__u32 shared_u32(const struct payload *payload, size_t offset)
{
	return *(volatile __u32 *)(payload->shared + offset);
}

__u64 shared_u64(const struct payload *payload, size_t offset)
{
	return *(volatile __u64 *)(payload->shared + offset);
}

void shared_set_u32(const struct payload *payload, size_t offset, __u32 value)
{
	*(volatile __u32 *)(payload->shared + offset) = value;
}

static __u64 now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
}

/* Looks again a moment later; the virtual machine's CPUs may share real ones. */
static bool go_on(__u64 deadline)
{
	nanosleep(&(struct timespec) { .tv_nsec = 1000000 }, NULL);
	return now_ms() < deadline;
}

bool wait_change(const struct payload *payload, size_t offset, __u32 value, int milliseconds)
{
	__u64 deadline = now_ms() + milliseconds;

	do {
		if (shared_u32(payload, offset) != value)
			return true;
	} while (go_on(deadline));
	return false;
}

bool wait_state(int fd, __u32 state, struct info *info, int milliseconds)
{
	__u64 deadline = now_ms() + milliseconds;

	do {
		if (!get_info(fd, info) && info->get.state == state)
			return true;
	} while (go_on(deadline));
	return false;
}
