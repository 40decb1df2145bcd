// SPDX-License-Identifier: GPL-2.0
/*
 * Calls that do not fit an instance's state, and signals during waits: what is
 * refused, with which errno, and that the instance goes on as it was.
 *
 * vm: CPUS=4 MEM=2G
 */
#include <errno.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "payload.h"

#define PATIENCE	20000

FIXTURE(life)
{
	int device;
	__u64 pool;
	__u32 cpu;
	struct instance instance;
	struct payload payload;
	struct ledger before, after;
	struct info info;
};

FIXTURE_SETUP(life)
{
	struct multikernel_range range;

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	range = fixed_range(self->pool, UNIT);
	self->cpu = spare_cpu(&self->before, 0);
	ASSERT_NE(0, self->cpu);
	ASSERT_EQ(0, create(self->device, "life", &self->cpu, 1, &range, 1, &self->instance));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	ASSERT_EQ(0, payload_map(&self->payload, &self->instance));
}

FIXTURE_TEARDOWN(life)
{
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(1, destroy_all(self->device));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

static int ring(int fd)
{
	struct multikernel_ioctl_simple simple = { .size = sizeof(simple) };

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_RING, &simple);
}

static void run(struct __test_metadata *const _metadata, FIXTURE_DATA(life) *self)
{
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_change(&self->payload, SHARED_COUNTER, 0, PATIENCE));
}

/* It is Running and its CPU still does what it did. */
static void goes_on(struct __test_metadata *const _metadata, FIXTURE_DATA(life) *self)
{
	__u32 beat = shared_u32(&self->payload, SHARED_COUNTER);

	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	EXPECT_EQ(MULTIKERNEL_STATE_RUNNING, self->info.get.state);
	EXPECT_EQ(MULTIKERNEL_REASON_NONE, self->info.get.reason);
	EXPECT_TRUE(wait_change(&self->payload, SHARED_COUNTER, beat, PATIENCE));
}

TEST_F_TIMEOUT(life, not_running, 60)
{
	int fd = self->instance.fd;

	EXPECT_EQ(-ENOEXEC, start(fd, self->instance.base));
	EXPECT_EQ(-EALREADY, stop_force(fd));
	EXPECT_EQ(-EALREADY, stop_in_order(fd, 1));
	EXPECT_EQ(-EALREADY, ring(fd));
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	EXPECT_EQ(-EALREADY, stop_force(fd));
	EXPECT_EQ(-EALREADY, stop_in_order(fd, 1));
	EXPECT_EQ(-EALREADY, ring(fd));
	/* Of an argument that is not its memory nothing good can come. */
	EXPECT_EQ(-EADDRNOTAVAIL, start(fd, self->instance.base - 1));
	EXPECT_EQ(-EADDRNOTAVAIL, start(fd, self->instance.base + self->instance.size));
	EXPECT_EQ(-EADDRNOTAVAIL, start(fd, self->instance.shared_base));
	EXPECT_EQ(-EADDRNOTAVAIL, start(fd, ~0ULL));
	ASSERT_EQ(0, get_info(fd, &self->info));
	EXPECT_EQ(MULTIKERNEL_STATE_LOADED, self->info.get.state);
	EXPECT_EQ(0, self->info.get.epoch);
	ASSERT_EQ(0, load(self->instance.id, 0, NULL, 0));
	EXPECT_EQ(-ENOEXEC, start(fd, self->instance.base));
}

TEST_F_TIMEOUT(life, running, 60)
{
	struct multikernel_ioctl_simple simple = { .size = sizeof(simple) };
	struct kexec_segment one = segment(NULL, 0, self->instance.base, PAGE);
	int fd = self->instance.fd;

	run(_metadata, self);
	EXPECT_EQ(-EBUSY, payload_start(&self->payload));
	EXPECT_EQ(-EBUSY, load(self->instance.id, self->instance.base, &one, 1));
	EXPECT_EQ(-EBUSY, load(self->instance.id, 0, NULL, 0));
	EXPECT_EQ(-EBUSY, mk_ioctl(fd, MULTIKERNEL_IOCTL_DESTROY, &simple));
	EXPECT_EQ(-EBUSY, cpu_set_online(self->cpu, true));
	goes_on(_metadata, self);
	ASSERT_EQ(0, stop_force(fd));
	EXPECT_EQ(-EALREADY, stop_force(fd));
	/* A spawn changes what was loaded: it cannot be started as it is. */
	EXPECT_EQ(-ENOEXEC, payload_start(&self->payload));
	run(_metadata, self);
	ASSERT_EQ(0, stop_force(fd));
}

TEST_F_TIMEOUT(life, cpus_while_it_runs, 120)
{
	__u32 more = spare_cpu(&self->before, 0), third = spare_cpu(&self->before, 1);
	struct multikernel_range range = any_range(UNIT);
	struct multikernel_ioctl_start start_for_two = {
		.size = sizeof(start_for_two),
		.cpus_max = 2,
	};
	int fd = self->instance.fd;
	struct instance other;

	ASSERT_NE(0, third);
	/* Its image was not said to know of more. */
	run(_metadata, self);
	EXPECT_EQ(-ENOSPC, add_cpus(fd, 0, &more, 1));
	goes_on(_metadata, self);
	EXPECT_EQ(1, self->info.get.nr_cpus);
	ASSERT_EQ(0, stop_force(fd));

	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	start_for_two.argument = self->payload.argument;
	ASSERT_EQ(0, mk_ioctl(fd, MULTIKERNEL_IOCTL_START, &start_for_two));
	ASSERT_TRUE(wait_change(&self->payload, SHARED_COUNTER, 0, PATIENCE));
	ASSERT_EQ(0, add_cpus(fd, 0, &more, 1));
	goes_on(_metadata, self);
	EXPECT_EQ(2, self->info.get.nr_cpus);
	EXPECT_EQ(more, self->info.cpus[1].cpu);
	EXPECT_EQ(-ENOSPC, add_cpus(fd, 0, &third, 1));

	/* What runs keeps its CPUs. */
	ASSERT_EQ(0, create(self->device, "other", &third, 1, &range, 1, &other));
	EXPECT_EQ(-EBUSY, add_cpus(other.fd, self->instance.id, &more, 1));
	goes_on(_metadata, self);
	ASSERT_EQ(0, stop_force(fd));

	/* An image was made for these. */
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	EXPECT_EQ(-EBUSY, add_cpus(other.fd, self->instance.id, &more, 1));
	/* As many as it has, at least. */
	start_for_two.cpus_max = 1;
	EXPECT_EQ(-EINVAL, mk_ioctl(fd, MULTIKERNEL_IOCTL_START, &start_for_two));
	ASSERT_EQ(0, load(self->instance.id, 0, NULL, 0));
	ASSERT_EQ(0, add_cpus(other.fd, self->instance.id, &more, 1));
	ASSERT_EQ(0, destroy(&other));
}

TEST_F_TIMEOUT(life, malformed_stop, 60)
{
	struct multikernel_ioctl_stop both = {
		.size = sizeof(both),
		.flags = MULTIKERNEL_STOP_FORCE,
		.timeout_ms = 1,
	};
	int fd = self->instance.fd;

	run(_metadata, self);
	EXPECT_EQ(-EINVAL, stop_in_order(fd, 0));
	EXPECT_EQ(-EINVAL, stop_in_order(fd, 3600001));
	EXPECT_EQ(-EINVAL, mk_ioctl(fd, MULTIKERNEL_IOCTL_STOP, &both));
	goes_on(_metadata, self);
	ASSERT_EQ(0, stop_force(fd));
}

/* The spawn's word is the test's here: it writes what a spawn would. */
TEST_F_TIMEOUT(life, spawn_that_does_not_answer, 60)
{
	const struct payload *payload = &self->payload;
	int fd = self->instance.fd;

	run(_metadata, self);
	ASSERT_EQ(0, get_info(fd, &self->info));
	/* It cannot be asked, nor rung. */
	EXPECT_EQ(-EOPNOTSUPP, stop_in_order(fd, 1));
	EXPECT_EQ(-EOPNOTSUPP, ring(fd));
	/* Vectors of exceptions and beyond, a CPU that is not its own. */
	shared_set_u32(payload, SHARED_GUEST_APIC_ID, self->info.cpus[0].apic_id);
	shared_set_u32(payload, SHARED_GUEST_VECTOR, 31);
	EXPECT_EQ(-EOPNOTSUPP, ring(fd));
	shared_set_u32(payload, SHARED_GUEST_VECTOR, 256);
	EXPECT_EQ(-EOPNOTSUPP, ring(fd));
	shared_set_u32(payload, SHARED_GUEST_VECTOR, 0xffffff41);
	EXPECT_EQ(-EOPNOTSUPP, ring(fd));
	shared_set_u32(payload, SHARED_GUEST_VECTOR, 0x41);
	shared_set_u32(payload, SHARED_GUEST_APIC_ID, self->before.cpus[0].apic_id);
	EXPECT_EQ(-EOPNOTSUPP, ring(fd));
	shared_set_u32(payload, SHARED_GUEST_APIC_ID, 0xffffffff);
	EXPECT_EQ(-EOPNOTSUPP, ring(fd));
	/* States that mean nothing, or not an end. */
	shared_set_u32(payload, SHARED_GUEST_STATE, 0xffffffff);
	shared_set_u32(payload, SHARED_GUEST_STATE, 1);
	/* It can be asked now, and takes no notice. */
	shared_set_u32(payload, SHARED_GUEST_APIC_ID, self->info.cpus[0].apic_id);
	shared_set_u32(payload, SHARED_GUEST_FEATURES, GUEST_FEATURE_REQUEST);
	EXPECT_EQ(0, ring(fd));
	EXPECT_EQ(-ETIMEDOUT, stop_in_order(fd, 50));
	EXPECT_EQ(1, shared_u32(payload, SHARED_REQUEST));
	goes_on(_metadata, self);
	ASSERT_EQ(0, stop_force(fd));
}

static void on_alarm(int signal)
{
}

/* The one wait that a signal can end; the others are a matter of milliseconds. */
TEST_F_TIMEOUT(life, signal_during_a_wait, 60)
{
	/* Repeated: the first may come before the wait has begun. */
	struct itimerval often = {
		.it_interval = { .tv_usec = 50000 },
		.it_value = { .tv_usec = 50000 },
	}, never = { };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	const struct payload *payload = &self->payload;
	int fd = self->instance.fd;

	run(_metadata, self);
	ASSERT_EQ(0, get_info(fd, &self->info));
	shared_set_u32(payload, SHARED_GUEST_APIC_ID, self->info.cpus[0].apic_id);
	shared_set_u32(payload, SHARED_GUEST_VECTOR, 0x41);
	shared_set_u32(payload, SHARED_GUEST_FEATURES, GUEST_FEATURE_REQUEST);

	ASSERT_EQ(0, sigaction(SIGALRM, &action, NULL));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &often, NULL));
	EXPECT_EQ(-EINTR, stop_in_order(fd, 3600000));
	EXPECT_EQ(1, shared_u32(payload, SHARED_REQUEST));
	goes_on(_metadata, self);
	/* Nothing else is disturbed by signals. */
	EXPECT_EQ(-EBUSY, payload_start(&self->payload));
	EXPECT_EQ(0, stop_force(fd));
	EXPECT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	EXPECT_EQ(0, payload_start(&self->payload));
	EXPECT_EQ(0, stop_force(fd));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &never, NULL));
}

TEST_F_TIMEOUT(life, fds_do_not_matter, 60)
{
	run(_metadata, self);
	close(self->instance.fd);
	ASSERT_EQ(0, open_by_id(self->device, self->instance.id, &self->instance.fd));
	goes_on(_metadata, self);
	ASSERT_EQ(0, stop_force(self->instance.fd));
}

TEST_HARNESS_MAIN
