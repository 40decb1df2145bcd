// SPDX-License-Identifier: GPL-2.0
/*
 * Every call, with a fault at each point where the host asks itself for memory
 * or copies from or to user space: see Documentation/fault-injection/. What
 * fails has to leave everything as it was. CPUs that fail are in fault_cpu.c.
 *
 * vm: CPUS=4 MEM=2G TIMEOUT=1200
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "fault.h"
#include "payload.h"

#define PATIENCE	20000
/* More faults than any call has room for: something does not come to an end. */
#define MOST		5000
#define PASSES		4
/* The many are those of the page allocator, which frees memory for the pool. */
#define ENOUGH		400
/* Ranges that come to the pool, of each of which the middle goes again. */
#define PIECES		40

FIXTURE(fault)
{
	int device, fail_nth;
	__u64 pool;
	__u32 cpus[2];
	struct instance instance;
	struct payload payload;
	/* What a call made. */
	__u64 grown;
	int fd;
	void *mapping;
	char page[PAGE];
	struct snapshot start, before, after;
};

static void look(FIXTURE_DATA(fault) *self, struct snapshot *snapshot)
{
	snapshot_take(self->device, &self->instance, snapshot);
}

static bool is_changed(FIXTURE_DATA(fault) *self, const struct snapshot *before)
{
	look(self, &self->after);
	return !snapshot_same(before, &self->after);
}

static int create_on(FIXTURE_DATA(fault) *self, __u32 nr_cpus)
{
	struct multikernel_range ranges[] = {
		fixed_range(self->pool, UNIT), any_range(UNIT),
	};

	return create(self->device, "fault", self->cpus, nr_cpus, ranges, ARRAY_SIZE(ranges),
		      &self->instance);
}

static int destroy_it(FIXTURE_DATA(fault) *self)
{
	int err = destroy(&self->instance);

	if (!err)
		self->instance.id = 0;
	return err;
}

FIXTURE_SETUP(fault)
{
	static const char * const settings[] = {
		/* Also allocations that may wait, and so seldom fail. */
		"failslab/ignore-gfp-wait", "fail_page_alloc/ignore-gfp-wait",
		"fail_page_alloc/ignore-gfp-highmem", "fail_page_alloc/min-order",
		/* A line and a stack for each is too much. */
		"failslab/verbose", "fail_page_alloc/verbose", "fail_usercopy/verbose",
	};
	char path[128];
	int i;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		snprintf(path, sizeof(path), DEBUGFS "%s", settings[i]);
		if (write_text(path, "0"))
			SKIP(return, "the kernel has no %s", path);
	}
	self->fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	ASSERT_LE(0, self->fail_nth);
	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	look(self, &self->start);
	for (i = 0; i < 2; i++) {
		self->cpus[i] = spare_cpu(&self->start.ledger, i);
		ASSERT_NE(0, self->cpus[i]);
	}
}

FIXTURE_TEARDOWN(fault)
{
	if (!self->pool)
		return;
	EXPECT_EQ(0, destroy_all(self->device));
	EXPECT_FALSE(is_changed(self, &self->start));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

/* Memory and user copies: the nth of them in a call fails. ------------------ */

static int arm(FIXTURE_DATA(fault) *self, unsigned int nth)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", nth);
	return pwrite(self->fail_nth, text, strlen(text), 0) < 0 ? -errno : 0;
}

/* Whether the fault has happened. Reading and writing the file are calls with user copies too. */
static bool disarm(FIXTURE_DATA(fault) *self)
{
	char text[16] = "";
	bool happened = pread(self->fail_nth, text, sizeof(text) - 1, 0) > 0 && atoi(text) == 0;

	if (pwrite(self->fail_nth, "0", 1, 0) < 0)
		pwrite(self->fail_nth, "0", 1, 0);
	return happened;
}

struct verb {
	const char *name;
	int (*call)(FIXTURE_DATA(fault) *self);
	/* What a call that succeeded has done is undone, so that it can be done again. */
	int (*undo)(FIXTURE_DATA(fault) *self);
	/* Beside ENOMEM and EFAULT. */
	int other_error;
	/* The call may have done it all but for telling so: EFAULT, and undo is needed. */
	bool (*done)(FIXTURE_DATA(fault) *self);
};

/* Once through: how many faults there were. */
static unsigned int inject_once(struct __test_metadata *const _metadata,
				FIXTURE_DATA(fault) *self, const struct verb *verb,
				unsigned int *refused)
{
	unsigned int nth;
	bool happened, done;
	int err;

	for (nth = 1; nth < MOST; nth++) {
		look(self, &self->before);
		ASSERT_EQ(0, arm(self, nth));
		err = verb->call(self);
		happened = disarm(self);
		if (!happened)
			break;
		done = !err;
		if (err == -EFAULT && verb->done)
			done = verb->done(self);
		*refused += !!err;
		EXPECT_TRUE(!err || err == -ENOMEM || err == -EFAULT || err == verb->other_error)
			TH_LOG("%s, fault %u: %s", verb->name, nth, strerror(-err));
		if (done && verb->undo) {
			ASSERT_EQ(0, verb->undo(self))
				TH_LOG("%s, fault %u: cannot be undone", verb->name, nth);
		} else if (done) {
			/* In spite of the fault, and it cannot be done again. */
			return nth;
		}
		if (!done)
			ASSERT_FALSE(is_changed(self, &self->before))
				TH_LOG("%s, fault %u: something is left", verb->name, nth);
	}
	ASSERT_FALSE(happened)
		TH_LOG("%s: no end of faults", verb->name);
	EXPECT_EQ(0, err)
		TH_LOG("%s: %s without a fault", verb->name, strerror(-err));
	if (verb->undo)
		EXPECT_EQ(0, verb->undo(self));
	return nth - 1;
}

static void inject(struct __test_metadata *const _metadata, FIXTURE_DATA(fault) *self,
		   const struct verb *verb)
{
	unsigned int faults = 0, refused = 0, i;

	/*
	 * The allocator itself takes memory at one time and not at another, and what comes
	 * after that is the next fault then: in one pass some would not be met.
	 */
	for (i = 0; i < PASSES && faults < ENOUGH; i++)
		faults += inject_once(_metadata, self, verb, &refused);
	printf("# %s: %u faults in %u passes, %u failed it\n", verb->name, faults, i, refused);
	/* Each call copies at least something, unless it has no argument. */
	EXPECT_NE(0, refused)
		TH_LOG("%s: no fault failed it", verb->name);
}

static int call_open_device(FIXTURE_DATA(fault) *self)
{
	self->fd = device_open();
	return self->fd < 0 ? self->fd : 0;
}

static int undo_fd(FIXTURE_DATA(fault) *self)
{
	return close(self->fd);
}

static int call_host_info(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_host_info info = { .size = sizeof(info) };

	return mk_ioctl(self->device, MULTIKERNEL_IOCTL_HOST_INFO, &info);
}

static int call_list(FIXTURE_DATA(fault) *self, unsigned long command)
{
	struct multikernel_ioctl_list list = {
		.size = sizeof(list),
		.nr = sizeof(self->page) / sizeof(struct multikernel_range),
		.items = (uintptr_t)self->page,
	};

	return mk_ioctl(self->device, command, &list);
}

static int call_list_memory(FIXTURE_DATA(fault) *self)
{
	return call_list(self, MULTIKERNEL_IOCTL_LIST_MEMORY);
}

static int call_list_cpus(FIXTURE_DATA(fault) *self)
{
	return call_list(self, MULTIKERNEL_IOCTL_LIST_CPUS);
}

static int call_list_instances(FIXTURE_DATA(fault) *self)
{
	return call_list(self, MULTIKERNEL_IOCTL_LIST_INSTANCES);
}

static int call_grow(FIXTURE_DATA(fault) *self)
{
	/* Not a power of two: what is too much goes back at once. */
	return pool_grow(self->device, 3 * UNIT, &self->grown);
}

static int call_shrink(FIXTURE_DATA(fault) *self)
{
	return pool_shrink(self->device, self->grown, 3 * UNIT);
}

/* Without an address: of both ranges that are in the pool. */
static int call_shrink_any(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_pool pool = {
		.size = sizeof(pool), .bytes = POOL + 3 * UNIT, .nid = -1,
	};

	return mk_ioctl(self->device, MULTIKERNEL_IOCTL_POOL_SHRINK, &pool);
}

static int undo_shrink_any(FIXTURE_DATA(fault) *self)
{
	int err = pool_grow(self->device, POOL, &self->pool);

	if (err)
		return err;
	/* The pool may be elsewhere now. */
	look(self, &self->start);
	return call_grow(self);
}

static int call_events(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_events events = { .size = sizeof(events) };
	int err = mk_ioctl(self->device, MULTIKERNEL_IOCTL_EVENTS, &events);

	self->fd = events.fd;
	return err;
}

static int call_arena_create(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_arena_create create = {
		.size = sizeof(create), .name = "fault", .bytes = UNIT, .nid = -1,
	};
	int err = mk_ioctl(self->device, MULTIKERNEL_IOCTL_ARENA_CREATE, &create);

	self->fd = create.fd;
	return err;
}

static int undo_arena_create(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_arena_remove remove = {
		.size = sizeof(remove), .name = "fault",
	};

	close(self->fd);
	return mk_ioctl(self->device, MULTIKERNEL_IOCTL_ARENA_REMOVE, &remove);
}

static int call_arena_open(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_arena_open open = { .size = sizeof(open), .name = "fault" };
	int err = mk_ioctl(self->device, MULTIKERNEL_IOCTL_ARENA_OPEN, &open);

	self->fd = open.fd;
	return err;
}

static int grant_or_revoke(FIXTURE_DATA(fault) *self, unsigned long command)
{
	struct multikernel_ioctl_arena_grant grant = {
		.size = sizeof(grant), .name = "fault", .id = self->instance.id,
	};

	return mk_ioctl(self->device, command, &grant);
}

static int call_arena_grant(FIXTURE_DATA(fault) *self)
{
	return grant_or_revoke(self, MULTIKERNEL_IOCTL_ARENA_GRANT);
}

static int undo_arena_grant(FIXTURE_DATA(fault) *self)
{
	return grant_or_revoke(self, MULTIKERNEL_IOCTL_ARENA_REVOKE);
}

static int call_arena_resize(FIXTURE_DATA(fault) *self)
{
	return arena_resize(self->device, "fault", 2 * UNIT);
}

static int undo_arena_resize(FIXTURE_DATA(fault) *self)
{
	return arena_resize(self->device, "fault", UNIT);
}

static int call_list_arenas(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_list list = {
		.size = sizeof(list), .nr = 1, .items = (uintptr_t)self->page,
	};

	return mk_ioctl(self->device, MULTIKERNEL_IOCTL_LIST_ARENAS, &list);
}

static int call_ledger_file(FIXTURE_DATA(fault) *self)
{
	int fd = open(DEBUGFS "multikernel/ledger", O_RDONLY), err = 0;

	if (fd < 0)
		return -errno;
	if (read(fd, self->page, sizeof(self->page)) < 0)
		err = -errno;
	close(fd);
	return err;
}

TEST_F_TIMEOUT(fault, host_calls, 300)
{
	static const struct verb verbs[] = {
		{ .name = "open", .call = call_open_device, .undo = undo_fd },
		{ .name = "host_info", .call = call_host_info },
		{ .name = "list_memory", .call = call_list_memory },
		{ .name = "list_cpus", .call = call_list_cpus },
		{ .name = "list_instances", .call = call_list_instances },
		{ .name = "events", .call = call_events, .undo = undo_fd },
		{ .name = "debugfs", .call = call_ledger_file },
		/* The page allocator says no more than that it has none. */
		{ .name = "grow", .call = call_grow, .undo = call_shrink, .other_error = -ENOSPC },
	};
	static const struct verb shrink = {
		.name = "shrink", .call = call_shrink, .undo = call_grow,
	};
	static const struct verb any = {
		.name = "shrink any", .call = call_shrink_any, .undo = undo_shrink_any,
	};
	int i;

	ASSERT_EQ(0, create_on(self, 1));
	for (i = 0; i < ARRAY_SIZE(verbs); i++)
		inject(_metadata, self, &verbs[i]);
	ASSERT_EQ(0, call_grow(self));
	inject(_metadata, self, &shrink);
	ASSERT_EQ(0, destroy_it(self));
	inject(_metadata, self, &any);
	ASSERT_EQ(0, call_shrink(self));
}

TEST_F_TIMEOUT(fault, arena_calls, 300)
{
	static const struct verb create = {
		.name = "arena_create", .call = call_arena_create, .undo = undo_arena_create,
	};
	static const struct verb verbs[] = {
		{ .name = "arena_open", .call = call_arena_open, .undo = undo_fd },
		{ .name = "arena_grant", .call = call_arena_grant, .undo = undo_arena_grant },
		{ .name = "arena_resize", .call = call_arena_resize, .undo = undo_arena_resize },
		{ .name = "list_arenas", .call = call_list_arenas },
	};
	int i;

	ASSERT_EQ(0, create_on(self, 1));
	inject(_metadata, self, &create);
	ASSERT_EQ(0, call_arena_create(self));
	close(self->fd);
	for (i = 0; i < ARRAY_SIZE(verbs); i++)
		inject(_metadata, self, &verbs[i]);
	/* It is not open any more. */
	self->fd = -1;
	ASSERT_EQ(0, undo_arena_create(self));
	ASSERT_EQ(0, destroy_it(self));
}

static int call_shrink_middle(FIXTURE_DATA(fault) *self)
{
	return pool_shrink(self->device, self->grown + UNIT, UNIT);
}

/*
 * The list of ranges becomes longer and longer, until it has no room for one more:
 * only then is memory for it allocated, and can fail to be.
 */
TEST_F_TIMEOUT(fault, full_ledger, 300)
{
	static const struct verb middle = {
		.name = "shrink middle", .call = call_shrink_middle,
	};
	unsigned int refused = 0;
	__u64 bases[PIECES];
	int i;

	for (i = 0; i < PIECES && refused <= 3 * i; i++) {
		ASSERT_EQ(0, call_grow(self));
		bases[i] = self->grown;
		inject_once(_metadata, self, &middle, &refused);
	}
	/* Each copies a size and a structure, and makes a list of what it takes out. */
	EXPECT_LT(3 * i, refused)
		TH_LOG("%d ranges, and always room for more", i);
	while (i--) {
		EXPECT_EQ(0, pool_shrink(self->device, bases[i], UNIT));
		EXPECT_EQ(0, pool_shrink(self->device, bases[i] + 2 * UNIT, UNIT));
	}
}

static int call_create(FIXTURE_DATA(fault) *self)
{
	struct multikernel_range ranges[] = { any_range(UNIT), fixed_range(self->pool, UNIT) };
	struct multikernel_ioctl_create create = {
		.size = sizeof(create),
		.name = "fault",
		.nr_cpus = 2,
		.nr_ranges = ARRAY_SIZE(ranges),
		.cpus = (uintptr_t)self->cpus,
		.ranges = (uintptr_t)ranges,
	};
	int err = mk_ioctl(self->device, MULTIKERNEL_IOCTL_CREATE, &create);

	self->fd = create.fd;
	return err;
}

static int undo_create(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_simple simple = { .size = sizeof(simple) };
	int err = mk_ioctl(self->fd, MULTIKERNEL_IOCTL_DESTROY, &simple);

	return err ? err : close(self->fd);
}

TEST_F_TIMEOUT(fault, create_call, 300)
{
	static const struct verb verb = {
		.name = "create", .call = call_create, .undo = undo_create,
	};

	inject(_metadata, self, &verb);
}

static int call_destroy(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_simple simple = { .size = sizeof(simple) };
	int err = mk_ioctl(self->instance.fd, MULTIKERNEL_IOCTL_DESTROY, &simple);

	return err;
}

static int undo_destroy(FIXTURE_DATA(fault) *self)
{
	close(self->instance.fd);
	self->instance.id = 0;
	return create_on(self, 2);
}

TEST_F_TIMEOUT(fault, destroy_call, 300)
{
	static const struct verb verb = {
		.name = "destroy", .call = call_destroy, .undo = undo_destroy,
	};

	ASSERT_EQ(0, create_on(self, 2));
	inject(_metadata, self, &verb);
	ASSERT_EQ(0, destroy_it(self));
}

static int call_open_instance(FIXTURE_DATA(fault) *self)
{
	return open_by_id(self->device, self->instance.id, &self->fd);
}

static int call_get_info(FIXTURE_DATA(fault) *self)
{
	struct info info;

	return get_info(self->instance.fd, &info);
}

static int call_read_memory(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_read_memory request = {
		.size = sizeof(request),
		.base = self->instance.base,
		.bytes = sizeof(self->page),
		.buffer = (uintptr_t)self->page,
	};

	return mk_ioctl(self->instance.fd, MULTIKERNEL_IOCTL_READ_MEMORY, &request);
}

static int call_mmap(FIXTURE_DATA(fault) *self)
{
	self->mapping = mmap(NULL, self->instance.shared_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			     self->instance.fd, 0);
	return self->mapping == MAP_FAILED ? -errno : 0;
}

static int undo_mmap(FIXTURE_DATA(fault) *self)
{
	return munmap(self->mapping, self->instance.shared_size);
}

static int call_load(FIXTURE_DATA(fault) *self)
{
	return payload_load(&self->payload, MODE_OBEY, 0, 0);
}

static int undo_load(FIXTURE_DATA(fault) *self)
{
	return load(self->instance.id, 0, NULL, 0);
}

static int call_start(FIXTURE_DATA(fault) *self)
{
	return payload_start(&self->payload);
}

/* Running again after a stop: what was loaded can be started only once. */
static int run(FIXTURE_DATA(fault) *self)
{
	int err = call_load(self);

	if (!err)
		err = call_start(self);
	/* Until it looks at requests. */
	if (!err && !wait_change(&self->payload, SHARED_GUEST_STATE, 0, PATIENCE))
		err = -ETIMEDOUT;
	return err;
}

static int undo_start(FIXTURE_DATA(fault) *self)
{
	int err = stop_force(self->instance.fd);

	/* The reason and the epoch of that life stay. */
	return err ? err : call_load(self);
}

static int call_stop(FIXTURE_DATA(fault) *self)
{
	return stop_force(self->instance.fd);
}

static int call_stop_in_order(FIXTURE_DATA(fault) *self)
{
	return stop_in_order(self->instance.fd, PATIENCE);
}

static int call_ring(FIXTURE_DATA(fault) *self)
{
	struct multikernel_ioctl_simple simple = { .size = sizeof(simple) };

	return mk_ioctl(self->instance.fd, MULTIKERNEL_IOCTL_RING, &simple);
}

static bool is_stopped(FIXTURE_DATA(fault) *self)
{
	struct info info;

	return !get_info(self->instance.fd, &info) && info.get.state == MULTIKERNEL_STATE_STOPPED;
}

TEST_F_TIMEOUT(fault, instance_calls, 300)
{
	static const struct verb idle[] = {
		{ .name = "open instance", .call = call_open_instance, .undo = undo_fd },
		{ .name = "get_info", .call = call_get_info },
		{ .name = "read_memory", .call = call_read_memory },
		{ .name = "mmap", .call = call_mmap, .undo = undo_mmap },
		{ .name = "kexec_load", .call = call_load, .undo = undo_load },
	};
	static const struct verb start = {
		.name = "start", .call = call_start, .undo = undo_start,
	};
	static const struct verb running[] = {
		{ .name = "ring", .call = call_ring },
		/* The reason of an end can be told only after it. */
		{ .name = "stop", .call = call_stop, .undo = run, .done = is_stopped },
		{
			.name = "stop in order", .call = call_stop_in_order,
			.undo = run, .done = is_stopped,
		},
	};
	int i;

	ASSERT_EQ(0, create_on(self, 2));
	ASSERT_EQ(0, payload_map(&self->payload, &self->instance));
	for (i = 0; i < ARRAY_SIZE(idle); i++)
		inject(_metadata, self, &idle[i]);
	ASSERT_EQ(0, call_load(self));
	inject(_metadata, self, &start);
	ASSERT_EQ(0, run(self));
	for (i = 0; i < ARRAY_SIZE(running); i++)
		inject(_metadata, self, &running[i]);
	ASSERT_EQ(0, call_stop(self));
	ASSERT_EQ(0, munmap((void *)self->payload.shared, self->instance.shared_size));
	ASSERT_EQ(0, destroy_it(self));
}

TEST_HARNESS_MAIN
