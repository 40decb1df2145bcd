// SPDX-License-Identifier: GPL-2.0
/*
 * That a spawn really executes, in the state that the ABI promises; and that a
 * forced stop ends it whatever it does, for good.
 *
 * vm: CPUS=4 MEM=2G
 */
#include <errno.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "payload.h"

/* Long, for a machine whose CPUs have to share one. Only a failure takes so long. */
#define PATIENCE	20000
/* How long something that must not happen is waited for. */
#define QUIET		200

FIXTURE(execute)
{
	int device;
	__u64 pool;
	__u32 own, sibling;
	struct instance instance;
	struct payload payload;
	struct ledger before, after;
	struct info info;
};

FIXTURE_SETUP(execute)
{
	struct multikernel_range range;
	__u32 cpus[2];

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	range = fixed_range(self->pool, UNIT);
	cpus[0] = spare_cpu(&self->before, 0);
	cpus[1] = spare_cpu(&self->before, 1);
	ASSERT_NE(0, cpus[1]);
	ASSERT_EQ(0, create(self->device, "execute", cpus, 2, &range, 1, &self->instance));
	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	self->own = self->info.cpus[0].apic_id;
	self->sibling = self->info.cpus[1].apic_id;
	ASSERT_EQ(0, payload_map(&self->payload, &self->instance));
}

FIXTURE_TEARDOWN(execute)
{
	EXPECT_EQ(1, destroy_all(self->device));
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

/* The heartbeat beats, and after a forced stop never again. */
static void stop_is_final(struct __test_metadata *const _metadata,
			  FIXTURE_DATA(execute) *self, size_t counter)
{
	const struct payload *payload = &self->payload;
	__u32 last = shared_u32(payload, counter);

	ASSERT_TRUE(wait_change(payload, counter, last, PATIENCE));
	ASSERT_EQ(0, stop_force(self->instance.fd));
	last = shared_u32(payload, counter);
	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	EXPECT_EQ(MULTIKERNEL_STATE_STOPPED, self->info.get.state);
	EXPECT_EQ(MULTIKERNEL_REASON_FORCED, self->info.get.reason);
	EXPECT_FALSE(wait_change(payload, counter, last, QUIET));
	EXPECT_EQ(-EALREADY, stop_force(self->instance.fd));
}

TEST_F_TIMEOUT(execute, state_at_the_entry, 60)
{
	const volatile struct record *record = payload_record(&self->payload);
	size_t i;

	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, self->own, self->sibling));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_change(&self->payload, RECORD_OFFSET + RECORD_DONE, 0, PATIENCE));
	EXPECT_EQ(self->payload.argument, record->rsi);
	EXPECT_EQ(self->payload.entry, record->rax);
	for (i = 0; i < ARRAY_SIZE(record->others); i++)
		EXPECT_EQ(0, record->others[i])
			TH_LOG("register %zu", i);
	/* PG, WP and PE; caching on. */
	EXPECT_EQ(0x80010001, record->cr0 & 0xe0010001);
	/* PAE; neither 5-level paging nor PCIDs, which would give CR3 another meaning. */
	EXPECT_EQ(0x20, record->cr4 & 0x21020);
	/* LMA and LME. */
	EXPECT_EQ(0x500, record->efer & 0x500);
	/* Interrupts off, direction up. */
	EXPECT_EQ(0, record->flags & 0x600);
	/* __BOOT_CS and __BOOT_DS, as the 64-bit boot protocol wants them. */
	EXPECT_EQ(0x10, record->cs);
	EXPECT_EQ(0x18, record->ss);
	stop_is_final(_metadata, self, SHARED_COUNTER);
}

TEST_F_TIMEOUT(execute, header_of_each_life, 60)
{
	const struct payload *payload = &self->payload;
	__u32 life;

	for (life = 1; life <= 3; life++) {
		ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, self->own, self->sibling));
		shared_set_u32(payload, SHARED_GUEST_STATE, 77);
		shared_set_u32(payload, SHARED_REQUEST, 77);
		ASSERT_EQ(0, payload_start(&self->payload));
		EXPECT_EQ(0x4445524148534b4dULL, shared_u64(payload, SHARED_MAGIC));
		EXPECT_EQ(1, shared_u32(payload, SHARED_VERSION));
		EXPECT_EQ(self->instance.id, shared_u32(payload, SHARED_ID));
		EXPECT_EQ(life, shared_u32(payload, SHARED_EPOCH));
		EXPECT_EQ(0, shared_u32(payload, SHARED_REQUEST));
		EXPECT_EQ(0, shared_u32(payload, SHARED_GUEST_STATE));
		EXPECT_STREQ("execute", (char *)payload->shared + SHARED_NAME);
		stop_is_final(_metadata, self, SHARED_COUNTER);
		EXPECT_EQ(life, self->info.get.epoch);
	}
}

TEST_F_TIMEOUT(execute, stops_a_halted_cpu, 60)
{
	ASSERT_EQ(0, payload_load(&self->payload, MODE_HALT, self->own, self->sibling));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_change(&self->payload, SHARED_COUNTER, 0, PATIENCE));
	EXPECT_EQ(0, stop_force(self->instance.fd));
	EXPECT_EQ(-EALREADY, stop_force(self->instance.fd));
}

TEST_F_TIMEOUT(execute, stops_a_cpu_in_an_nmi, 60)
{
	ASSERT_EQ(0, payload_load(&self->payload, MODE_NMI, self->own, self->sibling));
	ASSERT_EQ(0, payload_start(&self->payload));
	stop_is_final(_metadata, self, SHARED_COUNTER);
}

TEST_F_TIMEOUT(execute, powers_off_when_asked, 60)
{
	ASSERT_EQ(0, payload_load(&self->payload, MODE_OBEY, self->own, self->sibling));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_change(&self->payload, SHARED_GUEST_STATE, 0, PATIENCE));
	ASSERT_EQ(0, stop_in_order(self->instance.fd, PATIENCE));
	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	EXPECT_EQ(MULTIKERNEL_STATE_STOPPED, self->info.get.state);
	EXPECT_EQ(MULTIKERNEL_REASON_POWEROFF, self->info.get.reason);
}

TEST_F_TIMEOUT(execute, ends_by_itself, 60)
{
	ASSERT_EQ(0, payload_load(&self->payload, MODE_PANIC, self->own, self->sibling));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info,
			       PATIENCE));
	EXPECT_EQ(MULTIKERNEL_REASON_PANIC, self->info.get.reason);
	EXPECT_EQ(-EALREADY, stop_force(self->instance.fd));

	ASSERT_EQ(0, payload_load(&self->payload, MODE_RESTART, self->own, self->sibling));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_state(self->instance.fd, MULTIKERNEL_STATE_STOPPED, &self->info,
			       PATIENCE));
	EXPECT_EQ(MULTIKERNEL_REASON_RESTART, self->info.get.reason);
}

TEST_HARNESS_MAIN
