// SPDX-License-Identifier: GPL-2.0
/*
 * What the host says of its instances without being asked: events by read(2)
 * and poll(2), and that a spawn which takes no interrupts is seen. And what it
 * says of their memory when asked.
 *
 * vm: CPUS=4 MEM=2G
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "payload.h"

#define PATIENCE	20000
/* How many events the host keeps: KEPT in kernel/multikernel/event.rs. */
#define KEPT		512

FIXTURE(events)
{
	int device, all;
	__u64 pool;
	__u32 cpu, apic_id;
	struct instance instance;
	struct payload payload;
	struct ledger ledger;
	struct info info;
};

static int events_open(int device)
{
	struct multikernel_ioctl_events events = { .size = sizeof(events) };
	int ret = mk_ioctl(device, MULTIKERNEL_IOCTL_EVENTS, &events);

	if (!ret)
		ret = fcntl(events.fd, F_SETFL, O_NONBLOCK) ? -errno : events.fd;
	return ret;
}

static int start_watched(int fd, __u64 argument, __u32 hang_ms)
{
	struct multikernel_ioctl_start start = {
		.size = sizeof(start),
		.argument = argument,
		.hang_ms = hang_ms,
	};

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_START, &start);
}

static int read_memory(int fd, __u64 base, void *buffer, __u64 bytes)
{
	struct multikernel_ioctl_read_memory read = {
		.size = sizeof(read),
		.base = base,
		.bytes = bytes,
		.buffer = (uintptr_t)buffer,
	};

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_READ_MEMORY, &read);
}

FIXTURE_SETUP(events)
{
	struct multikernel_range range;

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->ledger));
	range = fixed_range(self->pool, UNIT);
	self->cpu = spare_cpu(&self->ledger, 0);
	ASSERT_NE(0, self->cpu);
	self->all = events_open(self->device);
	ASSERT_LE(0, self->all);
	ASSERT_EQ(0, create(self->device, "events", &self->cpu, 1, &range, 1, &self->instance));
	ASSERT_EQ(0, fcntl(self->instance.fd, F_SETFL, O_NONBLOCK));
	ASSERT_EQ(0, payload_map(&self->payload, &self->instance));
	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	self->apic_id = self->info.cpus[0].apic_id;
}

FIXTURE_TEARDOWN(events)
{
	destroy_all(self->device);
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->all);
	close(self->device);
}

/* The next event, which is to be this one. */
#define EXPECT_EVENT(fd, wanted_state, wanted_reason) do {					\
	struct multikernel_event event = {};							\
												\
	ASSERT_EQ(sizeof(event), read(fd, &event, sizeof(event)));				\
	EXPECT_EQ(wanted_state, event.state);							\
	EXPECT_EQ(wanted_reason, event.reason);							\
	EXPECT_EQ(self->instance.id, event.id);							\
	EXPECT_STREQ("events", (char *)event.name);						\
	EXPECT_EQ(0, event.lost);								\
} while (0)

#define EXPECT_NO_EVENT(fd) do {								\
	struct multikernel_event event;								\
												\
	EXPECT_EQ(-1, read(fd, &event, sizeof(event)));						\
	EXPECT_EQ(EAGAIN, errno);								\
} while (0)

static short ready(int fd, int milliseconds)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	return poll(&wait, 1, milliseconds) < 0 ? -errno : wait.revents;
}

TEST_F_TIMEOUT(events, a_whole_life, 60)
{
	int fds[] = { self->instance.fd, self->all };
	struct multikernel_event event;
	int other = dup(self->instance.fd);
	size_t i;

	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, payload_start(&self->payload));
	ASSERT_EQ(0, stop_force(self->instance.fd));
	for (i = 0; i < ARRAY_SIZE(fds); i++) {
		EXPECT_EQ(POLLIN, ready(fds[i], 0) & (POLLIN | POLLHUP));
		EXPECT_EVENT(fds[i], MULTIKERNEL_STATE_READY, MULTIKERNEL_REASON_NONE);
		EXPECT_EVENT(fds[i], MULTIKERNEL_STATE_LOADED, MULTIKERNEL_REASON_NONE);
		EXPECT_EVENT(fds[i], MULTIKERNEL_STATE_RUNNING, MULTIKERNEL_REASON_NONE);
		EXPECT_EVENT(fds[i], MULTIKERNEL_STATE_STOPPING, MULTIKERNEL_REASON_NONE);
		EXPECT_EVENT(fds[i], MULTIKERNEL_STATE_STOPPED, MULTIKERNEL_REASON_FORCED);
		EXPECT_NO_EVENT(fds[i]);
		EXPECT_EQ(0, ready(fds[i], 0));
	}
	/* Who comes late has missed nothing that was for him. */
	ASSERT_EQ(0, open_by_id(self->device, self->instance.id, &fds[0]));
	EXPECT_EQ(0, fcntl(fds[0], F_SETFL, O_NONBLOCK));
	EXPECT_NO_EVENT(fds[0]);
	ASSERT_EQ(0, destroy(&self->instance));
	EXPECT_EQ(POLLIN | POLLHUP, ready(fds[0], 0) & (POLLIN | POLLHUP));
	EXPECT_EVENT(fds[0], MULTIKERNEL_STATE_GONE, MULTIKERNEL_REASON_FORCED);
	EXPECT_EQ(0, read(fds[0], &event, sizeof(event)));
	EXPECT_EQ(POLLHUP, ready(fds[0], 0) & (POLLIN | POLLHUP));
	EXPECT_EVENT(self->all, MULTIKERNEL_STATE_GONE, MULTIKERNEL_REASON_FORCED);
	EXPECT_NO_EVENT(self->all);
	EXPECT_EVENT(other, MULTIKERNEL_STATE_GONE, MULTIKERNEL_REASON_FORCED);
	EXPECT_EQ(0, read(other, &event, sizeof(event)));
	close(other);
	close(fds[0]);
}

TEST_F_TIMEOUT(events, several_at_once, 60)
{
	struct multikernel_event events[4];
	ssize_t size = sizeof(events[0]);

	EXPECT_EQ(-1, read(self->all, events, size - 1));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, load(self->instance.id, 0, NULL, 0));
	EXPECT_EQ(2 * size, read(self->all, events, 3 * size - 1));
	EXPECT_EQ(MULTIKERNEL_STATE_READY, events[0].state);
	EXPECT_EQ(MULTIKERNEL_STATE_LOADED, events[1].state);
	EXPECT_EQ(events[0].sequence + 1, events[1].sequence);
	EXPECT_LE(events[0].time_ns, events[1].time_ns);
	EXPECT_EQ(size, read(self->all, events, sizeof(events)));
	EXPECT_EQ(MULTIKERNEL_STATE_READY, events[0].state);
	/* Those that cannot be delivered. */
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	EXPECT_EQ(-1, read(self->all, NULL, size));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(size, read(self->all, events, sizeof(events)));
	EXPECT_EQ(MULTIKERNEL_STATE_LOADED, events[0].state);
	EXPECT_EQ(0, events[0].lost);
}

static void nothing(int signal)
{
}

/* In a child: waits for one event, as a process that does nothing else. */
static pid_t reader(int fd)
{
	struct sigaction action = { .sa_handler = nothing };
	struct multikernel_event event;
	pid_t child = fork();

	if (child)
		return child;
	sigaction(SIGUSR1, &action, NULL);
	if (read(fd, &event, sizeof(event)) == sizeof(event))
		_exit(event.state);
	_exit(100 + errno);
}

/* Until a child sleeps, by what /proc says. */
static void wait_asleep(pid_t child)
{
	char path[64], state = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", child);
	while (state != 'S') {
		FILE *file = fopen(path, "r");

		if (!file || fscanf(file, "%*d %*s %c", &state) != 1)
			state = 0;
		if (file)
			fclose(file);
		usleep(1000);
	}
}

TEST_F_TIMEOUT(events, read_waits, 60)
{
	int fd, status;
	pid_t child;

	ASSERT_EQ(0, open_by_id(self->device, self->instance.id, &fd));
	child = reader(fd);
	wait_asleep(child);
	EXPECT_EQ(0, waitpid(child, &status, WNOHANG));
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(MULTIKERNEL_STATE_LOADED, WEXITSTATUS(status));
	/* A signal ends the wait, and so does the end of the instance. */
	child = reader(fd);
	wait_asleep(child);
	kill(child, SIGUSR1);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(100 + EINTR, WEXITSTATUS(status));
	child = reader(fd);
	wait_asleep(child);
	ASSERT_EQ(0, destroy(&self->instance));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(MULTIKERNEL_STATE_GONE, WEXITSTATUS(status));
	close(fd);
}

TEST_F_TIMEOUT(events, late_readers_are_told_what_they_lost, 60)
{
	struct multikernel_event event;
	int i;

	/* Each unload and load is two changes, the first a READY as well. */
	for (i = 0; i < KEPT; i++) {
		ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
		ASSERT_EQ(0, load(self->instance.id, 0, NULL, 0));
	}
	ASSERT_EQ(sizeof(event), read(self->all, &event, sizeof(event)));
	EXPECT_EQ(2 * KEPT + 1 - KEPT, event.lost);
	for (i = 1; i < KEPT; i++) {
		ASSERT_EQ(sizeof(event), read(self->all, &event, sizeof(event)));
		ASSERT_EQ(0, event.lost);
	}
	EXPECT_NO_EVENT(self->all);
	ASSERT_EQ(sizeof(event), read(self->instance.fd, &event, sizeof(event)));
	EXPECT_EQ(2 * KEPT + 1 - KEPT, event.lost);
}

/* Says for the payload, whose CPU has its interrupts off, that it has guest support. */
static void claim_support(FIXTURE_DATA(events) *self)
{
	const struct payload *payload = &self->payload;

	shared_set_u32(payload, SHARED_CPU_BEATS + CPU_BEAT_APIC_ID, self->apic_id);
	shared_set_u32(payload, SHARED_CPU_BEATS + CPU_BEAT_ONLINE, 1);
	shared_set_u32(payload, SHARED_GUEST_VECTOR, 0xf3);
	shared_set_u32(payload, SHARED_GUEST_FEATURES, GUEST_FEATURE_BEATS);
	shared_set_u32(payload, SHARED_GUEST_STATE, GUEST_RUNNING);
}

static __u64 now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
}

TEST_F_TIMEOUT(events, hung, 60)
{
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, start_watched(self->instance.fd, self->payload.argument, 500));
	claim_support(self);
	ASSERT_TRUE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info,
			       PATIENCE));
	EXPECT_EQ(MULTIKERNEL_REASON_HUNG, self->info.get.reason);
	EXPECT_EQ(500, self->info.get.hang_ms);
	/* It is over: the next life is not held to what this one owed. */
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, start_watched(self->instance.fd, self->payload.argument, 3600000));
	claim_support(self);
	EXPECT_FALSE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info, 1500));
}

TEST_F_TIMEOUT(events, not_hung_while_it_counts, 60)
{
	__u64 until;
	__u32 beat = 0;

	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, start_watched(self->instance.fd, self->payload.argument, 1000));
	claim_support(self);
	for (until = now_ms() + 4000; now_ms() < until; usleep(5000))
		shared_set_u32(&self->payload, SHARED_CPU_BEATS, ++beat);
	ASSERT_EQ(0, get_info(self->instance.fd, &self->info));
	EXPECT_EQ(MULTIKERNEL_STATE_RUNNING, self->info.get.state);
	ASSERT_TRUE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info,
			       PATIENCE));
	EXPECT_EQ(MULTIKERNEL_REASON_HUNG, self->info.get.reason);
}

TEST_F_TIMEOUT(events, nobody_watches, 60)
{
	/* Neither where it was not wanted, nor where no CPU is said to be online, ... */
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, start_watched(self->instance.fd, self->payload.argument,
				   MULTIKERNEL_HANG_NEVER));
	claim_support(self);
	EXPECT_FALSE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info, 1500));
	EXPECT_EQ(MULTIKERNEL_HANG_NEVER, self->info.get.hang_ms);
	ASSERT_EQ(0, stop_force(self->instance.fd));
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	ASSERT_EQ(0, start_watched(self->instance.fd, self->payload.argument, 100));
	claim_support(self);
	shared_set_u32(&self->payload, SHARED_CPU_BEATS + CPU_BEAT_ONLINE, 0);
	EXPECT_FALSE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info, 1500));
	/* ... nor is a CPU rung that is not the spawn's: here the host's own, whatever it says. */
	shared_set_u32(&self->payload, SHARED_CPU_BEATS + CPU_BEAT_APIC_ID, 0);
	shared_set_u32(&self->payload, SHARED_CPU_BEATS + CPU_BEAT_ONLINE, 1);
	EXPECT_FALSE(wait_state(self->instance.fd, MULTIKERNEL_STATE_CRASHED, &self->info, 1500));
	ASSERT_EQ(0, stop_force(self->instance.fd));
}

TEST_F_TIMEOUT(events, memory, 60)
{
	const char *code = payload_begin;
	size_t length = payload_end - payload_begin;
	int fd = self->instance.fd;
	__u64 base = self->instance.base, end = base + self->instance.size;
	char *buffer = mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, buffer);
	ASSERT_EQ(0, payload_load(&self->payload, MODE_SPIN, 0, 0));
	EXPECT_EQ(0, read_memory(fd, self->payload.entry, buffer, length));
	EXPECT_EQ(0, memcmp(buffer, code, length));
	memset(buffer, 1, 2);
	EXPECT_EQ(0, read_memory(fd, end - 1, buffer, 1));
	EXPECT_EQ(0, buffer[0]);
	EXPECT_EQ(1, buffer[1]);
	EXPECT_EQ(0, read_memory(fd, base, buffer, MULTIKERNEL_READ_MAX));
	EXPECT_EQ(0, memcmp(buffer + (self->payload.entry - base), code, length));
	EXPECT_EQ(0, read_memory(fd, self->instance.low, buffer, PAGE));
	/* While it runs, and after. */
	ASSERT_EQ(0, payload_start(&self->payload));
	EXPECT_EQ(0, read_memory(fd, self->payload.entry, buffer, length));
	EXPECT_EQ(0, memcmp(buffer, code, length));
	ASSERT_EQ(0, stop_force(fd));
	EXPECT_EQ(0, read_memory(fd, self->payload.entry, buffer, length));
	EXPECT_EQ(0, memcmp(buffer, code, length));

	EXPECT_EQ(-EADDRNOTAVAIL, read_memory(fd, end - 1, buffer, 2));
	EXPECT_EQ(-EADDRNOTAVAIL, read_memory(fd, base - 1, buffer, 2));
	EXPECT_EQ(-EADDRNOTAVAIL, read_memory(fd, 0, buffer, 1));
	EXPECT_EQ(-EADDRNOTAVAIL, read_memory(fd, ~0ULL, buffer, 2));
	EXPECT_EQ(-EADDRNOTAVAIL, read_memory(fd, self->instance.shared_base, buffer, 1));
	EXPECT_EQ(-EFAULT, read_memory(fd, base, NULL, 1));
	EXPECT_EQ(-EFAULT, read_memory(fd, base, (void *)~0xfffUL, 1));
	munmap(buffer, UNIT);
}

TEST_HARNESS_MAIN
