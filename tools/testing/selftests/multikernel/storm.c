// SPDX-License-Identifier: GPL-2.0
/*
 * Forced stops of a spawn whose CPUs restart each other by INIT and SIPI all
 * the time: while the host stops one, the other starts it anew.
 *
 * vm: CPUS=4 MEM=2G APPEND="multikernel_selftest=storm"
 */
#include <unistd.h>

#include "../kselftest_harness.h"
#include "payload.h"

#define ROUNDS		20
#define PATIENCE	20000
#define QUIET		100
#define COUNTER(n)	(RECORD_OFFSET + RECORD_STORM + 4 * (n))

FIXTURE(storm)
{
	int device;
	__u64 pool;
	struct instance instance;
	struct payload payload;
	struct ledger before, after;
	struct info info;
};

FIXTURE_SETUP(storm)
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
	ASSERT_EQ(0, create(self->device, "storm", cpus, 2, &range, 1, &self->instance));
	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	ASSERT_EQ(0, payload_map(&self->payload, &self->instance));
}

FIXTURE_TEARDOWN(storm)
{
	EXPECT_EQ(1, destroy_all(self->device));
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

TEST_F_TIMEOUT(storm, is_ended_by_a_forced_stop, 240)
{
	const struct payload *payload = &self->payload;
	__u32 last[2];
	int round, i;

	for (round = 0; round < ROUNDS; round++) {
		ASSERT_EQ(0, payload_load(&self->payload, MODE_STORM, self->info.cpus[0].apic_id,
					  self->info.cpus[1].apic_id));
		ASSERT_EQ(0, payload_start(&self->payload));
		for (i = 0; i < 2; i++)
			ASSERT_TRUE(wait_change(payload, COUNTER(i), 0, PATIENCE))
				TH_LOG("round %d: CPU %d never came", round, i);
		ASSERT_EQ(0, stop_force(self->instance.fd))
			TH_LOG("round %d", round);
		for (i = 0; i < 2; i++)
			last[i] = shared_u32(payload, COUNTER(i));
		for (i = 0; i < 2; i++)
			EXPECT_FALSE(wait_change(payload, COUNTER(i), last[i], QUIET))
				TH_LOG("round %d: CPU %d goes on", round, i);
	}
}

TEST_HARNESS_MAIN
