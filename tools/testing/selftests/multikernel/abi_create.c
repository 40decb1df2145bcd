// SPDX-License-Identifier: GPL-2.0
/*
 * Creating instances and moving memory into and out of the pool: what is
 * refused, with which errno, and that a refusal changes nothing.
 *
 * vm: CPUS=4 MEM=2G
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "host.h"

FIXTURE(host)
{
	int device;
	__u64 pool;
	__u32 cpu;
	struct ledger before, after;
};

FIXTURE_SETUP(host)
{
	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	self->cpu = spare_cpu(&self->before, 0);
	ASSERT_NE(0, self->cpu);
	ASSERT_NE(0, spare_cpu(&self->before, 1));
}

FIXTURE_TEARDOWN(host)
{
	EXPECT_EQ(0, destroy_all(self->device));
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

static int try_cpus(int device, const __u32 *cpus, __u32 nr)
{
	struct multikernel_range range = any_range(UNIT);

	return create(device, "test", cpus, nr, &range, 1, NULL);
}

static int try_cpu(int device, __u32 cpu)
{
	return try_cpus(device, &cpu, 1);
}

static int try_range(int device, __u32 cpu, struct multikernel_range range)
{
	return create(device, "test", &cpu, 1, &range, 1, NULL);
}

static int try_name(int device, __u32 cpu, const char *name)
{
	struct multikernel_range range = any_range(UNIT);

	return create(device, name, &cpu, 1, &range, 1, NULL);
}

TEST_F(host, takes_and_gives_back)
{
	struct multikernel_range ranges[] = {
		any_range(UNIT),
		fixed_range(self->pool + 4 * UNIT, 2 * UNIT),
	};
	__u32 cpus[] = { self->cpu, spare_cpu(&self->before, 1) };
	struct instance instance;
	struct info info;
	__u32 i;

	ASSERT_EQ(0, create(self->device, "test-1.a_B", cpus, 2, ranges, 2, &instance));
	EXPECT_LE(1, instance.id);
	EXPECT_GE(MULTIKERNEL_ID_MAX, instance.id);
	ASSERT_EQ(0, get_info(instance.fd, &info));
	EXPECT_EQ(instance.id, info.get.id);
	EXPECT_STREQ("test-1.a_B", (char *)info.get.name);
	EXPECT_EQ(MULTIKERNEL_STATE_READY, info.get.state);
	EXPECT_EQ(MULTIKERNEL_REASON_NONE, info.get.reason);
	EXPECT_EQ(0, info.get.epoch);
	EXPECT_EQ(0, info.get.entry);
	ASSERT_EQ(2, info.get.nr_cpus);
	ASSERT_EQ(3, info.get.nr_ranges);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(cpus[i], info.cpus[i].cpu);
		EXPECT_EQ(MULTIKERNEL_OWNER_INSTANCE, info.cpus[i].owner);
		EXPECT_EQ(instance.id, info.cpus[i].id);
		EXPECT_EQ(0, info.cpus[i].online);
	}
	EXPECT_EQ(UNIT, info.ranges[0].size);
	EXPECT_EQ(self->pool + 4 * UNIT, info.ranges[1].base);
	EXPECT_EQ(2 * UNIT, info.ranges[1].size);
	EXPECT_EQ(MULTIKERNEL_RANGE_LOW, info.ranges[2].flags);
	EXPECT_EQ(65536, info.ranges[2].size);
	EXPECT_GE(MIB, info.ranges[2].base + info.ranges[2].size);
	/* The host can bring back neither by itself. */
	EXPECT_EQ(-EBUSY, cpu_set_online(cpus[0], true));
	EXPECT_EQ(-EBUSY, pool_shrink(self->device, self->pool + 4 * UNIT, UNIT));
	EXPECT_EQ(0, destroy(&instance));
}

TEST_F(host, every_page_below_1m_is_lent_once)
{
	struct multikernel_range range = any_range(UNIT);
	__u32 cpus[] = { self->cpu, spare_cpu(&self->before, 1) };
	struct multikernel_ioctl_create create = {
		.size = sizeof(create),
		.name = "low",
		.nr_cpus = 1,
		.nr_ranges = 1,
		.cpus = (uintptr_t)&cpus[0],
		.ranges = (uintptr_t)&range,
		.low_bytes = 524288,
	};
	struct multikernel_ioctl_create again = create;

	again.cpus = (uintptr_t)&cpus[1];
	memcpy(again.name, "lo2", 3);
	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_CREATE, &create));
	EXPECT_EQ(-ENOSPC, mk_ioctl(self->device, MULTIKERNEL_IOCTL_CREATE, &again));
	EXPECT_EQ(0, destroy(&(struct instance) { .fd = create.fd }));
}

TEST_F(host, low_bytes_out_of_range)
{
	static const __u32 wrong[] = { 1, 4095, 4097, 524288 + 4096, 0xfffff000 };
	struct multikernel_range range = any_range(UNIT);
	struct multikernel_ioctl_create create = {
		.size = sizeof(create),
		.name = "low",
		.nr_cpus = 1,
		.nr_ranges = 1,
		.cpus = (uintptr_t)&self->cpu,
		.ranges = (uintptr_t)&range,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		create.low_bytes = wrong[i];
		EXPECT_EQ(-EINVAL, mk_ioctl(self->device, MULTIKERNEL_IOCTL_CREATE, &create));
	}
}

TEST_F(host, cpu_that_cannot_be_lent)
{
	const __u32 last = self->before.cpus[self->before.nr_cpus - 1].cpu;
	__u32 all[LEDGER_CPUS], i;

	EXPECT_EQ(-EOPNOTSUPP, try_cpu(self->device, 0));
	EXPECT_EQ(-ENODEV, try_cpu(self->device, last + 1));
	EXPECT_EQ(-ENODEV, try_cpu(self->device, 100000));
	EXPECT_EQ(-ENODEV, try_cpu(self->device, UINT32_MAX));
	/* All that the host has, CPU 0 included. */
	for (i = 0; i < self->before.nr_cpus; i++)
		all[i] = self->before.cpus[self->before.nr_cpus - 1 - i].cpu;
	EXPECT_EQ(-EOPNOTSUPP, try_cpus(self->device, all, self->before.nr_cpus));
	/* One that can be lent does not go with one that cannot. */
	all[1] = 0;
	EXPECT_EQ(-EOPNOTSUPP, try_cpus(self->device, all, 2));
}

TEST_F(host, cpu_that_is_offline)
{
	__u32 cpus[] = { spare_cpu(&self->before, 1), self->cpu };

	ASSERT_EQ(0, cpu_set_online(self->cpu, false));
	EXPECT_EQ(-ENETDOWN, try_cpu(self->device, self->cpu));
	EXPECT_EQ(-ENETDOWN, try_cpus(self->device, cpus, 2));
	ASSERT_EQ(0, cpu_set_online(self->cpu, true));
}

TEST_F(host, cpu_that_is_lent)
{
	struct multikernel_range range = any_range(UNIT);
	__u32 cpus[] = { spare_cpu(&self->before, 1), self->cpu };
	struct instance instance;

	ASSERT_EQ(0, create(self->device, "first", &self->cpu, 1, &range, 1, &instance));
	EXPECT_EQ(-EBUSY, try_cpu(self->device, self->cpu));
	EXPECT_EQ(-EBUSY, try_cpus(self->device, cpus, 2));
	EXPECT_EQ(0, destroy(&instance));
}

TEST_F(host, cpu_lists_of_impossible_length)
{
	static __u32 many[MULTIKERNEL_CPUS_MAX + 1];
	__u32 twice[] = { self->cpu, self->cpu };

	EXPECT_EQ(-EINVAL, try_cpus(self->device, twice, 0));
	EXPECT_EQ(-EINVAL, try_cpus(self->device, twice, 2));
	EXPECT_EQ(-EINVAL, try_cpus(self->device, many, MULTIKERNEL_CPUS_MAX + 1));
	EXPECT_EQ(-EINVAL, try_cpus(self->device, many, UINT32_MAX));
}

TEST_F(host, malformed_range)
{
	struct multikernel_range wrong[] = {
		any_range(0),
		any_range(4096),
		any_range(UNIT + 1),
		fixed_range(self->pool + 4096, UNIT),
		fixed_range(self->pool, UNIT / 2),
		fixed_range(-UNIT, 2 * UNIT),
		fixed_range(self->pool, -UNIT),
		/* An address that is not asked for. */
		{ .base = self->pool, .size = UNIT, .nid = -1 },
		/* Both, so nowhere. */
		{ .size = UNIT, .nid = -1, .flags = MULTIKERNEL_RANGE_BELOW_4G |
						    MULTIKERNEL_RANGE_ABOVE_4G },
		/* Flags of a list, and one that nobody knows. */
		{ .size = UNIT, .nid = -1, .flags = MULTIKERNEL_RANGE_BOOT },
		{ .size = UNIT, .nid = -1, .flags = MULTIKERNEL_RANGE_LOW },
		{ .size = UNIT, .nid = -1, .flags = 0x80000000 },
		{ .size = UNIT, .nid = -2 },
		{ .size = UNIT, .nid = 1000000 },
		{ .size = UNIT, .nid = -1, .owner = MULTIKERNEL_OWNER_POOL },
		{ .size = UNIT, .nid = -1, .id = 1 },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(wrong); i++)
		EXPECT_EQ(-EINVAL, try_range(self->device, self->cpu, wrong[i]))
			TH_LOG("range %zu", i);
}

TEST_F(host, memory_that_is_not_there)
{
	/* The host's own: the pool's neighbour, the first page, nothing at all. */
	EXPECT_EQ(-EADDRNOTAVAIL,
		  try_range(self->device, self->cpu, fixed_range(self->pool + POOL, UNIT)));
	EXPECT_EQ(-EADDRNOTAVAIL,
		  try_range(self->device, self->cpu, fixed_range(self->pool, POOL + UNIT)));
	EXPECT_EQ(-EADDRNOTAVAIL, try_range(self->device, self->cpu, fixed_range(0, UNIT)));
	EXPECT_EQ(-EADDRNOTAVAIL,
		  try_range(self->device, self->cpu, fixed_range(1ULL << 46, UNIT)));
	EXPECT_EQ(-ENOSPC, try_range(self->device, self->cpu, any_range(POOL + UNIT)));
	EXPECT_EQ(-ENOSPC, try_range(self->device, self->cpu, any_range(1ULL << 62)));
	EXPECT_EQ(-ENOSPC, try_range(self->device, self->cpu,
				     (struct multikernel_range) {
					     .size = UNIT, .nid = -1,
					     .flags = MULTIKERNEL_RANGE_ABOVE_4G }));
}

TEST_F(host, memory_that_is_not_contiguous)
{
	/* A hole in the middle of the pool: enough in sum, and not in one piece. */
	ASSERT_EQ(0, pool_shrink(self->device, self->pool + 3 * UNIT, 2 * UNIT));
	EXPECT_EQ(-ENOSPC, try_range(self->device, self->cpu, any_range(4 * UNIT)));
	EXPECT_EQ(-EADDRNOTAVAIL,
		  try_range(self->device, self->cpu, fixed_range(self->pool, 4 * UNIT)));
	EXPECT_EQ(-EADDRNOTAVAIL,
		  pool_shrink(self->device, self->pool + 2 * UNIT, 2 * UNIT));
	/* The pool as it was, for the comparison: it need not come from the same place. */
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, 3 * UNIT));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool + 5 * UNIT, 3 * UNIT));
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_EQ(self->before.nr_ids, self->after.nr_ids);
	EXPECT_EQ(0, memcmp(self->before.cpus, self->after.cpus, sizeof(self->after.cpus)));
	self->before = self->after;
}

TEST_F(host, memory_that_is_lent)
{
	struct multikernel_range range = fixed_range(self->pool + 2 * UNIT, 2 * UNIT);
	__u32 other = spare_cpu(&self->before, 1);
	struct multikernel_range twice[] = {
		fixed_range(self->pool, UNIT),
		fixed_range(self->pool, UNIT),
	};
	struct instance instance, beside;

	ASSERT_EQ(0, create(self->device, "first", &self->cpu, 1, &range, 1, &instance));
	EXPECT_EQ(-EBUSY, try_range(self->device, other, range));
	EXPECT_EQ(-EBUSY, try_range(self->device, other, fixed_range(self->pool + UNIT, 2 * UNIT)));
	EXPECT_EQ(-EBUSY, try_range(self->device, other,
				    fixed_range(self->pool + 3 * UNIT, 2 * UNIT)));
	EXPECT_EQ(-EBUSY, pool_shrink(self->device, self->pool, POOL));
	/* What lies right before it is free. */
	range = fixed_range(self->pool + UNIT, UNIT);
	EXPECT_EQ(0, create(self->device, "beside", &other, 1, &range, 1, &beside));
	EXPECT_EQ(0, destroy(&beside));
	EXPECT_EQ(0, destroy(&instance));
	/* The same memory asked for twice in one request. */
	EXPECT_EQ(-EINVAL, create(self->device, "test", &self->cpu, 1, twice, 2, NULL));
}

TEST_F(host, range_lists_of_impossible_length)
{
	struct multikernel_range many[MULTIKERNEL_RANGES_MAX + 1];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = any_range(UNIT);
	EXPECT_EQ(-EINVAL, create(self->device, "test", &self->cpu, 1, many, 0, NULL));
	EXPECT_EQ(-EINVAL, create(self->device, "test", &self->cpu, 1, many, 17, NULL));
	EXPECT_EQ(-EINVAL, create(self->device, "test", &self->cpu, 1, many, UINT32_MAX, NULL));
	/* As many as there may be, the last of which the pool does not have. */
	EXPECT_EQ(-ENOSPC, create(self->device, "test", &self->cpu, 1, many, 16, NULL));
}

TEST_F(host, name_that_is_none)
{
	static const char *const wrong[] = {
		"", ".", "..", "a/b", "/", "a b", "a\n", "\x7f", "\xc3\xa4", "a:b",
	};
	struct multikernel_range range = any_range(UNIT);
	struct multikernel_ioctl_create behind = {
		.size = sizeof(behind),
		.name = "a\0b",
		.nr_cpus = 1,
		.nr_ranges = 1,
		.cpus = (uintptr_t)&self->cpu,
		.ranges = (uintptr_t)&range,
	};
	char longest[MULTIKERNEL_NAME_LENGTH + 1];
	struct instance instance;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(wrong); i++)
		EXPECT_EQ(-EINVAL, try_name(self->device, self->cpu, wrong[i]))
			TH_LOG("name '%s'", wrong[i]);
	EXPECT_EQ(-EINVAL, mk_ioctl(self->device, MULTIKERNEL_IOCTL_CREATE, &behind));
	memset(longest, 'x', sizeof(longest));
	EXPECT_EQ(-ENAMETOOLONG, try_name(self->device, self->cpu, longest));
	longest[MULTIKERNEL_NAME_LENGTH - 1] = 0;
	ASSERT_EQ(0, create(self->device, longest, &self->cpu, 1, &range, 1, &instance));
	EXPECT_EQ(-EEXIST, try_name(self->device, spare_cpu(&self->before, 1), longest));
	EXPECT_EQ(0, destroy(&instance));
}

static int pool(int device, unsigned long command, __u32 flags, __u64 base, __u64 bytes, __s32 nid)
{
	struct multikernel_ioctl_pool pool = {
		.size = sizeof(pool),
		.flags = flags,
		.base = base,
		.bytes = bytes,
		.nid = nid,
	};

	return mk_ioctl(device, command, &pool);
}

TEST_F(host, pool_refuses)
{
	static const unsigned long both[] = {
		MULTIKERNEL_IOCTL_POOL_GROW, MULTIKERNEL_IOCTL_POOL_SHRINK,
	};
	const unsigned long grow = both[0], shrink = both[1];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(both); i++) {
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], 0, 0, 0, -1));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], 0, 0, 4096, -1));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], 0, 0, UNIT + 1, -1));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], 0, UNIT, UNIT, -1));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], 0x80000000, 0, UNIT, -1));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], MULTIKERNEL_RANGE_BOOT,
					0, UNIT, -1));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], 0, 0, UNIT, -2));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], 0, 0, UNIT, 1000000));
		EXPECT_EQ(-EINVAL, pool(self->device, both[i], MULTIKERNEL_RANGE_BELOW_4G |
					MULTIKERNEL_RANGE_ABOVE_4G, 0, UNIT, -1));
	}
	EXPECT_EQ(-EINVAL, pool(self->device, grow, MULTIKERNEL_RANGE_FIXED, 0, UNIT, -1));
	EXPECT_EQ(-ENOSPC, pool(self->device, grow, 0, 0, 1ULL << 40, -1));
	EXPECT_EQ(-ENOSPC, pool(self->device, grow, 0, 0, 1ULL << 63, -1));
	EXPECT_EQ(-ENOSPC, pool(self->device, grow, 0, 0, -UNIT, -1));
	EXPECT_EQ(-ENOSPC, pool(self->device, shrink, 0, 0, POOL + UNIT, -1));
	EXPECT_EQ(-ENOSPC, pool(self->device, shrink, MULTIKERNEL_RANGE_ABOVE_4G, 0, UNIT, -1));
	EXPECT_EQ(-EADDRNOTAVAIL, pool_shrink(self->device, self->pool + POOL, UNIT));
	EXPECT_EQ(-EADDRNOTAVAIL, pool_shrink(self->device, self->pool, POOL + UNIT));
	EXPECT_EQ(-EINVAL, pool_shrink(self->device, self->pool + 4096, UNIT));
	EXPECT_EQ(-EINVAL, pool_shrink(self->device, -UNIT, 2 * UNIT));
}

TEST_HARNESS_MAIN
