// SPDX-License-Identifier: GPL-2.0
/*
 * CPUs that fail: at each step of the host's CPU hotplug, by cpuN/hotplug/fail,
 * and those that do not say that they have parked, by what
 * CONFIG_MULTIKERNEL_FAULT_INJECTION has in debugfs.
 *
 * vm: CPUS=4 MEM=2G TIMEOUT=900
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "fault.h"
#include "payload.h"

#define PATIENCE	20000
#define CPUS		"/sys/devices/system/cpu/"
#define STATES		256
/* More than a stop tries. */
#define ALWAYS		100000

FIXTURE(fault_cpu)
{
	int device;
	__u64 pool;
	__u32 cpus[2];
	struct instance instance;
	struct payload payload;
	/* Steps of CPU hotplug. */
	int states[STATES], nr_states;
	struct snapshot start, before, after;
	struct info info;
};

static void look(FIXTURE_DATA(fault_cpu) *self, struct snapshot *snapshot)
{
	snapshot_take(self->device, &self->instance, snapshot);
}

static bool is_changed(FIXTURE_DATA(fault_cpu) *self, const struct snapshot *before)
{
	look(self, &self->after);
	return !snapshot_same(before, &self->after);
}

static int create_it(FIXTURE_DATA(fault_cpu) *self)
{
	struct multikernel_range range = fixed_range(self->pool, UNIT);

	return create(self->device, "fault", self->cpus, 2, &range, 1, &self->instance);
}

static int destroy_it(FIXTURE_DATA(fault_cpu) *self)
{
	int err = destroy(&self->instance);

	if (!err)
		self->instance.id = 0;
	return err;
}

/*
 * The steps that there are, from "state: name" lines, but for that in which the
 * kernel waits for a CPU that has been started: "fail" has it not wait. When it
 * tries again, the INIT then meets the CPU in the trampoline of
 * arch/x86/realmode/rm/trampoline_64.S, which one CPU at a time may use, and
 * which stays locked then: no CPU comes online any more. A CPU that was waited
 * for, and is given up, is not there.
 */
static int read_states(FIXTURE_DATA(fault_cpu) *self)
{
	FILE *file = fopen(CPUS "hotplug/states", "r");
	char line[128];

	if (!file)
		return -errno;
	while (self->nr_states < STATES && fgets(line, sizeof(line), file)) {
		if (!strstr(line, ": cpu:bringup\n"))
			self->states[self->nr_states++] = atoi(line);
	}
	fclose(file);
	return 0;
}

FIXTURE_SETUP(fault_cpu)
{
	int i;

	if (miss_confirmations(0) || miss_roll_calls(0))
		SKIP(return, "the kernel has no CONFIG_MULTIKERNEL_FAULT_INJECTION");
	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, read_states(self));
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	look(self, &self->start);
	for (i = 0; i < 2; i++) {
		self->cpus[i] = spare_cpu(&self->start.ledger, i);
		ASSERT_NE(0, self->cpus[i]);
	}
}

FIXTURE_TEARDOWN(fault_cpu)
{
	if (!self->pool)
		return;
	miss_confirmations(0);
	miss_roll_calls(0);
	EXPECT_EQ(0, destroy_all(self->device));
	EXPECT_FALSE(is_changed(self, &self->start));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

/* Steps of CPU hotplug. ------------------------------------------------------ */

static int fail_open(__u32 cpu)
{
	char path[64];

	snprintf(path, sizeof(path), CPUS "cpu%u/hotplug/fail", cpu);
	return open(path, O_RDWR);
}

/* The next time that this CPU comes to this step, it fails; -1: at none. */
static int fail_at(int fd, int state)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", state);
	return pwrite(fd, text, strlen(text), 0) < 0 ? -errno : 0;
}

static bool has_failed(int fd)
{
	char text[16] = "";

	return pread(fd, text, sizeof(text) - 1, 0) > 0 && atoi(text) == -1;
}

/*
 * Each step of taking a CPU offline fails, of the first CPU and of the second,
 * when the first has been parked already.
 */
TEST_F_TIMEOUT(fault_cpu, offline_fails, 300)
{
	unsigned int failed[2] = { };
	int i, which, fd, err;

	for (which = 0; which < 2; which++) {
		fd = fail_open(self->cpus[which]);
		ASSERT_LE(0, fd);
		look(self, &self->before);
		for (i = 0; i < self->nr_states; i++) {
			if (fail_at(fd, self->states[i]))
				continue;
			err = create_it(self);
			if (has_failed(fd)) {
				EXPECT_EQ(-EAGAIN, err)
					TH_LOG("step %d: %s", self->states[i], strerror(-err));
				failed[which]++;
			} else {
				EXPECT_EQ(0, err);
			}
			fail_at(fd, -1);
			if (!err)
				ASSERT_EQ(0, destroy_it(self));
			ASSERT_FALSE(is_changed(self, &self->before))
				TH_LOG("step %d: something is left", self->states[i]);
		}
		close(fd);
	}
	printf("# create failed at %u steps of the first CPU, %u of the second\n",
	       failed[0], failed[1]);
	EXPECT_NE(0, failed[0]);
	EXPECT_EQ(failed[0], failed[1]);
}

/* A failure that goes away: destroy tries again, and nobody notices. */
TEST_F_TIMEOUT(fault_cpu, online_fails_once, 300)
{
	unsigned int failed = 0;
	int i, fd;

	look(self, &self->before);
	for (i = 0; i < self->nr_states; i++) {
		ASSERT_EQ(0, create_it(self));
		fd = fail_open(self->cpus[0]);
		ASSERT_LE(0, fd);
		if (!fail_at(fd, self->states[i])) {
			ASSERT_EQ(0, destroy_it(self));
			failed += has_failed(fd);
			fail_at(fd, -1);
		} else {
			ASSERT_EQ(0, destroy_it(self));
		}
		close(fd);
		ASSERT_FALSE(is_changed(self, &self->before))
			TH_LOG("step %d: something is left", self->states[i]);
	}
	printf("# bringing a CPU online failed once at %u steps\n", failed);
	EXPECT_NE(0, failed);
}

struct saboteur {
	pthread_t thread;
	int fd, state;
	bool stop;
};

/* Has the step fail each time: the kernel forgets it after the first. */
static void *sabotage(void *argument)
{
	struct saboteur *saboteur = argument;

	while (!__atomic_load_n(&saboteur->stop, __ATOMIC_RELAXED))
		fail_at(saboteur->fd, saboteur->state);
	return NULL;
}

/* A failure that stays: the CPU is the host's, offline, until somebody tries again. */
TEST_F_TIMEOUT(fault_cpu, online_fails_for_good, 300)
{
	struct saboteur saboteur = { };
	unsigned int failed = 0;
	int i;

	look(self, &self->before);
	for (i = 0; i < self->nr_states; i++) {
		saboteur.fd = fail_open(self->cpus[0]);
		ASSERT_LE(0, saboteur.fd);
		saboteur.state = self->states[i];
		saboteur.stop = false;
		ASSERT_EQ(0, create_it(self));
		if (fail_at(saboteur.fd, saboteur.state)) {
			ASSERT_EQ(0, destroy_it(self));
			close(saboteur.fd);
			continue;
		}
		ASSERT_EQ(0, pthread_create(&saboteur.thread, NULL, sabotage, &saboteur));
		ASSERT_EQ(0, destroy_it(self));
		__atomic_store_n(&saboteur.stop, true, __ATOMIC_RELAXED);
		pthread_join(saboteur.thread, NULL);
		fail_at(saboteur.fd, -1);
		close(saboteur.fd);
		look(self, &self->after);
		EXPECT_EQ(0, self->after.host.cpus_lent);
		if (self->after.host.cpus_online != self->before.host.cpus_online) {
			failed++;
			/* It is not there to be lent. */
			EXPECT_EQ(-ENETDOWN, create_it(self));
			EXPECT_EQ(0, cpu_set_online(self->cpus[0], true))
				TH_LOG("step %d: the CPU does not come back", self->states[i]);
		}
		ASSERT_FALSE(is_changed(self, &self->before))
			TH_LOG("step %d: something is left", self->states[i]);
	}
	printf("# bringing a CPU online failed for good at %u steps\n", failed);
	EXPECT_NE(0, failed);
	/* Such a CPU can be lent again as any other. */
	ASSERT_EQ(0, create_it(self));
	ASSERT_EQ(0, destroy_it(self));
}

/* CPUs that do not answer. --------------------------------------------------- */

static void expect_state(struct __test_metadata *const _metadata,
			 FIXTURE_DATA(fault_cpu) *self, __u32 state, __u32 reason)
{
	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	EXPECT_EQ(state, self->info.get.state);
	EXPECT_EQ(reason, self->info.get.reason);
}

static void expect_failed(struct __test_metadata *const _metadata, FIXTURE_DATA(fault_cpu) *self)
{
	struct multikernel_ioctl_simple simple = { .size = sizeof(simple) };
	int fd = self->instance.fd;

	expect_state(_metadata, self, MULTIKERNEL_STATE_FAILED, MULTIKERNEL_REASON_NO_CONFIRM);
	/* Nothing is reused while a CPU may still run in it. */
	EXPECT_EQ(-EBUSY, mk_ioctl(fd, MULTIKERNEL_IOCTL_DESTROY, &simple));
	EXPECT_EQ(-EBUSY, load(self->instance.id, 0, NULL, 0));
	EXPECT_EQ(-EBUSY, payload_load(&self->payload, MODE_SPIN, 0, 0));
	EXPECT_EQ(-EBUSY, payload_start(&self->payload));
	EXPECT_EQ(-EBUSY, stop_in_order(fd, 1));
	EXPECT_EQ(-EBUSY, cpu_set_online(self->cpus[0], true));
	EXPECT_EQ(-EALREADY, mk_ioctl(fd, MULTIKERNEL_IOCTL_RING, &simple));
	expect_state(_metadata, self, MULTIKERNEL_STATE_FAILED, MULTIKERNEL_REASON_NO_CONFIRM);
}

static void prepare(struct __test_metadata *const _metadata, FIXTURE_DATA(fault_cpu) *self,
		    int mode)
{
	ASSERT_EQ(0, create_it(self));
	ASSERT_EQ(0, payload_map(&self->payload, &self->instance));
	ASSERT_EQ(0, payload_load(&self->payload, mode, 0, 0));
}

/* Another stop recovers the instance, it runs once more, and goes. */
static void recover(struct __test_metadata *const _metadata, FIXTURE_DATA(fault_cpu) *self)
{
	ASSERT_EQ(0, stop_force(self->instance.fd));
	expect_state(_metadata, self, MULTIKERNEL_STATE_STOPPED, MULTIKERNEL_REASON_FORCED);
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_change(&self->payload, RECORD_OFFSET + RECORD_DONE, 0, PATIENCE));
	ASSERT_EQ(0, stop_force(self->instance.fd));
	ASSERT_EQ(0, munmap((void *)self->payload.shared, self->instance.shared_size));
	ASSERT_EQ(0, destroy_it(self));
}

TEST_F_TIMEOUT(fault_cpu, create_is_not_confirmed, 120)
{
	ASSERT_EQ(0, miss_confirmations(1));
	EXPECT_EQ(-ETIMEDOUT, create_it(self));
	ASSERT_FALSE(is_changed(self, &self->start));
	ASSERT_EQ(0, create_it(self));
	ASSERT_EQ(0, destroy_it(self));
}

TEST_F_TIMEOUT(fault_cpu, start_is_not_confirmed, 120)
{
	prepare(_metadata, self, MODE_SPIN);
	ASSERT_EQ(0, miss_confirmations(1));
	EXPECT_EQ(-ETIMEDOUT, payload_start(&self->payload));
	expect_failed(_metadata, self);
	recover(_metadata, self);
}

TEST_F_TIMEOUT(fault_cpu, stop_is_not_confirmed, 120)
{
	int i;

	prepare(_metadata, self, MODE_SPIN);
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_EQ(0, miss_confirmations(3));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(-ETIMEDOUT, stop_force(self->instance.fd));
		expect_failed(_metadata, self);
	}
	recover(_metadata, self);
}

TEST_F_TIMEOUT(fault_cpu, roll_call_is_missed, 120)
{
	prepare(_metadata, self, MODE_SPIN);
	ASSERT_EQ(0, payload_start(&self->payload));
	/* Once is no matter: it is called again. */
	ASSERT_EQ(0, miss_roll_calls(1));
	ASSERT_EQ(0, stop_force(self->instance.fd));
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_EQ(0, miss_roll_calls(ALWAYS));
	EXPECT_EQ(-ETIMEDOUT, stop_force(self->instance.fd));
	ASSERT_EQ(0, miss_roll_calls(0));
	expect_failed(_metadata, self);
	recover(_metadata, self);
}

/* A spawn that ended by itself is parked by the host, unasked. */
TEST_F_TIMEOUT(fault_cpu, end_is_not_confirmed, 120)
{
	prepare(_metadata, self, MODE_PANIC);
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info,
			       PATIENCE));
	/* The start takes none: the CPU has to have entered before the count is set. */
	ASSERT_EQ(0, payload_load(&self->payload, MODE_OBEY, 0, 0));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_change(&self->payload, SHARED_GUEST_STATE, 0, PATIENCE));
	ASSERT_EQ(0, miss_confirmations(1));
	EXPECT_EQ(-ETIMEDOUT, stop_in_order(self->instance.fd, PATIENCE));
	expect_failed(_metadata, self);
	recover(_metadata, self);
}

TEST_HARNESS_MAIN
