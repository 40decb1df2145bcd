// SPDX-License-Identifier: GPL-2.0
/*
 * The same instance from several processes at once. Whatever order the calls
 * take effect in, there has to be one that explains all of their results: the
 * API is linearizable for each instance.
 *
 * A call that meets another one in progress may fail with EBUSY and then has
 * no effect; EBUSY without one has to be explained by the instance's state.
 *
 * vm: CPUS=12 MEM=2G TIMEOUT=600 APPEND="rcupdate.rcu_cpu_stall_timeout=300"
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "payload.h"

#define PROCESSES	6
#define CALLS		4
#define ROUNDS		60
#define HISTORY		(PROCESSES * CALLS + 1)

enum verb { LOAD, UNLOAD, START, KILL, DESTROY, OBSERVE, VERBS };

static const char *const verbs[] = { "load", "unload", "start", "kill", "destroy", "observe" };

/* What the model knows of an instance: all that decides what a call returns. */
enum state { IDLE, LOADED, RUNNING, GONE, STATES };

struct call {
	enum verb verb;
	int result;
	__u64 begin, end;
};

struct history {
	unsigned int nr;
	enum state first;
	struct call calls[HISTORY];
};

/* Shared by the processes of a test. */
struct shared {
	struct call calls[PROCESSES][CALLS];
};

static __u64 now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/*
 * Whether a call may return this in a state, and the state after it. OBSERVE
 * returns the state itself.
 */
static bool model(enum state *state, enum verb verb, int result)
{
	bool gone = *state == GONE;
	int expected = 0;

	switch (verb) {
	case LOAD:
	case UNLOAD:
		/* By id: it is gone before the call, or while it looks. */
		if (gone)
			return result == -ENOENT || result == -ESTALE;
		expected = *state == RUNNING ? -EBUSY : 0;
		break;
	case START:
		expected = gone ? -ESTALE : *state == RUNNING ? -EBUSY :
			   *state == IDLE ? -ENOEXEC : 0;
		break;
	case KILL:
		expected = gone ? -ESTALE : *state == RUNNING ? 0 : -EALREADY;
		break;
	case DESTROY:
		expected = gone ? -ESTALE : *state == RUNNING ? -EBUSY : 0;
		break;
	default:
		return (int)*state == result;
	}
	if (result != expected)
		return false;
	if (!result)
		*state = verb == LOAD ? LOADED : verb == START ? RUNNING :
			 verb == DESTROY ? GONE : IDLE;
	return true;
}

static bool overlap(const struct call *one, const struct call *other)
{
	return one->begin <= other->end && other->begin <= one->end;
}

/* The calls that took effect in some order, as a set of (calls done, state). */
#define SEEN_BITS	16

struct search {
	const struct history *history;
	__u64 seen[1 << SEEN_BITS];
};

static bool is_new(struct search *search, __u32 done, enum state state)
{
	__u64 key = ((__u64)done << 3 | state) + 1;
	__u32 at = (key * 0x9e3779b97f4a7c15ULL) >> (64 - SEEN_BITS);
	int tries;

	for (tries = 0; tries < 64; tries++, at = (at + 1) % (1 << SEEN_BITS)) {
		if (search->seen[at] == key)
			return false;
		if (!search->seen[at]) {
			search->seen[at] = key;
			return true;
		}
	}
	/* Full here: look again, which costs time only. */
	return true;
}

static bool explain(struct search *search, __u32 done, enum state state)
{
	const struct history *history = search->history;
	unsigned int i, j;

	if (done == (1U << history->nr) - 1)
		return true;
	if (!is_new(search, done, state))
		return false;
	for (i = 0; i < history->nr; i++) {
		const struct call *call = &history->calls[i];
		enum state next = state;

		if (done & 1U << i)
			continue;
		/* It can be the next only if none that is left ended before it began. */
		for (j = 0; j < history->nr; j++)
			if (!(done & 1U << j) && history->calls[j].end < call->begin)
				break;
		if (j < history->nr)
			continue;
		if (model(&next, call->verb, call->result) &&
		    explain(search, done | 1U << i, next))
			return true;
		/* Refused because another call was in progress: no effect. */
		if (call->result != -EBUSY || call->verb == OBSERVE)
			continue;
		for (j = 0; j < history->nr; j++)
			if (j != i && overlap(call, &history->calls[j]))
				break;
		if (j < history->nr && explain(search, done | 1U << i, state))
			return true;
	}
	return false;
}

static bool linearizable(const struct history *history)
{
	static struct search search;

	memset(&search, 0, sizeof(search));
	search.history = history;
	return explain(&search, 0, history->first);
}

static void print_history(const struct history *history)
{
	__u64 begin = -1ULL;
	unsigned int i;

	for (i = 0; i < history->nr; i++)
		if (history->calls[i].begin < begin)
			begin = history->calls[i].begin;
	printf("# from state %d\n", history->first);
	for (i = 0; i < history->nr; i++) {
		const struct call *call = &history->calls[i];

		printf("# %8llu us to %8llu us: %s returned %d\n",
		       (call->begin - begin) / 1000,
		       (call->end - begin) / 1000,
		       verbs[call->verb], call->result);
	}
}

/* The model and the search themselves: a checker that accepts all is worthless. */
TEST(checker)
{
	struct history twice = {
		.nr = 3, .first = LOADED,
		.calls = { { START, 0, 1, 9 }, { START, 0, 2, 8 }, { OBSERVE, RUNNING, 10, 11 } },
	};
	struct history late = {
		.nr = 3, .first = LOADED,
		.calls = { { START, 0, 1, 2 }, { KILL, -EALREADY, 3, 4 },
			   { OBSERVE, RUNNING, 10, 11 } },
	};
	struct history alone = {
		.nr = 2, .first = LOADED,
		.calls = { { LOAD, -EBUSY, 1, 2 }, { OBSERVE, LOADED, 10, 11 } },
	};
	struct history good = {
		.nr = 4, .first = LOADED,
		.calls = { { KILL, 0, 1, 9 }, { START, 0, 2, 8 }, { LOAD, -EBUSY, 3, 4 },
			   { OBSERVE, IDLE, 10, 11 } },
	};

	EXPECT_FALSE(linearizable(&twice));
	EXPECT_FALSE(linearizable(&late));
	EXPECT_FALSE(linearizable(&alone));
	EXPECT_TRUE(linearizable(&good));
}

FIXTURE(concurrent)
{
	int device;
	__u64 pool;
	__u32 cpus[PROCESSES];
	struct instance instance;
	bool created;
	struct payload payload;
	struct shared *shared;
	struct ledger before, after;
};

FIXTURE_SETUP(concurrent)
{
	int i;

	self->shared = mmap(NULL, sizeof(*self->shared), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->shared);
	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	for (i = 0; i < PROCESSES; i++) {
		self->cpus[i] = spare_cpu(&self->before, i);
		ASSERT_NE(0, self->cpus[i]);
	}
}

FIXTURE_TEARDOWN(concurrent)
{
	destroy_all(self->device);
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
	munmap(self->shared, sizeof(*self->shared));
}

static int make(FIXTURE_DATA(concurrent) *self)
{
	struct multikernel_range range = fixed_range(self->pool, UNIT);
	int err = create(self->device, "concurrent", self->cpus, 1, &range, 1, &self->instance);

	if (!err)
		err = payload_map(&self->payload, &self->instance);
	/* Who starts it need not be who loaded it, but has to know the argument. */
	if (!err)
		err = payload_load(&self->payload, MODE_SPIN, 0, 0);
	return err;
}

static int do_call(FIXTURE_DATA(concurrent) *self, enum verb verb)
{
	struct instance instance = self->instance;

	switch (verb) {
	case LOAD:
		return payload_load(&self->payload, MODE_SPIN, 0, 0);
	case UNLOAD:
		return load(instance.id, 0, NULL, 0);
	case START:
		return payload_start(&self->payload);
	case KILL:
		return stop_force(instance.fd);
	case DESTROY:
		return destroy(&instance);
	default:
		return -EINVAL;
	}
}

static enum state observe(FIXTURE_DATA(concurrent) *self)
{
	struct info info;

	if (get_info(self->instance.fd, &info))
		return GONE;
	switch (info.get.state) {
	case MULTIKERNEL_STATE_LOADED:
		return LOADED;
	case MULTIKERNEL_STATE_RUNNING:
		return RUNNING;
	case MULTIKERNEL_STATE_READY:
	case MULTIKERNEL_STATE_STOPPED:
		return IDLE;
	default:
		return STATES;
	}
}

/*
 * Forks processes that begin at the same moment; each does what @work says. They
 * wait for the end of a pipe, asleep: the CPUs of a virtual machine may share
 * a few real ones.
 */
static bool together(FIXTURE_DATA(concurrent) *self,
		     void (*work)(FIXTURE_DATA(concurrent) *self, int number))
{
	bool good = true;
	int i, status, gate[2];
	char byte;

	if (pipe(gate)) {
		perror("pipe");
		return false;
	}
	for (i = 0; i < PROCESSES; i++) {
		pid_t pid = fork();

		if (pid < 0) {
			perror("fork");
			good = false;
			break;
		}
		if (!pid) {
			close(gate[1]);
			if (read(gate[0], &byte, 1))
				_exit(1);
			work(self, i);
			_exit(0);
		}
	}
	close(gate[1]);
	while (wait(&status) > 0)
		good &= WIFEXITED(status) && !WEXITSTATUS(status);
	close(gate[0]);
	return good;
}

static void calls(FIXTURE_DATA(concurrent) *self, int number)
{
	int i;

	for (i = 0; i < CALLS; i++) {
		struct call *call = &self->shared->calls[number][i];

		call->begin = now_ns();
		call->result = do_call(self, call->verb);
		call->end = now_ns();
	}
}

static void collect(FIXTURE_DATA(concurrent) *self, struct history *history)
{
	int i, j;

	history->nr = 0;
	for (i = 0; i < PROCESSES; i++)
		for (j = 0; j < CALLS; j++)
			history->calls[history->nr++] = self->shared->calls[i][j];
	history->calls[history->nr].verb = OBSERVE;
	history->calls[history->nr].begin = now_ns();
	history->calls[history->nr].result = observe(self);
	history->calls[history->nr].end = now_ns();
	history->nr++;
}

TEST_F_TIMEOUT(concurrent, calls_have_an_order, 240)
{
	const char *given = getenv("SEED");
	unsigned int seed = given ? strtoul(given, NULL, 0) : now_ns();
	unsigned int results[VERBS][2] = {};
	struct history history;
	int round, i, j;

	printf("# SEED=%u\n", seed);
	srand(seed);
	ASSERT_EQ(0, make(self));
	for (round = 0; round < ROUNDS; round++) {
		history.first = observe(self);
		ASSERT_GT(GONE, history.first);
		for (i = 0; i < PROCESSES; i++)
			for (j = 0; j < CALLS; j++)
				self->shared->calls[i][j].verb = rand() % DESTROY;
		/* Not so often: taking a CPU takes far longer than the rest. */
		if (round % 6 == 5)
			self->shared->calls[rand() % PROCESSES][CALLS - 1].verb = DESTROY;
		ASSERT_TRUE(together(self, calls));
		collect(self, &history);
		ASSERT_TRUE(linearizable(&history)) {
			TH_LOG("round %d of SEED=%u", round, seed);
			print_history(&history);
		}
		for (i = 0; i < (int)history.nr - 1; i++)
			results[history.calls[i].verb][!!history.calls[i].result]++;
		if (history.calls[history.nr - 1].result == GONE) {
			close(self->instance.fd);
			munmap((void *)self->payload.shared, self->instance.shared_size);
			ASSERT_EQ(0, make(self));
		}
	}
	/* Otherwise it has shown little. */
	for (i = 0; i < DESTROY; i++) {
		printf("# %s: %u succeeded, %u failed\n", verbs[i], results[i][0], results[i][1]);
		EXPECT_NE(0, results[i][0]);
		EXPECT_NE(0, results[i][1]);
	}
}

/* All of them do the same: one call each. */
static void same_call(FIXTURE_DATA(concurrent) *self, int number)
{
	struct call *call = &self->shared->calls[number][0];

	call->result = do_call(self, call->verb);
}

static unsigned int count(FIXTURE_DATA(concurrent) *self, int result)
{
	unsigned int i, found = 0;

	for (i = 0; i < PROCESSES; i++)
		found += self->shared->calls[i][0].result == result;
	return found;
}

static bool all_call(FIXTURE_DATA(concurrent) *self, enum verb verb)
{
	int i;

	for (i = 0; i < PROCESSES; i++)
		self->shared->calls[i][0].verb = verb;
	return together(self, same_call);
}

TEST_F_TIMEOUT(concurrent, one_starts_one_kills_one_destroys, 120)
{
	int round;

	for (round = 0; round < 10; round++) {
		ASSERT_EQ(0, make(self));
		ASSERT_TRUE(all_call(self, START));
		EXPECT_EQ(1, count(self, 0));
		EXPECT_EQ(PROCESSES - 1, count(self, -EBUSY));
		EXPECT_EQ(RUNNING, observe(self));
		ASSERT_TRUE(all_call(self, KILL));
		EXPECT_EQ(1, count(self, 0));
		EXPECT_EQ(PROCESSES - 1, count(self, -EBUSY) + count(self, -EALREADY));
		EXPECT_EQ(IDLE, observe(self));
		ASSERT_TRUE(all_call(self, DESTROY));
		EXPECT_EQ(1, count(self, 0));
		EXPECT_EQ(PROCESSES - 1, count(self, -EBUSY) + count(self, -ESTALE));
		EXPECT_EQ(GONE, observe(self));
		close(self->instance.fd);
		munmap((void *)self->payload.shared, self->instance.shared_size);
	}
}

static void create_with(FIXTURE_DATA(concurrent) *self, int number, const char *name, __u32 cpu,
			__u64 base)
{
	struct multikernel_range range = fixed_range(base, UNIT);
	struct instance instance;

	self->shared->calls[number][0].result =
		create(self->device, name, &cpu, 1, &range, 1, &instance);
}

static void same_name(FIXTURE_DATA(concurrent) *self, int number)
{
	create_with(self, number, "same", self->cpus[number], self->pool + number * UNIT);
}

static void same_cpu(FIXTURE_DATA(concurrent) *self, int number)
{
	char name[] = { 'a' + number, 0 };

	create_with(self, number, name, self->cpus[0], self->pool + number * UNIT);
}

static void same_memory(FIXTURE_DATA(concurrent) *self, int number)
{
	char name[] = { 'a' + number, 0 };

	create_with(self, number, name, self->cpus[number], self->pool);
}

static void different(FIXTURE_DATA(concurrent) *self, int number)
{
	char name[] = { 'a' + number, 0 };

	create_with(self, number, name, self->cpus[number], self->pool + number * UNIT);
}

static void shrink(FIXTURE_DATA(concurrent) *self, int number)
{
	self->shared->calls[number][0].result = pool_shrink(self->device, self->pool, POOL);
}

TEST_F_TIMEOUT(concurrent, one_creates, 120)
{
	int round;

	for (round = 0; round < 5; round++) {
		ASSERT_TRUE(together(self, same_name));
		EXPECT_EQ(1, count(self, 0));
		EXPECT_EQ(PROCESSES - 1, count(self, -EEXIST));
		EXPECT_EQ(1, destroy_all(self->device));

		ASSERT_TRUE(together(self, same_cpu));
		EXPECT_EQ(1, count(self, 0));
		EXPECT_EQ(PROCESSES - 1, count(self, -EBUSY));
		EXPECT_EQ(1, destroy_all(self->device));

		ASSERT_TRUE(together(self, same_memory));
		EXPECT_EQ(1, count(self, 0));
		EXPECT_EQ(PROCESSES - 1, count(self, -EBUSY));
		EXPECT_EQ(1, destroy_all(self->device));

		ASSERT_TRUE(together(self, different));
		EXPECT_EQ(PROCESSES, count(self, 0));
		EXPECT_EQ(PROCESSES, destroy_all(self->device));
	}
}

TEST_F(concurrent, one_shrinks)
{
	__u64 base;

	ASSERT_TRUE(together(self, shrink));
	EXPECT_EQ(1, count(self, 0));
	EXPECT_EQ(PROCESSES - 1, count(self, -EADDRNOTAVAIL));
	/* As the teardown expects it; it need not be the same place. */
	ASSERT_EQ(0, pool_grow(self->device, POOL, &base));
	self->pool = base;
	EXPECT_EQ(0, ledger_read(self->device, &self->before));
}

TEST_HARNESS_MAIN
