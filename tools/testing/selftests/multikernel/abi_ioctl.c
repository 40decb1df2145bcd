// SPDX-License-Identifier: GPL-2.0
/*
 * The form of every ioctl: sizes, numbers, reserved fields, pointers, and who
 * may call. Nothing that is refused changes anything.
 *
 * vm: CPUS=4 MEM=2G
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "host.h"

enum which {
	HOST_INFO, POOL_GROW, POOL_SHRINK, LIST_MEMORY, LIST_CPUS, LIST_INSTANCES, CREATE, OPEN,
	EVENTS, LIST_LINKS, GET_INFO, START, STOP, DESTROY, RING, READ_MEMORY, CONNECT, DISCONNECT,
	ARENA_CREATE, ARENA_OPEN, ARENA_REMOVE, ARENA_GRANT, ARENA_REVOKE, LIST_ARENAS,
	ARENA_RESIZE, LIST_GRANTS, ADD_CPUS, EXCHANGE_NAMES, SESSION_CREATE, SESSION_OPEN,
	SESSION_ACCEPT, SESSION_REMOVE, LIST_SESSIONS, SESSION_PUT, SESSION_GET, SESSION_DELETE,
	SESSION_LIST_ENTRIES,
	SESSION_OFFER, SESSION_COMMIT, SESSION_ABORT, SESSION_WAIT,
};

#define COMMAND(name, struct_name, on_instance) \
	[name] = { #name, MULTIKERNEL_IOCTL_##name, sizeof(struct struct_name), on_instance, false }

#define ON_SESSION(name, struct_name) \
	[name] = { #name, MULTIKERNEL_IOCTL_##name, sizeof(struct struct_name), false, true }

static const struct command {
	const char *name;
	unsigned long number;
	size_t size;
	bool on_instance;
	bool on_session;
} commands[] = {
	COMMAND(HOST_INFO, multikernel_ioctl_host_info, false),
	COMMAND(POOL_GROW, multikernel_ioctl_pool, false),
	COMMAND(POOL_SHRINK, multikernel_ioctl_pool, false),
	COMMAND(LIST_MEMORY, multikernel_ioctl_list, false),
	COMMAND(LIST_CPUS, multikernel_ioctl_list, false),
	COMMAND(LIST_INSTANCES, multikernel_ioctl_list, false),
	COMMAND(CREATE, multikernel_ioctl_create, false),
	COMMAND(OPEN, multikernel_ioctl_open, false),
	COMMAND(EVENTS, multikernel_ioctl_events, false),
	COMMAND(LIST_LINKS, multikernel_ioctl_list, false),
	COMMAND(GET_INFO, multikernel_ioctl_get_info, true),
	COMMAND(START, multikernel_ioctl_start, true),
	COMMAND(STOP, multikernel_ioctl_stop, true),
	COMMAND(DESTROY, multikernel_ioctl_simple, true),
	COMMAND(RING, multikernel_ioctl_simple, true),
	COMMAND(READ_MEMORY, multikernel_ioctl_read_memory, true),
	COMMAND(CONNECT, multikernel_ioctl_connect, true),
	COMMAND(DISCONNECT, multikernel_ioctl_connect, true),
	COMMAND(ARENA_CREATE, multikernel_ioctl_arena_create, false),
	COMMAND(ARENA_OPEN, multikernel_ioctl_arena_open, false),
	COMMAND(ARENA_REMOVE, multikernel_ioctl_arena_remove, false),
	COMMAND(ARENA_GRANT, multikernel_ioctl_arena_grant, false),
	COMMAND(ARENA_REVOKE, multikernel_ioctl_arena_grant, false),
	COMMAND(LIST_ARENAS, multikernel_ioctl_list, false),
	COMMAND(ARENA_RESIZE, multikernel_ioctl_arena_resize, false),
	COMMAND(LIST_GRANTS, multikernel_ioctl_list, false),
	COMMAND(ADD_CPUS, multikernel_ioctl_add_cpus, true),
	COMMAND(EXCHANGE_NAMES, multikernel_ioctl_exchange_names, true),
	COMMAND(SESSION_CREATE, multikernel_ioctl_session, false),
	COMMAND(SESSION_OPEN, multikernel_ioctl_session, false),
	COMMAND(SESSION_ACCEPT, multikernel_ioctl_session, false),
	COMMAND(SESSION_REMOVE, multikernel_ioctl_session, false),
	COMMAND(LIST_SESSIONS, multikernel_ioctl_list, false),
	ON_SESSION(SESSION_PUT, multikernel_ioctl_session_entry),
	ON_SESSION(SESSION_GET, multikernel_ioctl_session_entry),
	ON_SESSION(SESSION_DELETE, multikernel_ioctl_session_entry),
	ON_SESSION(SESSION_LIST_ENTRIES, multikernel_ioctl_list),
	ON_SESSION(SESSION_OFFER, multikernel_ioctl_session_offer),
	ON_SESSION(SESSION_COMMIT, multikernel_ioctl_session_step),
	ON_SESSION(SESSION_ABORT, multikernel_ioctl_session_step),
	ON_SESSION(SESSION_WAIT, multikernel_ioctl_session_step),
};

/* Room for any structure and more than a page behind it. */
union request {
	__u32 size;
	unsigned char bytes[3 * PAGE];
	struct multikernel_ioctl_host_info host_info;
	struct multikernel_ioctl_pool pool;
	struct multikernel_ioctl_list list;
	struct multikernel_ioctl_create create;
	struct multikernel_ioctl_open open;
	struct multikernel_ioctl_get_info get_info;
	struct multikernel_ioctl_start start;
	struct multikernel_ioctl_stop stop;
	struct multikernel_ioctl_simple simple;
	struct multikernel_ioctl_events events;
	struct multikernel_ioctl_read_memory read_memory;
	struct multikernel_ioctl_connect connect;
	struct multikernel_ioctl_arena_create arena_create;
	struct multikernel_ioctl_arena_open arena_open;
	struct multikernel_ioctl_arena_remove arena_remove;
	struct multikernel_ioctl_arena_grant arena_grant;
	struct multikernel_ioctl_arena_resize arena_resize;
	struct multikernel_ioctl_add_cpus add_cpus;
	struct multikernel_ioctl_exchange_names exchange_names;
	struct multikernel_ioctl_session session;
	struct multikernel_ioctl_session_entry entry;
	struct multikernel_ioctl_session_offer offer;
	struct multikernel_ioctl_session_step step;
};

FIXTURE(form)
{
	int device, session;
	__u64 pool;
	struct instance instance;
	struct multikernel_range range;
	__u32 cpu;
	struct ledger before, after;
	union request request;
};

FIXTURE_SETUP(form)
{
	struct multikernel_range range = any_range(UNIT);
	__u32 cpu;
	int arena;

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	cpu = spare_cpu(&self->before, 0);
	self->cpu = spare_cpu(&self->before, 1);
	self->range = range;
	ASSERT_NE(0, self->cpu);
	ASSERT_EQ(0, create(self->device, "form", &cpu, 1, &range, 1, &self->instance));
	arena = arena_create(self->device, "arena", UNIT);
	ASSERT_LE(0, arena);
	close(arena);
	arena = arena_create(self->device, "session", UNIT);
	ASSERT_LE(0, arena);
	close(arena);
	memset(&self->request, 0, sizeof(self->request));
	self->request.size = sizeof(self->request.session);
	strcpy((char *)self->request.session.name, "session");
	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_SESSION_CREATE, &self->request));
	self->session = self->request.session.fd;
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
}

FIXTURE_TEARDOWN(form)
{
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(1, destroy_all(self->device));
	EXPECT_EQ(0, arena_remove(self->device, "arena"));
	close(self->session);
	memset(&self->request, 0, sizeof(self->request));
	self->request.size = sizeof(self->request.session);
	strcpy((char *)self->request.session.name, "session");
	EXPECT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_SESSION_REMOVE, &self->request));
	EXPECT_EQ(0, arena_remove(self->device, "session"));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

static int fd_of(const FIXTURE_DATA(form) *self, const struct command *command)
{
	if (command->on_session)
		return self->session;
	return command->on_instance ? self->instance.fd : self->device;
}

/* A request that would succeed, for those commands that change nothing by it. */
static bool harmless(FIXTURE_DATA(form) *self, const struct command *command)
{
	memset(&self->request, 0, sizeof(self->request));
	self->request.size = command->size;
	switch (command->number) {
	case MULTIKERNEL_IOCTL_HOST_INFO:
	case MULTIKERNEL_IOCTL_LIST_MEMORY:
	case MULTIKERNEL_IOCTL_LIST_CPUS:
	case MULTIKERNEL_IOCTL_LIST_INSTANCES:
	case MULTIKERNEL_IOCTL_LIST_LINKS:
	case MULTIKERNEL_IOCTL_GET_INFO:
	case MULTIKERNEL_IOCTL_LIST_ARENAS:
	case MULTIKERNEL_IOCTL_LIST_GRANTS:
	case MULTIKERNEL_IOCTL_LIST_SESSIONS:
	case MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES:
		return true;
	default:
		return false;
	}
}

/* A request that is right in form, and would change something. */
static void effective(FIXTURE_DATA(form) *self, const struct command *command)
{
	union request *request = &self->request;

	harmless(self, command);
	switch (command->number) {
	case MULTIKERNEL_IOCTL_POOL_GROW:
		request->pool.bytes = UNIT;
		request->pool.nid = -1;
		break;
	case MULTIKERNEL_IOCTL_POOL_SHRINK:
		request->pool.bytes = UNIT;
		request->pool.base = self->pool + POOL - UNIT;
		request->pool.flags = MULTIKERNEL_RANGE_FIXED;
		request->pool.nid = -1;
		break;
	case MULTIKERNEL_IOCTL_CREATE:
		strcpy((char *)request->create.name, "other");
		request->create.nr_cpus = 1;
		request->create.cpus = (uintptr_t)&self->cpu;
		request->create.nr_ranges = 1;
		request->create.ranges = (uintptr_t)&self->range;
		break;
	case MULTIKERNEL_IOCTL_OPEN:
		request->open.id = self->instance.id;
		break;
	case MULTIKERNEL_IOCTL_STOP:
		request->stop.flags = MULTIKERNEL_STOP_FORCE;
		break;
	case MULTIKERNEL_IOCTL_READ_MEMORY:
		request->read_memory.base = self->instance.base;
		request->read_memory.bytes = 1;
		break;
	case MULTIKERNEL_IOCTL_CONNECT:
	case MULTIKERNEL_IOCTL_DISCONNECT:
		/* Of a right form; there is no such instance. */
		request->connect.id = self->instance.id + 1;
		break;
	case MULTIKERNEL_IOCTL_ADD_CPUS:
		/* As above. */
		request->add_cpus.nr_cpus = 1;
		request->add_cpus.cpus = (uintptr_t)&self->cpu;
		request->add_cpus.from = self->instance.id + 1;
		break;
	case MULTIKERNEL_IOCTL_EXCHANGE_NAMES:
		request->exchange_names.id = self->instance.id + 1;
		break;
	case MULTIKERNEL_IOCTL_ARENA_CREATE:
		strcpy((char *)request->arena_create.name, "other");
		request->arena_create.bytes = UNIT;
		request->arena_create.nid = -1;
		break;
	case MULTIKERNEL_IOCTL_ARENA_OPEN:
		strcpy((char *)request->arena_open.name, "arena");
		break;
	case MULTIKERNEL_IOCTL_ARENA_REMOVE:
		strcpy((char *)request->arena_remove.name, "arena");
		break;
	case MULTIKERNEL_IOCTL_ARENA_GRANT:
	case MULTIKERNEL_IOCTL_ARENA_REVOKE:
		strcpy((char *)request->arena_grant.name, "arena");
		request->arena_grant.id = self->instance.id;
		break;
	case MULTIKERNEL_IOCTL_ARENA_RESIZE:
		strcpy((char *)request->arena_resize.name, "arena");
		request->arena_resize.bytes = 2 * UNIT;
		break;
	case MULTIKERNEL_IOCTL_SESSION_CREATE:
		strcpy((char *)request->session.name, "arena");
		break;
	case MULTIKERNEL_IOCTL_SESSION_OPEN:
	case MULTIKERNEL_IOCTL_SESSION_ACCEPT:
	case MULTIKERNEL_IOCTL_SESSION_REMOVE:
		strcpy((char *)request->session.name, "session");
		break;
	case MULTIKERNEL_IOCTL_SESSION_PUT:
		request->entry.kind = MULTIKERNEL_ENTRY_BYTES;
		request->entry.key[0] = 'k';
		break;
	case MULTIKERNEL_IOCTL_SESSION_GET:
	case MULTIKERNEL_IOCTL_SESSION_DELETE:
		request->entry.key[0] = 'k';
		break;
	case MULTIKERNEL_IOCTL_SESSION_OFFER:
		strcpy((char *)request->offer.to, "form");
		break;
	}
}

TEST_F(form, too_small)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *command = &commands[i];
		const __u32 wrong[] = { 0, 1, 4, command->size - 4, command->size - 1 };
		size_t j;

		for (j = 0; j < ARRAY_SIZE(wrong); j++) {
			effective(self, command);
			/* Of the smallest, 4 of 8 bytes is one too small as well. */
			self->request.size = wrong[j];
			EXPECT_EQ(-EINVAL, mk_ioctl(fd_of(self, command), command->number,
						    &self->request))
				TH_LOG("%s, size %u", command->name, wrong[j]);
		}
	}
}

TEST_F(form, larger_with_zeroes_is_accepted)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *command = &commands[i];
		const __u32 larger[] = { command->size + 1, command->size + 64, PAGE };
		size_t j;

		for (j = 0; j < ARRAY_SIZE(larger) && harmless(self, command); j++) {
			self->request.size = larger[j];
			EXPECT_EQ(0, mk_ioctl(fd_of(self, command), command->number,
					      &self->request))
				TH_LOG("%s, size %u", command->name, larger[j]);
			EXPECT_EQ(larger[j], self->request.size);
		}
	}
}

TEST_F(form, larger_with_something_is_refused)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *command = &commands[i];
		const __u32 larger[] = { command->size + 1, command->size + 65, PAGE };
		size_t j;

		for (j = 0; j < ARRAY_SIZE(larger); j++) {
			effective(self, command);
			self->request.size = larger[j];
			self->request.bytes[larger[j] - 1] = 1;
			EXPECT_EQ(-E2BIG, mk_ioctl(fd_of(self, command), command->number,
						   &self->request))
				TH_LOG("%s, size %u", command->name, larger[j]);
		}
		effective(self, command);
		self->request.size = UINT32_MAX;
		EXPECT_EQ(-E2BIG, mk_ioctl(fd_of(self, command), command->number, &self->request))
			TH_LOG("%s", command->name);
	}
}

TEST_F(form, unknown_number)
{
	static const unsigned long unknown[] = {
		_IO(MULTIKERNEL_IOCTL_TYPE, 0x3e), _IO(MULTIKERNEL_IOCTL_TYPE, 0x3f),
		_IO(MULTIKERNEL_IOCTL_TYPE, 0x7f), _IO(MULTIKERNEL_IOCTL_TYPE, 0xff),
		_IO(MULTIKERNEL_IOCTL_TYPE, 0x4f), _IO(MULTIKERNEL_IOCTL_TYPE, 0x5d),
		_IO(MULTIKERNEL_IOCTL_TYPE, 0x68),
		_IOWR(MULTIKERNEL_IOCTL_TYPE, 0, __u64), _IO(0xBA, 0), 0, ~0U,
		/* Those of a port fd. */
		MULTIKERNEL_IOCTL_MAP_PORT, MULTIKERNEL_IOCTL_RING_PORT,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(unknown); i++) {
		memset(&self->request, 0, sizeof(self->request));
		EXPECT_EQ(-ENOTTY, mk_ioctl(self->device, unknown[i], &self->request));
		EXPECT_EQ(-ENOTTY, mk_ioctl(self->instance.fd, unknown[i], &self->request));
		EXPECT_EQ(-ENOTTY, mk_ioctl(self->session, unknown[i], &self->request));
	}
	/* Known ones on the wrong kind of fd. */
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *command = &commands[i];

		effective(self, command);
		EXPECT_EQ(-ENOTTY, mk_ioctl(command->on_instance ? self->device : self->instance.fd,
					    command->number, &self->request))
			TH_LOG("%s", command->name);
		EXPECT_EQ(-ENOTTY, mk_ioctl(command->on_session ? self->device : self->session,
					    command->number, &self->request))
			TH_LOG("%s", command->name);
	}
}

#define EXPECT_REFUSED(which, member, value) do {						\
	const struct command *command = &commands[which];					\
												\
	effective(self, command);								\
	self->request.member = (value);								\
	EXPECT_EQ(-EINVAL, mk_ioctl(fd_of(self, command), command->number, &self->request))	\
		TH_LOG("%s: " #member, command->name);						\
} while (0)

TEST_F(form, reserved_and_flags)
{
	EXPECT_REFUSED(POOL_GROW, pool.reserved, 1);
	EXPECT_REFUSED(POOL_GROW, pool.flags, 0x20);
	EXPECT_REFUSED(POOL_SHRINK, pool.reserved, 1);
	EXPECT_REFUSED(POOL_SHRINK, pool.flags, 0x21);
	EXPECT_REFUSED(CREATE, create.flags, 1);
	EXPECT_REFUSED(CREATE, create.reserved, 1);
	EXPECT_REFUSED(OPEN, open.reserved, 1);
	EXPECT_REFUSED(OPEN, open.name[0], 'f');
	EXPECT_REFUSED(EVENTS, events.flags, 1);
	EXPECT_REFUSED(EVENTS, events.reserved, 1);
	EXPECT_REFUSED(GET_INFO, get_info.reserved, 1);
	EXPECT_REFUSED(START, start.flags, 1);
	EXPECT_REFUSED(START, start.cpus_max, MULTIKERNEL_CPUS_MAX + 1);
	EXPECT_REFUSED(START, start.hang_ms, MULTIKERNEL_HANG_MS_MIN - 1);
	EXPECT_REFUSED(START, start.hang_ms, MULTIKERNEL_HANG_MS_MAX + 1);
	EXPECT_REFUSED(START, start.hang_ms, MULTIKERNEL_HANG_NEVER - 1);
	EXPECT_REFUSED(STOP, stop.flags, 2);
	EXPECT_REFUSED(STOP, stop.timeout_ms, 1);
	EXPECT_REFUSED(STOP, stop.flags, 0);
	EXPECT_REFUSED(DESTROY, simple.flags, 1);
	EXPECT_REFUSED(RING, simple.flags, 1);
	EXPECT_REFUSED(READ_MEMORY, read_memory.flags, 1);
	EXPECT_REFUSED(READ_MEMORY, read_memory.bytes, 0);
	EXPECT_REFUSED(READ_MEMORY, read_memory.bytes, MULTIKERNEL_READ_MAX + 1);
	EXPECT_REFUSED(CONNECT, connect.flags, 1);
	EXPECT_REFUSED(CONNECT, connect.reserved, 1);
	EXPECT_REFUSED(CONNECT, connect.name[0], 'f');
	EXPECT_REFUSED(DISCONNECT, connect.flags, 1);
	EXPECT_REFUSED(DISCONNECT, connect.reserved, 1);
	EXPECT_REFUSED(DISCONNECT, connect.name[0], 'f');
	EXPECT_REFUSED(ADD_CPUS, add_cpus.flags, 1);
	EXPECT_REFUSED(ADD_CPUS, add_cpus.nr_cpus, 0);
	EXPECT_REFUSED(ADD_CPUS, add_cpus.nr_cpus, MULTIKERNEL_CPUS_MAX + 1);
	EXPECT_REFUSED(EXCHANGE_NAMES, exchange_names.flags, 2);
	EXPECT_REFUSED(EXCHANGE_NAMES, exchange_names.reserved, 1);
	EXPECT_EQ(-EINVAL, stop_in_order(self->instance.fd, 3600001));
	EXPECT_REFUSED(ARENA_CREATE, arena_create.flags, 0x20);
	EXPECT_REFUSED(ARENA_CREATE, arena_create.flags,
		       MULTIKERNEL_RANGE_BELOW_4G | MULTIKERNEL_RANGE_ABOVE_4G);
	EXPECT_REFUSED(ARENA_CREATE, arena_create.base, UNIT);
	EXPECT_REFUSED(ARENA_CREATE, arena_create.bytes, 0);
	EXPECT_REFUSED(ARENA_CREATE, arena_create.bytes, UNIT + PAGE);
	EXPECT_REFUSED(ARENA_CREATE, arena_create.nid, -2);
	EXPECT_REFUSED(ARENA_CREATE, arena_create.name[0], 0);
	EXPECT_REFUSED(ARENA_OPEN, arena_open.flags, 2);
	EXPECT_REFUSED(ARENA_OPEN, arena_open.reserved, 1);
	EXPECT_REFUSED(ARENA_OPEN, arena_open.name[63], 'x');
	EXPECT_REFUSED(ARENA_REMOVE, arena_remove.flags, 1);
	EXPECT_REFUSED(ARENA_REMOVE, arena_remove.name[0], '/');
	EXPECT_REFUSED(ARENA_GRANT, arena_grant.flags, 2);
	EXPECT_REFUSED(ARENA_GRANT, arena_grant.reserved, 1);
	EXPECT_REFUSED(ARENA_REVOKE, arena_grant.flags, 1);
	EXPECT_REFUSED(ARENA_REVOKE, arena_grant.reserved, 1);
	EXPECT_REFUSED(ARENA_RESIZE, arena_resize.flags, 1);
	EXPECT_REFUSED(ARENA_RESIZE, arena_resize.bytes, 0);
	EXPECT_REFUSED(ARENA_RESIZE, arena_resize.bytes, UNIT + 1);
	EXPECT_REFUSED(SESSION_CREATE, session.flags, MULTIKERNEL_SESSION_SEIZE);
	EXPECT_REFUSED(SESSION_CREATE, session.timeout_ms, 1);
	EXPECT_REFUSED(SESSION_OPEN, session.flags, 2);
	EXPECT_REFUSED(SESSION_OPEN, session.timeout_ms, 1);
	EXPECT_REFUSED(SESSION_ACCEPT, session.flags, MULTIKERNEL_SESSION_SEIZE);
	EXPECT_REFUSED(SESSION_REMOVE, session.flags, MULTIKERNEL_SESSION_SEIZE);
	EXPECT_REFUSED(SESSION_REMOVE, session.timeout_ms, 1);
	EXPECT_REFUSED(SESSION_PUT, entry.flags, 1);
	EXPECT_REFUSED(SESSION_GET, entry.flags, 1);
	EXPECT_REFUSED(SESSION_DELETE, entry.flags, 1);
	EXPECT_REFUSED(SESSION_OFFER, offer.flags, 1);
	EXPECT_REFUSED(SESSION_COMMIT, step.flags, 1);
	EXPECT_REFUSED(SESSION_COMMIT, step.timeout_ms, 1);
	EXPECT_REFUSED(SESSION_ABORT, step.flags, 1);
	EXPECT_REFUSED(SESSION_ABORT, step.timeout_ms, 1);
	EXPECT_REFUSED(SESSION_WAIT, step.flags, 1);
}

TEST_F(form, structure_that_is_not_accessible)
{
	unsigned char *end;
	size_t i;

	end = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, end);
	ASSERT_EQ(0, munmap(end + PAGE, PAGE));
	end += PAGE;
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const struct command *command = &commands[i];
		int fd = fd_of(self, command);

		EXPECT_EQ(-EFAULT, mk_ioctl(fd, command->number, NULL))
			TH_LOG("%s", command->name);
		EXPECT_EQ(-EFAULT, mk_ioctl(fd, command->number, (void *)~0xfffUL))
			TH_LOG("%s", command->name);
		/* Its size can be read, its last byte not; then a larger one's last byte. */
		effective(self, command);
		memcpy(end - command->size + 1, &self->request, command->size - 1);
		EXPECT_EQ(-EFAULT, mk_ioctl(fd, command->number, end - command->size + 1))
			TH_LOG("%s", command->name);
		self->request.size = command->size + 1;
		memcpy(end - command->size, &self->request, command->size);
		EXPECT_EQ(-EFAULT, mk_ioctl(fd, command->number, end - command->size))
			TH_LOG("%s", command->name);
	}
	munmap(end - PAGE, PAGE);
}

/* What has been done when the answer cannot be written is undone. */
TEST_F(form, structure_that_cannot_be_written)
{
	static const enum which with_output[] = {
		HOST_INFO, POOL_GROW, LIST_MEMORY, LIST_CPUS, LIST_INSTANCES, CREATE, OPEN,
		EVENTS, LIST_LINKS, GET_INFO, ARENA_CREATE, ARENA_OPEN, LIST_ARENAS, LIST_GRANTS,
		SESSION_CREATE, LIST_SESSIONS, SESSION_LIST_ENTRIES,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(with_output); i++) {
		const struct command *command = &commands[with_output[i]];
		void *page;

		page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, page);
		effective(self, command);
		memcpy(page, &self->request, command->size);
		ASSERT_EQ(0, mprotect(page, PAGE, PROT_READ));
		EXPECT_EQ(-EFAULT, mk_ioctl(fd_of(self, command), command->number, page))
			TH_LOG("%s", command->name);
		munmap(page, PAGE);
	}
}

TEST_F(form, array_that_is_not_accessible)
{
	union request *request = &self->request;
	size_t i;

	for (i = LIST_MEMORY; i <= LIST_INSTANCES; i++) {
		effective(self, &commands[i]);
		request->list.nr = 1;
		EXPECT_EQ(-EFAULT, mk_ioctl(self->device, commands[i].number, request))
			TH_LOG("%s", commands[i].name);
	}
	effective(self, &commands[LIST_ARENAS]);
	request->list.nr = 1;
	EXPECT_EQ(-EFAULT, mk_ioctl(self->device, MULTIKERNEL_IOCTL_LIST_ARENAS, request));
	effective(self, &commands[CREATE]);
	request->create.cpus = 0;
	EXPECT_EQ(-EFAULT, mk_ioctl(self->device, MULTIKERNEL_IOCTL_CREATE, request));
	effective(self, &commands[CREATE]);
	request->create.ranges = ~0xfffULL;
	EXPECT_EQ(-EFAULT, mk_ioctl(self->device, MULTIKERNEL_IOCTL_CREATE, request));
	effective(self, &commands[GET_INFO]);
	request->get_info.nr_cpus = 1;
	EXPECT_EQ(-EFAULT, mk_ioctl(self->instance.fd, MULTIKERNEL_IOCTL_GET_INFO, request));
	effective(self, &commands[GET_INFO]);
	request->get_info.nr_ranges = 1;
	EXPECT_EQ(-EFAULT, mk_ioctl(self->instance.fd, MULTIKERNEL_IOCTL_GET_INFO, request));
}

TEST_F(form, arrays_of_any_length)
{
	struct multikernel_cpu cpus[LEDGER_CPUS];
	struct multikernel_ioctl_list list = { .size = sizeof(list) };
	struct info info;

	/* How many there are is told without room for one. */
	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_LIST_CPUS, &list));
	EXPECT_EQ(self->before.nr_cpus, list.nr);
	/* No more is written than there is room for. */
	memset(cpus, 0xa5, sizeof(cpus));
	list.nr = 2;
	list.items = (uintptr_t)cpus;
	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_LIST_CPUS, &list));
	EXPECT_EQ(self->before.nr_cpus, list.nr);
	EXPECT_EQ(0, memcmp(cpus, self->before.cpus, 2 * sizeof(cpus[0])));
	EXPECT_EQ(0xa5a5a5a5, cpus[2].cpu);
	memset(&info, 0, sizeof(info));
	info.get.size = sizeof(info.get);
	ASSERT_EQ(0, mk_ioctl(self->instance.fd, MULTIKERNEL_IOCTL_GET_INFO, &info.get));
	EXPECT_EQ(1, info.get.nr_cpus);
	EXPECT_EQ(2, info.get.nr_ranges);
}

static int connect_by(int fd, unsigned long command, __u32 id, const char *name)
{
	struct multikernel_ioctl_connect request = { .size = sizeof(request), .id = id };

	if (name)
		memcpy(request.name, name, strlen(name));
	return mk_ioctl(fd, command, &request);
}

/* How many links there are; those that fit are in @links. */
static int links(int device, struct multikernel_link *links, __u32 nr)
{
	struct multikernel_ioctl_list list = {
		.size = sizeof(list),
		.nr = nr,
		.items = (uintptr_t)links,
	};
	int err = mk_ioctl(device, MULTIKERNEL_IOCTL_LIST_LINKS, &list);

	return err ? err : (int)list.nr;
}

TEST_F(form, two_are_connected_once)
{
	const unsigned long connect = MULTIKERNEL_IOCTL_CONNECT;
	const unsigned long disconnect = MULTIKERNEL_IOCTL_DISCONNECT;
	int fd = self->instance.fd, device = self->device;
	char long_name[MULTIKERNEL_NAME_LENGTH];
	struct multikernel_link link[2];
	struct instance other;
	__u32 id;

	memset(long_name, 'x', sizeof(long_name));
	ASSERT_EQ(0, create(device, "other", &self->cpu, 1, &self->range, 1, &other));
	id = self->instance.id;
	EXPECT_EQ(-EINVAL, connect_by(fd, connect, id, NULL));
	EXPECT_EQ(-EINVAL, connect_by(fd, connect, 0, "form"));
	EXPECT_EQ(-EINVAL, connect_by(fd, disconnect, id, NULL));
	EXPECT_EQ(-EINVAL, connect_by(fd, connect, 0, NULL));
	EXPECT_EQ(-EINVAL, connect_by(fd, connect, 0, "no such"));
	EXPECT_EQ(-ENOENT, connect_by(fd, connect, 0, "nothing"));
	EXPECT_EQ(-ENOENT, connect_by(fd, connect, MULTIKERNEL_ID_MAX, NULL));
	EXPECT_EQ(-ENOENT, connect_by(fd, disconnect, MULTIKERNEL_ID_MAX + 1, NULL));
	{
		struct multikernel_ioctl_connect request = { .size = sizeof(request) };

		memcpy(request.name, long_name, sizeof(long_name));
		EXPECT_EQ(-ENAMETOOLONG, mk_ioctl(fd, connect, &request));
	}
	EXPECT_EQ(-ENOLINK, connect_by(fd, disconnect, other.id, NULL));
	EXPECT_EQ(0, links(device, NULL, 0));

	EXPECT_EQ(0, connect_by(fd, connect, other.id, NULL));
	EXPECT_EQ(-EISCONN, connect_by(fd, connect, 0, "other"));
	EXPECT_EQ(-EISCONN, connect_by(other.fd, connect, id, NULL));
	memset(link, 0xa5, sizeof(link));
	ASSERT_EQ(1, links(device, link, 2));
	EXPECT_EQ(id < other.id ? id : other.id, link[0].ids[0]);
	EXPECT_EQ(id < other.id ? other.id : id, link[0].ids[1]);
	EXPECT_EQ(MULTIKERNEL_LINK_DOWN, link[0].state);
	EXPECT_EQ(0, link[0].epoch);
	EXPECT_EQ(0xa5a5a5a5, link[1].state);
	EXPECT_EQ(1, links(device, NULL, 0));

	EXPECT_EQ(0, connect_by(other.fd, disconnect, 0, "form"));
	EXPECT_EQ(-ENOLINK, connect_by(fd, disconnect, other.id, NULL));
	EXPECT_EQ(0, links(device, NULL, 0));

	/* It goes with either of the two. */
	EXPECT_EQ(0, connect_by(fd, connect, other.id, NULL));
	id = other.id;
	ASSERT_EQ(0, destroy(&other));
	EXPECT_EQ(0, links(device, NULL, 0));
	EXPECT_EQ(-ENOENT, connect_by(fd, disconnect, id, NULL));
}

static int exchange_names(int fd, __u32 id)
{
	struct multikernel_ioctl_exchange_names request = { .size = sizeof(request), .id = id };

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_EXCHANGE_NAMES, &request);
}

TEST_F(form, cpus_are_added_and_moved)
{
	__u32 id = self->instance.id, third = spare_cpu(&self->before, 1);
	__u32 twice[2] = { self->cpu, self->cpu }, none = 0x7fffffff, zero = 0;
	int fd = self->instance.fd, device = self->device;
	struct info info;
	struct instance other;
	__u32 first;

	ASSERT_NE(0, third);
	ASSERT_EQ(0, get_info(fd, &info));
	ASSERT_EQ(1, info.get.nr_cpus);
	first = info.cpus[0].cpu;
	EXPECT_EQ(-EINVAL, add_cpus(fd, 0, twice, 2));
	EXPECT_EQ(-ENODEV, add_cpus(fd, 0, &none, 1));
	EXPECT_EQ(-EOPNOTSUPP, add_cpus(fd, 0, &zero, 1));
	EXPECT_EQ(-EBUSY, add_cpus(fd, 0, &first, 1));
	EXPECT_EQ(-EFAULT, add_cpus(fd, 0, NULL, 1));
	EXPECT_EQ(-EINVAL, add_cpus(fd, id, &first, 1));
	EXPECT_EQ(-ENOENT, add_cpus(fd, MULTIKERNEL_ID_MAX + 1, &first, 1));

	/* All or none: the second is not to be had. */
	twice[1] = first;
	EXPECT_EQ(-EBUSY, add_cpus(fd, 0, twice, 2));
	ASSERT_EQ(0, cpu_set_online(third, false));
	twice[1] = third;
	EXPECT_EQ(-ENETDOWN, add_cpus(fd, 0, twice, 2));
	ASSERT_EQ(0, cpu_set_online(third, true));
	ASSERT_EQ(0, get_info(fd, &info));
	EXPECT_EQ(1, info.get.nr_cpus);

	ASSERT_EQ(0, add_cpus(fd, 0, &self->cpu, 1));
	ASSERT_EQ(0, get_info(fd, &info));
	ASSERT_EQ(2, info.get.nr_cpus);
	EXPECT_EQ(first, info.cpus[0].cpu);
	EXPECT_EQ(self->cpu, info.cpus[1].cpu);
	EXPECT_EQ(MULTIKERNEL_OWNER_INSTANCE, info.cpus[1].owner);
	EXPECT_EQ(id, info.cpus[1].id);
	EXPECT_EQ(-EBUSY, add_cpus(fd, 0, &self->cpu, 1));
	EXPECT_EQ(-EBUSY, cpu_set_online(self->cpu, true));

	ASSERT_EQ(0, create(device, "other", &third, 1, &self->range, 1, &other));
	EXPECT_EQ(-ENODEV, add_cpus(other.fd, id, &third, 1));
	ASSERT_EQ(0, add_cpus(other.fd, id, &self->cpu, 1));
	EXPECT_EQ(-ENODEV, add_cpus(other.fd, id, &self->cpu, 1));
	/* Each keeps one. */
	EXPECT_EQ(-EINVAL, add_cpus(other.fd, id, &first, 1));
	ASSERT_EQ(0, get_info(fd, &info));
	ASSERT_EQ(1, info.get.nr_cpus);
	EXPECT_EQ(first, info.cpus[0].cpu);
	ASSERT_EQ(0, get_info(other.fd, &info));
	ASSERT_EQ(2, info.get.nr_cpus);
	EXPECT_EQ(self->cpu, info.cpus[1].cpu);
	EXPECT_EQ(other.id, info.cpus[1].id);
	/* The boot CPU too, and the next one becomes that. */
	ASSERT_EQ(0, add_cpus(fd, other.id, &third, 1));
	ASSERT_EQ(0, get_info(other.fd, &info));
	ASSERT_EQ(1, info.get.nr_cpus);
	EXPECT_EQ(self->cpu, info.cpus[0].cpu);
	ASSERT_EQ(0, add_cpus(other.fd, id, &third, 1));
	ASSERT_EQ(0, destroy(&other));
}

static __u32 id_of(int device, const char *name)
{
	struct multikernel_ioctl_open open = { .size = sizeof(open) };

	strcpy((char *)open.name, name);
	if (mk_ioctl(device, MULTIKERNEL_IOCTL_OPEN, &open))
		return 0;
	close(open.fd);
	return open.id;
}

TEST_F(form, names_are_exchanged)
{
	int fd = self->instance.fd, device = self->device;
	__u32 id = self->instance.id;
	struct instance other;

	ASSERT_EQ(0, create(device, "other", &self->cpu, 1, &self->range, 1, &other));
	EXPECT_EQ(-EINVAL, exchange_names(fd, id));
	EXPECT_EQ(-ENOENT, exchange_names(fd, 0));
	EXPECT_EQ(-ENOENT, exchange_names(fd, MULTIKERNEL_ID_MAX));
	EXPECT_EQ(id, id_of(device, "form"));
	ASSERT_EQ(0, exchange_names(fd, other.id));
	EXPECT_EQ(other.id, id_of(device, "form"));
	EXPECT_EQ(id, id_of(device, "other"));
	ASSERT_EQ(0, exchange_names(fd, other.id));
	EXPECT_EQ(id, id_of(device, "form"));
	ASSERT_EQ(0, destroy(&other));
}

TEST_F(form, arenas)
{
	struct multikernel_ioctl_list list = { .size = sizeof(list), .nr = 2 };
	struct multikernel_ioctl_arena_open open = { .size = sizeof(open), .name = "arena" };
	struct multikernel_arena arenas[2] = { };
	struct multikernel_arena_grant grants[2] = { };
	__u32 id = self->instance.id;
	int device = self->device, fd;

	EXPECT_EQ(-EEXIST, arena_create(device, "arena", UNIT));
	EXPECT_EQ(-ENOSPC, arena_create(device, "large", 2 * POOL));
	EXPECT_EQ(-ENOSPC, arena_create(device, "large", -UNIT));
	EXPECT_EQ(-ENOENT, arena_remove(device, "nothing"));
	EXPECT_EQ(-ENOENT, arena_resize(device, "nothing", UNIT));
	EXPECT_EQ(-ENOSPC, arena_resize(device, "arena", 2 * POOL));
	/* An arena and an instance may have the same name. */
	fd = arena_create(device, "form", UNIT);
	ASSERT_LE(0, fd);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	EXPECT_EQ(-EBUSY, arena_remove(device, "form"));
	EXPECT_EQ(-EBUSY, arena_resize(device, "form", 2 * UNIT));
	close(fd);
	EXPECT_EQ(0, arena_remove(device, "form"));

	ASSERT_EQ(0, mk_ioctl(device, MULTIKERNEL_IOCTL_ARENA_OPEN, &open));
	EXPECT_EQ(UNIT, open.bytes);
	EXPECT_EQ(FD_CLOEXEC, fcntl(open.fd, F_GETFD));
	EXPECT_EQ(0, arena_grant(device, MULTIKERNEL_IOCTL_ARENA_GRANT, "arena", id,
				 MULTIKERNEL_ARENA_READ_ONLY));
	list.items = (uintptr_t)arenas;
	EXPECT_EQ(0, mk_ioctl(device, MULTIKERNEL_IOCTL_LIST_ARENAS, &list));
	EXPECT_EQ(2, list.nr);
	EXPECT_STREQ("arena", (char *)arenas[0].name);
	EXPECT_EQ(UNIT, arenas[0].bytes);
	EXPECT_EQ(1, arenas[0].grants);
	EXPECT_EQ(1, arenas[0].files);
	list.items = (uintptr_t)grants;
	list.nr = 2;
	EXPECT_EQ(0, mk_ioctl(device, MULTIKERNEL_IOCTL_LIST_GRANTS, &list));
	EXPECT_EQ(1, list.nr);
	EXPECT_EQ(arenas[0].id, grants[0].arena);
	EXPECT_EQ(id, grants[0].id);
	EXPECT_EQ(MULTIKERNEL_ARENA_READ_ONLY, grants[0].flags);
	close(open.fd);

	EXPECT_EQ(0, arena_grant(device, MULTIKERNEL_IOCTL_ARENA_REVOKE, "arena", id, 0));
	EXPECT_EQ(-EACCES, arena_grant(device, MULTIKERNEL_IOCTL_ARENA_REVOKE, "arena", id, 0));
	EXPECT_EQ(-ENOENT, arena_grant(device, MULTIKERNEL_IOCTL_ARENA_REVOKE, "nothing", id, 0));
	EXPECT_EQ(-ENOENT, arena_grant(device, MULTIKERNEL_IOCTL_ARENA_GRANT, "nothing", id, 0));
	EXPECT_EQ(-ENOENT, arena_grant(device, MULTIKERNEL_IOCTL_ARENA_GRANT, "arena", 0, 0));
	EXPECT_EQ(-ENOENT, arena_grant(device, MULTIKERNEL_IOCTL_ARENA_GRANT, "arena", id + 1, 0));
	memset(open.name, 'x', sizeof(open.name));
	EXPECT_EQ(-ENAMETOOLONG, mk_ioctl(device, MULTIKERNEL_IOCTL_ARENA_OPEN, &open));
}

TEST_F(form, open_finds_by_id_or_name)
{
	struct multikernel_ioctl_open by_name = { .size = sizeof(by_name), .name = "form" };
	struct multikernel_ioctl_open wrong = { .size = sizeof(wrong), .name = "no such" };
	struct info info;
	int fd;

	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_OPEN, &by_name));
	EXPECT_EQ(self->instance.id, by_name.id);
	EXPECT_EQ(FD_CLOEXEC, fcntl(by_name.fd, F_GETFD));
	EXPECT_EQ(0, get_info(by_name.fd, &info));
	EXPECT_EQ(self->instance.id, info.get.id);
	close(by_name.fd);
	ASSERT_EQ(0, open_by_id(self->device, self->instance.id, &fd));
	EXPECT_EQ(0, get_info(fd, &info));
	close(fd);
	EXPECT_EQ(-ENOENT, open_by_id(self->device, self->instance.id + 1, &fd));
	EXPECT_EQ(-ENOENT, open_by_id(self->device, MULTIKERNEL_ID_MAX, &fd));
	EXPECT_EQ(-ENOENT, open_by_id(self->device, MULTIKERNEL_ID_MAX + 1, &fd));
	EXPECT_EQ(-ENOENT, open_by_id(self->device, UINT32_MAX, &fd));
	/* Id 0 means a name, and there is none. */
	EXPECT_EQ(-EINVAL, open_by_id(self->device, 0, &fd));
	EXPECT_EQ(-EINVAL, mk_ioctl(self->device, MULTIKERNEL_IOCTL_OPEN, &wrong));
	memset(wrong.name, 0, sizeof(wrong.name));
	strcpy((char *)wrong.name, "nothing");
	EXPECT_EQ(-ENOENT, mk_ioctl(self->device, MULTIKERNEL_IOCTL_OPEN, &wrong));
	memset(wrong.name, 'x', sizeof(wrong.name));
	EXPECT_EQ(-ENAMETOOLONG, mk_ioctl(self->device, MULTIKERNEL_IOCTL_OPEN, &wrong));
}

TEST_F(form, fd_of_what_is_gone)
{
	struct multikernel_range range = any_range(UNIT);
	struct instance gone, next;
	int old;
	size_t i;

	ASSERT_EQ(0, create(self->device, "gone", &self->cpu, 1, &range, 1, &gone));
	old = dup(gone.fd);
	ASSERT_EQ(0, destroy(&gone));
	/* Another of the same name, and most likely the same id, is another. */
	ASSERT_EQ(0, create(self->device, "gone", &self->cpu, 1, &range, 1, &next));
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!commands[i].on_instance)
			continue;
		effective(self, &commands[i]);
		EXPECT_EQ(-ESTALE, mk_ioctl(old, commands[i].number, &self->request))
			TH_LOG("%s", commands[i].name);
	}
	close(old);
	EXPECT_EQ(0, destroy(&next));
}

TEST_F(form, host_info)
{
	struct multikernel_ioctl_host_info info = { .size = sizeof(info) };

	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_HOST_INFO, &info));
	EXPECT_EQ(1, info.abi_version);
	EXPECT_EQ(1, info.cpus_lent);
	EXPECT_EQ(1, info.instances);
	EXPECT_EQ(self->before.nr_cpus - 1, info.cpus_online);
	EXPECT_EQ(KEXEC_SEGMENT_MAX, info.segments_max);
	EXPECT_EQ(self->instance.shared_size, info.shared_size);
	EXPECT_EQ(MULTIKERNEL_HOST_SHORTHAND_OFF, info.features & MULTIKERNEL_HOST_SHORTHAND_OFF);
	EXPECT_GE(MIB, info.kernel_bytes);
}

TEST_F(form, mapping)
{
	size_t size = self->instance.shared_size;
	int fd = self->instance.fd;
	__u64 *shared;

	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, PAGE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, size + PAGE, PROT_READ, MAP_SHARED, fd, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->device, 0));
	shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, shared);
	/* What is mapped can be read whatever becomes of the file. */
	shared[size / 8 - 1] = 42;
	EXPECT_EQ(42, shared[size / 8 - 1]);
	munmap(shared, size);
}

TEST_F(form, without_capability)
{
	int status;
	pid_t child = fork();

	ASSERT_LE(0, child);
	if (!child) {
		char byte[PAGE] = { 0 };
		struct kexec_segment one = segment(byte, 1, self->instance.base, PAGE);
		size_t i;

		ASSERT_EQ(0, drop_cap_sys_boot());
		/* Who opened it does not matter. */
		for (i = 0; i < ARRAY_SIZE(commands); i++) {
			effective(self, &commands[i]);
			EXPECT_EQ(-EPERM, mk_ioctl(fd_of(self, &commands[i]), commands[i].number,
						   &self->request))
				TH_LOG("%s", commands[i].name);
		}
		EXPECT_EQ(-EPERM, device_open());
		EXPECT_EQ(-EPERM, load(self->instance.id, self->instance.base, &one, 1));
		EXPECT_EQ(-EPERM, load(self->instance.id, 0, NULL, 0));
		_exit(0);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_HARNESS_MAIN
