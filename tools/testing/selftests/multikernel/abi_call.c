// SPDX-License-Identifier: GPL-2.0
/*
 * MULTIKERNEL_IOCTL_CALL as a host's program meets it: each errno, and that
 * nothing is changed by what is refused. First with a payload, which takes no
 * part in a link, then with a spawn kernel of which one CPU hangs. Likewise
 * MULTIKERNEL_IOCTL_LINK_STATS.
 *
 * vm: CPUS=4 MEM=2G TIMEOUT=600
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "payload.h"

#define PATIENCE	20000
/* Far more than an answer takes, and than a test has. */
#define LONG_MS		3600000
/* More calls than may wait at the same time, and not more than fit into two lanes. */
#define CALLERS		96
/* A port that nobody has: the first that user space may open. */
#define NOBODY		0x10000

/* What stands in every byte of an answer that is not written. */
#define UNTOUCHED	0x5a

struct exchange {
	struct multikernel_ioctl_call call;
	char request[MULTIKERNEL_CALL_MAX + 1];
	char answer[MULTIKERNEL_CALL_MAX + 1];
};

/* An echo of @bytes bytes on any CPU. */
static void prepare(struct exchange *exchange, __u32 bytes)
{
	__u32 i;

	memset(exchange, 0, sizeof(*exchange));
	for (i = 0; i < sizeof(exchange->request); i++)
		exchange->request[i] = i * 7 + bytes;
	memset(exchange->answer, UNTOUCHED, sizeof(exchange->answer));
	exchange->call = (struct multikernel_ioctl_call) {
		.size = sizeof(exchange->call),
		.port = MULTIKERNEL_PORT_ECHO,
		.cpu = MULTIKERNEL_CPU_ANY,
		.timeout_ms = PATIENCE,
		.request_bytes = bytes,
		.answer_bytes = MULTIKERNEL_CALL_MAX,
		.request = (uintptr_t)exchange->request,
		.answer = (uintptr_t)exchange->answer,
	};
}

static bool untouched(const struct exchange *exchange)
{
	size_t i;

	for (i = 0; i < sizeof(exchange->answer); i++)
		if (exchange->answer[i] != UNTOUCHED)
			return false;
	return true;
}

/* Makes the call; what is refused must leave the caller's memory as it was. */
static int refused(int fd, struct exchange *exchange)
{
	struct multikernel_ioctl_call before = exchange->call;
	int err = mk_ioctl(fd, MULTIKERNEL_IOCTL_CALL, &exchange->call);

	if (memcmp(&before, &exchange->call, sizeof(before)) || !untouched(exchange))
		return -EILSEQ;
	return err;
}

#define EXPECT_REFUSED(err, fd, field, value) do {		\
	struct exchange changed;				\
								\
	prepare(&changed, 8);					\
	changed.call.field = value;				\
	EXPECT_EQ(err, refused(fd, &changed)) {			\
		TH_LOG(#field " = " #value);			\
	}							\
} while (0)

static __u64 now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
}

/* All that is wrong with a call whatever the other side is. */
static void malformed(struct __test_metadata *const _metadata, int fd)
{
	struct {
		struct multikernel_ioctl_call call;
		__u64 more;
	} larger = { };
	struct exchange exchange;

	EXPECT_REFUSED(-EINVAL, fd, size, 0);
	EXPECT_REFUSED(-EINVAL, fd, size, sizeof(struct multikernel_ioctl_call) - 1);
	EXPECT_REFUSED(-E2BIG, fd, size, 0xffffffff);
	EXPECT_REFUSED(-EINVAL, fd, flags, 1);
	EXPECT_REFUSED(-EINVAL, fd, flags, 0x80000000);
	EXPECT_REFUSED(-EINVAL, fd, reserved, 1);
	EXPECT_REFUSED(-EINVAL, fd, port, 0);
	EXPECT_REFUSED(-EINVAL, fd, timeout_ms, 0);
	EXPECT_REFUSED(-EINVAL, fd, timeout_ms, 3600001);
	EXPECT_REFUSED(-EINVAL, fd, timeout_ms, 0xffffffff);
	EXPECT_REFUSED(-EMSGSIZE, fd, request_bytes, MULTIKERNEL_CALL_MAX + 1);
	EXPECT_REFUSED(-EMSGSIZE, fd, request_bytes, 0xffffffff);
	EXPECT_REFUSED(-EFAULT, fd, request, 0);
	EXPECT_REFUSED(-EFAULT, fd, request, 0xffff800000000000);
	EXPECT_EQ(-EFAULT, mk_ioctl(fd, MULTIKERNEL_IOCTL_CALL, NULL));

	prepare(&exchange, 8);
	larger.call = exchange.call;
	larger.call.size = sizeof(larger);
	larger.more = 1;
	EXPECT_EQ(-E2BIG, mk_ioctl(fd, MULTIKERNEL_IOCTL_CALL, &larger));
}

/* More lanes and CPUs than there are, in elements of this size. */
#define STATS_MAX	600
#define ELEMENT_MAX	128

struct stats {
	struct multikernel_ioctl_link_stats ioctl;
	unsigned char lanes[STATS_MAX * ELEMENT_MAX];
	unsigned char cpus[STATS_MAX * ELEMENT_MAX];
};

/* A question with room for everything. Too large for a stack. */
static struct stats *prepare_stats(void)
{
	static struct stats stats;

	memset(&stats, UNTOUCHED, sizeof(stats));
	stats.ioctl = (struct multikernel_ioctl_link_stats) {
		.size = sizeof(stats.ioctl),
		.nr_lanes = STATS_MAX,
		.nr_cpus = STATS_MAX,
		.lane_size = sizeof(struct multikernel_link_lane),
		.cpu_size = sizeof(struct multikernel_link_cpu),
		.lanes = (uintptr_t)stats.lanes,
		.cpus = (uintptr_t)stats.cpus,
	};
	return &stats;
}

static int refused_stats(int fd, struct stats *stats)
{
	struct multikernel_ioctl_link_stats before = stats->ioctl;
	int err = mk_ioctl(fd, MULTIKERNEL_IOCTL_LINK_STATS, &stats->ioctl);

	if (memcmp(&before, &stats->ioctl, sizeof(before)) || stats->lanes[0] != UNTOUCHED ||
	    stats->cpus[0] != UNTOUCHED)
		return -EILSEQ;
	return err;
}

#define EXPECT_STATS_REFUSED(err, fd, field, value) do {	\
	struct stats *changed = prepare_stats();		\
								\
	changed->ioctl.field = value;				\
	EXPECT_EQ(err, refused_stats(fd, changed)) {		\
		TH_LOG(#field " = " #value);			\
	}							\
} while (0)

/* All that is wrong with a question whatever the other side is. */
static void malformed_stats(struct __test_metadata *const _metadata, int fd)
{
	EXPECT_STATS_REFUSED(-EINVAL, fd, size, 0);
	EXPECT_STATS_REFUSED(-EINVAL, fd, size, sizeof(struct multikernel_ioctl_link_stats) - 1);
	EXPECT_STATS_REFUSED(-E2BIG, fd, size, 0xffffffff);
	EXPECT_STATS_REFUSED(-EINVAL, fd, flags, 1);
	EXPECT_STATS_REFUSED(-EINVAL, fd, lane_size, 0);
	EXPECT_STATS_REFUSED(-EINVAL, fd, lane_size, sizeof(struct multikernel_link_lane) - 8);
	EXPECT_STATS_REFUSED(-EINVAL, fd, lane_size, sizeof(struct multikernel_link_lane) + 4);
	EXPECT_STATS_REFUSED(-E2BIG, fd, lane_size, 4104);
	EXPECT_STATS_REFUSED(-EINVAL, fd, cpu_size, 0);
	EXPECT_STATS_REFUSED(-EINVAL, fd, cpu_size, sizeof(struct multikernel_link_cpu) - 8);
	EXPECT_STATS_REFUSED(-EINVAL, fd, cpu_size, sizeof(struct multikernel_link_cpu) + 4);
	EXPECT_STATS_REFUSED(-E2BIG, fd, cpu_size, 4104);
	EXPECT_EQ(-EFAULT, mk_ioctl(fd, MULTIKERNEL_IOCTL_LINK_STATS, NULL));
}

/* --- A payload ----------------------------------------------------------- */

FIXTURE(payload)
{
	int device;
	__u64 pool;
	__u32 cpu;
	struct instance instance;
	struct payload payload;
	struct ledger before, after;
	struct info info;
};

FIXTURE_SETUP(payload)
{
	struct multikernel_range range;

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	range = fixed_range(self->pool, UNIT);
	self->cpu = spare_cpu(&self->before, 0);
	ASSERT_NE(0, self->cpu);
	ASSERT_EQ(0, create(self->device, "call", &self->cpu, 1, &range, 1, &self->instance));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	ASSERT_EQ(0, payload_map(&self->payload, &self->instance));
}

FIXTURE_TEARDOWN(payload)
{
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(1, destroy_all(self->device));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

static void run(struct __test_metadata *const _metadata, FIXTURE_DATA(payload) *self)
{
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_TRUE(wait_change(&self->payload, SHARED_COUNTER, 0, PATIENCE));
}

/* It is Running and its CPU still does what it did. */
static void goes_on(struct __test_metadata *const _metadata, FIXTURE_DATA(payload) *self)
{
	__u32 beat = shared_u32(&self->payload, SHARED_COUNTER);

	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	EXPECT_EQ(MULTIKERNEL_STATE_RUNNING, self->info.get.state);
	EXPECT_TRUE(wait_change(&self->payload, SHARED_COUNTER, beat, PATIENCE));
}

TEST_F_TIMEOUT(payload, not_running, 60)
{
	int fd = self->instance.fd;

	EXPECT_REFUSED(-EALREADY, fd, port, MULTIKERNEL_PORT_ECHO);
	EXPECT_STATS_REFUSED(-EALREADY, fd, nr_lanes, 0);
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	EXPECT_REFUSED(-EALREADY, fd, port, MULTIKERNEL_PORT_ECHO);
	run(_metadata, self);
	ASSERT_EQ(0, stop_force(fd));
	EXPECT_REFUSED(-EALREADY, fd, port, MULTIKERNEL_PORT_ECHO);
}

TEST_F_TIMEOUT(payload, malformed, 60)
{
	run(_metadata, self);
	malformed(_metadata, self->instance.fd);
	malformed_stats(_metadata, self->instance.fd);
	goes_on(_metadata, self);
	ASSERT_EQ(0, stop_force(self->instance.fd));
}

/* It runs, and does not know of links: at once, not after the timeout. */
TEST_F_TIMEOUT(payload, no_link, 60)
{
	int fd = self->instance.fd;

	run(_metadata, self);
	EXPECT_REFUSED(-ENOTCONN, fd, timeout_ms, LONG_MS);
	EXPECT_REFUSED(-ENOTCONN, fd, port, NOBODY);
	EXPECT_REFUSED(-ENOTCONN, fd, request_bytes, MULTIKERNEL_CALL_MAX);
	EXPECT_REFUSED(-ENOTCONN, fd, cpu, 0);
	/* That it says it has guest support does not make a link. */
	shared_set_u32(&self->payload, SHARED_GUEST_STATE, GUEST_RUNNING);
	EXPECT_REFUSED(-ENOTCONN, fd, timeout_ms, LONG_MS);
	goes_on(_metadata, self);
	ASSERT_EQ(0, stop_force(fd));
}

TEST_F_TIMEOUT(payload, wrong_file, 60)
{
	int fd = self->instance.fd;
	struct multikernel_ioctl_events events = { .size = sizeof(events) };

	run(_metadata, self);
	/* A host has no host that it could call, and events call nobody. */
	EXPECT_REFUSED(-ENOTTY, self->device, port, MULTIKERNEL_PORT_ECHO);
	EXPECT_STATS_REFUSED(-ENOTTY, self->device, nr_lanes, 0);
	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_EVENTS, &events));
	EXPECT_REFUSED(-ENOTTY, events.fd, port, MULTIKERNEL_PORT_ECHO);
	close(events.fd);
	ASSERT_EQ(0, stop_force(fd));
	/* What the fd referred to is gone. */
	ASSERT_EQ(0, open_by_id(self->device, self->instance.id, &fd));
	ASSERT_EQ(0, destroy(&self->instance));
	EXPECT_REFUSED(-ESTALE, fd, port, MULTIKERNEL_PORT_ECHO);
	close(fd);
	/* As the teardown expects it. */
	struct multikernel_range range = fixed_range(self->pool, UNIT);

	ASSERT_EQ(0, create(self->device, "call", &self->cpu, 1, &range, 1, &self->instance));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
}

TEST_F_TIMEOUT(payload, not_privileged, 60)
{
	struct exchange exchange;
	int status;
	pid_t pid;

	run(_metadata, self);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prepare(&exchange, 8);
		if (drop_cap_sys_boot())
			_exit(2);
		_exit(refused(self->instance.fd, &exchange) == -EPERM ? 0 : 1);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	ASSERT_EQ(0, stop_force(self->instance.fd));
}

/* --- A spawn kernel ------------------------------------------------------ */

FIXTURE(spawn)
{
	int device, fd;
	__u32 id;
	struct info info;
};

/* Nothing of this is what is tested: mkctl has tests of its own. */
FIXTURE_SETUP(spawn)
{
	struct multikernel_ioctl_open open = { .size = sizeof(open), .name = "call" };

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, system("mkctl run --kernel /boot/bzImage --initrd /boot/spawn.cpio.gz "
			    "--cpus 2-3 --memory 128M --name call --hang-timeout never "
			    ">/dev/null && mkctl logs call --until 'spawn: ready' --timeout 120 "
			    ">/dev/null"));
	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_OPEN, &open));
	self->fd = open.fd;
	self->id = open.id;
}

FIXTURE_TEARDOWN(spawn)
{
	EXPECT_EQ(1, destroy_all(self->device));
	EXPECT_EQ(0, system("mkctl pool shrink 128M"));
	close(self->fd);
	close(self->device);
}

/* Calls with what @exchange says; the answer has to be the request. */
static int echoed(int fd, struct exchange *exchange)
{
	__u32 bytes = exchange->call.request_bytes;
	int err = mk_ioctl(fd, MULTIKERNEL_IOCTL_CALL, &exchange->call);

	if (err)
		return err;
	if (exchange->call.answer_bytes != bytes)
		return -EBADMSG;
	if (memcmp(exchange->answer, exchange->request, bytes))
		return -EILSEQ;
	/* And not a byte more. */
	return exchange->answer[bytes] == UNTOUCHED ? 0 : -EOVERFLOW;
}

static void answers(struct __test_metadata *const _metadata, int fd, __u32 cpu)
{
	struct exchange exchange;

	prepare(&exchange, 100);
	exchange.call.cpu = cpu;
	EXPECT_EQ(0, echoed(fd, &exchange));
}

/* Has a CPU of the spawn take no interrupt any more; its shell is on the other one. */
static void hang(struct __test_metadata *const _metadata, int fd)
{
	struct exchange exchange;
	__u64 deadline = now_ms() + PATIENCE;
	int err;

	ASSERT_EQ(0, system("echo 'mount -t debugfs none /sys/kernel/debug; taskset 2 sh -c "
			    "\"echo spin >/sys/kernel/debug/multikernel/crash\" &' | "
			    "mkctl console call --linger 500 >/dev/null"));
	do {
		prepare(&exchange, 8);
		exchange.call.cpu = 1;
		exchange.call.timeout_ms = 500;
		err = mk_ioctl(fd, MULTIKERNEL_IOCTL_CALL, &exchange.call);
	} while (!err && now_ms() < deadline);
	ASSERT_EQ(-ETIMEDOUT, err);
	answers(_metadata, fd, 0);
}

TEST_F_TIMEOUT(spawn, every_length, 180)
{
	struct exchange exchange;
	__u32 bytes, cpu;
	int err = 0;

	for (bytes = 0; !err && bytes <= MULTIKERNEL_CALL_MAX; bytes++)
		for (cpu = 0; !err && cpu < 2; cpu++) {
			prepare(&exchange, bytes);
			exchange.call.cpu = cpu;
			err = echoed(self->fd, &exchange);
		}
	EXPECT_EQ(0, err) {
		TH_LOG("%u bytes, CPU %u", bytes - 1, cpu - 1);
	}
	/* Nothing is sent, and nothing has to be there to send. */
	prepare(&exchange, 0);
	exchange.call.request = 0;
	exchange.call.answer = 0;
	exchange.call.answer_bytes = 0;
	EXPECT_EQ(0, mk_ioctl(self->fd, MULTIKERNEL_IOCTL_CALL, &exchange.call));
}

TEST_F_TIMEOUT(spawn, errors, 180)
{
	struct {
		struct multikernel_ioctl_call call;
		__u64 more;
	} larger = { };
	struct exchange exchange;
	int fd = self->fd;
	char *page;

	malformed(_metadata, fd);
	EXPECT_REFUSED(-ECONNREFUSED, fd, port, NOBODY);
	EXPECT_REFUSED(-ECONNREFUSED, fd, port, 0xffffffff);
	EXPECT_REFUSED(-EINVAL, fd, cpu, 2);
	EXPECT_REFUSED(-EINVAL, fd, cpu, 0xfffffffe);
	EXPECT_REFUSED(-EFAULT, fd, answer, 0);

	/* Too little room for the answer: how much there should be. */
	prepare(&exchange, 100);
	exchange.call.answer_bytes = 99;
	EXPECT_EQ(-EMSGSIZE, mk_ioctl(fd, MULTIKERNEL_IOCTL_CALL, &exchange.call));
	EXPECT_EQ(100, exchange.call.answer_bytes);
	EXPECT_TRUE(untouched(&exchange));
	/* With that it is fine, and more than there can be does no harm. */
	EXPECT_EQ(0, echoed(fd, &exchange));
	prepare(&exchange, 100);
	exchange.call.answer_bytes = 0xffffffff;
	EXPECT_EQ(0, echoed(fd, &exchange));

	/* Buffers whose ends cannot be reached. */
	page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, munmap(page + PAGE, PAGE));
	EXPECT_REFUSED(-EFAULT, fd, request, (uintptr_t)page + PAGE - 7);
	EXPECT_REFUSED(-EFAULT, fd, answer, (uintptr_t)page + PAGE - 7);

	/* A program that knows a larger structure, and uses nothing of it. */
	prepare(&exchange, 8);
	larger.call = exchange.call;
	larger.call.size = sizeof(larger);
	EXPECT_EQ(0, mk_ioctl(fd, MULTIKERNEL_IOCTL_CALL, &larger));
	answers(_metadata, fd, MULTIKERNEL_CPU_ANY);
}

/* The same numbers however many elements there is room for, and of whatever size. */
TEST_F_TIMEOUT(spawn, link_stats, 180)
{
	const size_t known = sizeof(struct multikernel_link_lane);
	struct multikernel_link_lane first;
	struct stats *stats;
	__u32 lanes, cpus;
	size_t i;
	int call;

	for (call = 0; call < 10; call++)
		answers(_metadata, self->fd, 0);
	stats = prepare_stats();
	ASSERT_EQ(0, mk_ioctl(self->fd, MULTIKERNEL_IOCTL_LINK_STATS, &stats->ioctl));
	EXPECT_EQ(self->id, stats->ioctl.peer);
	EXPECT_EQ(1, stats->ioctl.epoch);
	EXPECT_EQ(MULTIKERNEL_LINK_UP, stats->ioctl.state);
	lanes = stats->ioctl.nr_lanes;
	cpus = stats->ioctl.nr_cpus;
	EXPECT_LE(2, lanes);
	EXPECT_LE(4, cpus);
	EXPECT_GT(STATS_MAX, lanes);
	EXPECT_GT(STATS_MAX, cpus);
	EXPECT_EQ(UNTOUCHED, stats->lanes[lanes * known]);
	memcpy(&first, stats->lanes, sizeof(first));

	/* No room: how many there are. */
	stats = prepare_stats();
	stats->ioctl.nr_lanes = 0;
	stats->ioctl.nr_cpus = 0;
	stats->ioctl.lanes = 0;
	stats->ioctl.cpus = 0;
	EXPECT_EQ(0, mk_ioctl(self->fd, MULTIKERNEL_IOCTL_LINK_STATS, &stats->ioctl));
	EXPECT_EQ(lanes, stats->ioctl.nr_lanes);
	EXPECT_EQ(cpus, stats->ioctl.nr_cpus);

	/* Room for one, of a size from the future: the rest of it is zero. */
	stats = prepare_stats();
	stats->ioctl.nr_lanes = 1;
	stats->ioctl.lane_size = ELEMENT_MAX;
	EXPECT_EQ(0, mk_ioctl(self->fd, MULTIKERNEL_IOCTL_LINK_STATS, &stats->ioctl));
	EXPECT_EQ(lanes, stats->ioctl.nr_lanes);
	EXPECT_EQ(0, memcmp(&first, stats->lanes, sizeof(first)));
	for (i = known; i < ELEMENT_MAX; i++)
		EXPECT_EQ(0, stats->lanes[i]);
	EXPECT_EQ(UNTOUCHED, stats->lanes[ELEMENT_MAX]);

	stats = prepare_stats();
	stats->ioctl.lanes = 0;
	EXPECT_EQ(-EFAULT, mk_ioctl(self->fd, MULTIKERNEL_IOCTL_LINK_STATS, &stats->ioctl));
	malformed_stats(_metadata, self->fd);
}

static void on_alarm(int signal)
{
}

TEST_F_TIMEOUT(spawn, waits, 180)
{
	/* Repeated: the first may come before the wait has begun. */
	struct itimerval often = {
		.it_interval = { .tv_usec = 50000 },
		.it_value = { .tv_usec = 50000 },
	}, never = { };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct exchange exchange;
	int fd = self->fd;
	__u64 before;

	hang(_metadata, fd);

	/* Not earlier than said; how much later is the scheduler's matter. */
	prepare(&exchange, 8);
	exchange.call.cpu = 1;
	exchange.call.timeout_ms = 300;
	before = now_ms();
	EXPECT_EQ(-ETIMEDOUT, refused(fd, &exchange));
	EXPECT_LE(300, now_ms() - before);

	ASSERT_EQ(0, sigaction(SIGALRM, &action, NULL));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &often, NULL));
	exchange.call.timeout_ms = LONG_MS;
	EXPECT_EQ(-EINTR, refused(fd, &exchange));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &never, NULL));
	/* The other CPU is not concerned. */
	answers(_metadata, fd, 0);
}

struct caller {
	pthread_t thread;
	int fd, cpu, result;
};

static void *call_for_ever(void *argument)
{
	struct caller *caller = argument;
	struct exchange exchange;
	cpu_set_t set;

	/* Each CPU has a lane of its own. */
	CPU_ZERO(&set);
	CPU_SET(caller->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	prepare(&exchange, 8);
	exchange.call.cpu = 1;
	exchange.call.timeout_ms = LONG_MS;
	caller->result = refused(caller->fd, &exchange);
	return NULL;
}

/* More callers than may wait. When the spawn is stopped, all that wait are told at once. */
TEST_F_TIMEOUT(spawn, many_waits, 180)
{
	static struct caller callers[CALLERS];
	int i, ended = 0, refusals = 0;
	struct exchange exchange;
	int fd = self->fd;
	__u64 deadline;
	int err;

	hang(_metadata, fd);
	for (i = 0; i < CALLERS; i++) {
		callers[i].fd = fd;
		callers[i].cpu = i % 2;
		ASSERT_EQ(0, pthread_create(&callers[i].thread, NULL, call_for_ever, &callers[i]));
	}
	/* The other CPU answers until there is no place left to wait. */
	deadline = now_ms() + PATIENCE;
	do {
		nanosleep(&(struct timespec) { .tv_nsec = 1000000 }, NULL);
		prepare(&exchange, 8);
		exchange.call.cpu = 0;
		err = echoed(fd, &exchange);
	} while (!err && now_ms() < deadline);
	EXPECT_EQ(-EBUSY, err);

	ASSERT_EQ(0, stop_force(fd));
	for (i = 0; i < CALLERS; i++) {
		ASSERT_EQ(0, pthread_join(callers[i].thread, NULL));
		if (callers[i].result == -EPIPE)
			ended++;
		/* The last ones may have come only when it was stopped. */
		else if (callers[i].result == -EBUSY || callers[i].result == -EALREADY)
			refusals++;
		else
			TH_LOG("caller %d: %d", i, callers[i].result);
	}
	EXPECT_EQ(CALLERS, ended + refusals);
	EXPECT_LT(0, ended);
	EXPECT_LT(0, refusals);
	EXPECT_REFUSED(-EALREADY, fd, port, MULTIKERNEL_PORT_ECHO);
}

TEST_HARNESS_MAIN
