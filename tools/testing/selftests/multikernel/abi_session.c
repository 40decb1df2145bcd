// SPDX-License-Identifier: GPL-2.0
/*
 * Sessions as the host's programs meet them: each errno, that what is refused
 * changes nothing, entries of every kind, who keeps pages from being taken
 * away, offers that nobody accepts, and arenas that say anything.
 *
 * handover.sh has what takes two kernels; the form of the calls is with that of
 * the others in abi_ioctl.
 *
 * vm: CPUS=4 MEM=2G TIMEOUT=300 APPEND="kho=on liveupdate=on"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/liveupdate.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "host.h"

/* The layout of an arena with a session: kernel/multikernel/handover/abi.rs. */
#define HEADER_BYTES	32
#define HEADER_RESERVED	40
#define HEADER_NAME	48
#define TABLES		0x10000
#define TABLE_COUNT	8
#define TABLE_RESERVED	12
#define ENTRIES		128
#define ENTRY_KIND	64
#define ENTRY_RESERVED	68
#define ENTRY_OFFSET	72
#define ENTRY_LENGTH	80

#define ARENA_BYTES	(2 * UNIT)

static int device_session(int device, unsigned long command, const char *name, __u32 flags,
			  __u32 timeout_ms, __u64 *ticket)
{
	struct multikernel_ioctl_session request = {
		.size = sizeof(request),
		.flags = flags,
		.timeout_ms = timeout_ms,
		.fd = -2,
	};
	int err;

	strcpy((char *)request.name, name);
	err = mk_ioctl(device, command, &request);
	if (ticket)
		*ticket = request.ticket;
	return err ? err : request.fd;
}

#define SESSION_CALL(device, name, call, flags, ms) \
	device_session(device, MULTIKERNEL_IOCTL_SESSION_##call, name, flags, ms, NULL)
#define CREATE(device, name)		SESSION_CALL(device, name, CREATE, 0, 0)
#define OPEN(device, name)		SESSION_CALL(device, name, OPEN, 0, 0)
#define SEIZE(device, name) \
	SESSION_CALL(device, name, OPEN, MULTIKERNEL_SESSION_SEIZE, 0)
#define ACCEPT(device, name, ms)	SESSION_CALL(device, name, ACCEPT, 0, ms)
#define REMOVE(device, name)		SESSION_CALL(device, name, REMOVE, 0, 0)

FIXTURE(session)
{
	int device, fd;
	__u64 pool;
	struct instance one, two;
	struct ledger before, after;
};

FIXTURE_SETUP(session)
{
	struct multikernel_range range = any_range(UNIT);
	__u32 cpu;
	int arena;

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	cpu = spare_cpu(&self->before, 0);
	ASSERT_EQ(0, create(self->device, "one", &cpu, 1, &range, 1, &self->one));
	cpu = spare_cpu(&self->before, 1);
	ASSERT_EQ(0, create(self->device, "two", &cpu, 1, &range, 1, &self->two));
	arena = arena_create(self->device, "state", ARENA_BYTES);
	ASSERT_LE(0, arena);
	/* Not while it is open. */
	EXPECT_EQ(-EBUSY, CREATE(self->device, "state"));
	close(arena);
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	self->fd = CREATE(self->device, "state");
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->fd, F_GETFD));
}

FIXTURE_TEARDOWN(session)
{
	close(self->fd);
	EXPECT_EQ(2, destroy_all(self->device));
	/* What was offered to them is not any more. */
	EXPECT_EQ(-1, REMOVE(self->device, "state"));
	EXPECT_EQ(0, arena_remove(self->device, "state"));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

static struct multikernel_ioctl_session_entry entry(const char *key)
{
	struct multikernel_ioctl_session_entry entry = { .size = sizeof(entry) };

	strncpy((char *)entry.key, key, sizeof(entry.key));
	return entry;
}

static int put_bytes(int fd, const char *key, const void *bytes, __u64 length)
{
	struct multikernel_ioctl_session_entry put = entry(key);

	put.kind = MULTIKERNEL_ENTRY_BYTES;
	put.address = (uintptr_t)bytes;
	put.length = length;
	return mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_PUT, &put);
}

/* The length of the entry, or an errno. */
static long get_bytes(int fd, const char *key, void *bytes, __u64 room)
{
	struct multikernel_ioctl_session_entry get = entry(key);
	int err;

	get.address = (uintptr_t)bytes;
	get.length = room;
	err = mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_GET, &get);
	return err ? err : (long)get.length;
}

static long put_file(int fd, const char *key, int file)
{
	struct multikernel_ioctl_session_entry put = entry(key);
	int err;

	put.kind = MULTIKERNEL_ENTRY_MEMFD;
	put.fd = file;
	err = mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_PUT, &put);
	return err ? err : (long)put.length;
}

static long get_file(int fd, const char *key, int file)
{
	struct multikernel_ioctl_session_entry get = entry(key);
	int err;

	get.fd = file;
	err = mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_GET, &get);
	return err ? err : (long)get.length;
}

/* A new file of the pages, or an errno. */
static int put_pages(int fd, const char *key, __u64 length)
{
	struct multikernel_ioctl_session_entry put = entry(key);
	int err;

	put.kind = MULTIKERNEL_ENTRY_PAGES;
	put.length = length;
	err = mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_PUT, &put);
	return err ? err : put.fd;
}

static int delete_entry(int fd, const char *key)
{
	struct multikernel_ioctl_session_entry delete = entry(key);

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_DELETE, &delete);
}

static int offer(int fd, const char *to, __u64 *ticket)
{
	struct multikernel_ioctl_session_offer offer = { .size = sizeof(offer) };
	int err;

	strcpy((char *)offer.to, to);
	err = mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_OFFER, &offer);
	*ticket = offer.ticket;
	return err;
}

/* How it stands, or an errno. */
static int step(int fd, unsigned long command, __u32 timeout_ms)
{
	struct multikernel_ioctl_session_step step = {
		.size = sizeof(step),
		.timeout_ms = timeout_ms,
		.state = 99,
	};
	int err = mk_ioctl(fd, command, &step);

	return err ? err : (int)step.state;
}

/* What the host says of the only session. */
static struct multikernel_session listed(int device)
{
	struct multikernel_session session[2] = { };
	struct multikernel_ioctl_list list = {
		.size = sizeof(list),
		.nr = 2,
		.items = (uintptr_t)session,
	};

	if (mk_ioctl(device, MULTIKERNEL_IOCTL_LIST_SESSIONS, &list) || list.nr != 1)
		session[0].state = 99;
	return session[0];
}

TEST_F(session, by_name)
{
	const unsigned long accept = MULTIKERNEL_IOCTL_SESSION_ACCEPT;
	static const unsigned long all[] = {
		MULTIKERNEL_IOCTL_SESSION_CREATE, MULTIKERNEL_IOCTL_SESSION_OPEN,
		MULTIKERNEL_IOCTL_SESSION_ACCEPT, MULTIKERNEL_IOCTL_SESSION_REMOVE,
	};
	int device = self->device;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(all); i++) {
		struct multikernel_ioctl_session request = { .size = sizeof(request) };

		memset(request.name, 'x', sizeof(request.name));
		EXPECT_EQ(-ENAMETOOLONG, mk_ioctl(device, all[i], &request));
		request.name[8] = 0;
		EXPECT_EQ(-EINVAL, mk_ioctl(device, all[i], &request));
		EXPECT_EQ(-EINVAL, device_session(device, all[i], "", 0, 0, NULL));
		EXPECT_EQ(-EINVAL, device_session(device, all[i], "a b", 0, 0, NULL));
		EXPECT_EQ(-EINVAL, device_session(device, all[i], "state", 2, 0, NULL));
		EXPECT_EQ(-ENOENT, device_session(device, all[i], "nothing", 0, 0, NULL));
		/* It is open. */
		EXPECT_EQ(-EBUSY, device_session(device, all[i], "state", 0, 0, NULL));
		if (all[i] != MULTIKERNEL_IOCTL_SESSION_OPEN)
			EXPECT_EQ(-EINVAL, device_session(device, all[i], "state",
							  MULTIKERNEL_SESSION_SEIZE, 0, NULL));
		if (all[i] != accept)
			EXPECT_EQ(-EINVAL, device_session(device, all[i], "state", 0, 1, NULL));
	}
	EXPECT_EQ(-ETIMEDOUT, ACCEPT(device, "nothing", 1));
	close(self->fd);
	EXPECT_EQ(-EEXIST, CREATE(device, "state"));
	EXPECT_EQ(-EACCES, ACCEPT(device, "state", 0));
	EXPECT_EQ(-ETIMEDOUT, ACCEPT(device, "state", 1));
	EXPECT_EQ(-EBUSY, arena_remove(device, "state"));
	EXPECT_EQ(-EBUSY, arena_open(device, "state", 0));
	EXPECT_EQ(-EBUSY, arena_resize(device, "state", 3 * UNIT));
	EXPECT_EQ(-1, REMOVE(device, "state"));
	EXPECT_EQ(-ENOENT, REMOVE(device, "state"));
	EXPECT_EQ(-ENOENT, OPEN(device, "state"));
	self->fd = CREATE(device, "state");
	EXPECT_LE(0, self->fd);
}

#define EXPECT_REFUSED(err, command, member, to) do {					\
	struct multikernel_ioctl_session_entry changed = base;				\
											\
	changed.member = (to);								\
	EXPECT_EQ(err, mk_ioctl(self->fd, MULTIKERNEL_IOCTL_SESSION_##command, &changed))	\
		TH_LOG(#command ": " #member " = " #to);				\
} while (0)

TEST_F(session, malformed_entries)
{
	struct multikernel_ioctl_session_entry base = entry("key");
	char bytes[8] = "before";
	int fd = self->fd;

	ASSERT_EQ(0, put_bytes(fd, "key", bytes, 8));
	base.kind = MULTIKERNEL_ENTRY_BYTES;
	base.address = (uintptr_t)"after";
	base.length = 6;
	EXPECT_REFUSED(-EINVAL, PUT, flags, 2);
	/* It is bytes. */
	EXPECT_REFUSED(-EINVAL, PUT, flags, MULTIKERNEL_PUT_PRESERVED);
	EXPECT_REFUSED(-EINVAL, PUT, kind, 0);
	EXPECT_REFUSED(-EINVAL, PUT, kind, 4);
	EXPECT_REFUSED(-EINVAL, PUT, key[0], 0);
	EXPECT_REFUSED(-EINVAL, PUT, key[63], 'x');
	EXPECT_REFUSED(-EINVAL, PUT, fd, 1);
	EXPECT_REFUSED(-EINVAL, PUT, length, MULTIKERNEL_ENTRY_BYTES_MAX + 1);
	EXPECT_REFUSED(-EINVAL, PUT, length, ~0ULL);
	EXPECT_REFUSED(-EFAULT, PUT, address, 0);
	EXPECT_REFUSED(-EFAULT, PUT, address, 0xffff888000000000);
	/* A part of it can be read. */
	EXPECT_REFUSED(-EFAULT, PUT, address, 0x7ffffffff000 - 3);
	memset(base.key, 'k', sizeof(base.key));
	EXPECT_REFUSED(-ENAMETOOLONG, PUT, flags, 0);
	EXPECT_REFUSED(-ENAMETOOLONG, GET, kind, 0);

	base = entry("pages");
	base.kind = MULTIKERNEL_ENTRY_PAGES;
	base.length = PAGE;
	EXPECT_REFUSED(-EINVAL, PUT, length, 0);
	EXPECT_REFUSED(-EINVAL, PUT, length, PAGE + 1);
	EXPECT_REFUSED(-EINVAL, PUT, address, (uintptr_t)bytes);
	EXPECT_REFUSED(-EINVAL, PUT, fd, 1);
	EXPECT_REFUSED(-ENOSPC, PUT, length, ARENA_BYTES);
	EXPECT_REFUSED(-ENOSPC, PUT, length, -PAGE);

	base = entry("key");
	EXPECT_REFUSED(-EINVAL, GET, flags, 1);
	EXPECT_REFUSED(-EINVAL, GET, kind, MULTIKERNEL_ENTRY_BYTES);
	EXPECT_REFUSED(-EINVAL, GET, fd, 1);
	EXPECT_REFUSED(-EINVAL, GET, key[0], 0);
	EXPECT_REFUSED(-ENOENT, GET, key[0], 'K');
	EXPECT_REFUSED(-EINVAL, DELETE, flags, 1);
	EXPECT_REFUSED(-EINVAL, DELETE, kind, MULTIKERNEL_ENTRY_BYTES);
	EXPECT_REFUSED(-EINVAL, DELETE, fd, 1);
	EXPECT_REFUSED(-EINVAL, DELETE, length, 1);
	EXPECT_REFUSED(-EINVAL, DELETE, address, 1);
	EXPECT_REFUSED(-ENOENT, DELETE, key[0], 'K');
	base.length = 6;
	EXPECT_REFUSED(-EFAULT, GET, address, 0);
	EXPECT_REFUSED(-EFAULT, GET, address, 0xffff888000000000);

	memset(bytes, 0, sizeof(bytes));
	EXPECT_EQ(8, get_bytes(fd, "key", bytes, 8));
	EXPECT_STREQ("before", bytes);
}

TEST_F(session, bytes)
{
	char *large = malloc(MULTIKERNEL_ENTRY_BYTES_MAX), *read;
	struct multikernel_session_entry listed[3] = { };
	struct multikernel_ioctl_list list = {
		.size = sizeof(list),
		.nr = 3,
		.items = (uintptr_t)listed,
	};
	int fd = self->fd;
	char bytes[8];
	__u64 i;

	read = malloc(MULTIKERNEL_ENTRY_BYTES_MAX);
	ASSERT_NE(NULL, large);
	ASSERT_NE(NULL, read);
	for (i = 0; i < MULTIKERNEL_ENTRY_BYTES_MAX; i++)
		large[i] = i ^ i >> 9;
	EXPECT_EQ(0, put_bytes(fd, "empty", NULL, 0));
	EXPECT_EQ(0, get_bytes(fd, "empty", bytes, 8));
	EXPECT_EQ(0, put_bytes(fd, "large", large, MULTIKERNEL_ENTRY_BYTES_MAX));
	EXPECT_EQ(MULTIKERNEL_ENTRY_BYTES_MAX,
		  get_bytes(fd, "large", read, MULTIKERNEL_ENTRY_BYTES_MAX));
	EXPECT_EQ(0, memcmp(large, read, MULTIKERNEL_ENTRY_BYTES_MAX));
	/* No more is written than there is room for, and the whole length is told. */
	memset(bytes, 'x', sizeof(bytes));
	EXPECT_EQ(MULTIKERNEL_ENTRY_BYTES_MAX, get_bytes(fd, "large", bytes, 7));
	EXPECT_EQ(0, memcmp(large, bytes, 7));
	EXPECT_EQ('x', bytes[7]);
	EXPECT_EQ(MULTIKERNEL_ENTRY_BYTES_MAX, get_bytes(fd, "large", NULL, 0));
	/* The next life of the session's process finds it. */
	close(fd);
	fd = OPEN(self->device, "state");
	self->fd = fd;
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES, &list));
	EXPECT_EQ(2, list.nr);
	EXPECT_STREQ("empty", (char *)listed[0].key);
	EXPECT_EQ(0, listed[0].length);
	EXPECT_STREQ("large", (char *)listed[1].key);
	EXPECT_EQ(MULTIKERNEL_ENTRY_BYTES_MAX, listed[1].length);
	EXPECT_EQ(MULTIKERNEL_ENTRY_BYTES, listed[1].kind);
	EXPECT_EQ(0, listed[2].kind);
	memset(read, 0, MULTIKERNEL_ENTRY_BYTES_MAX);
	EXPECT_EQ(MULTIKERNEL_ENTRY_BYTES_MAX,
		  get_bytes(fd, "large", read, MULTIKERNEL_ENTRY_BYTES_MAX));
	EXPECT_EQ(0, memcmp(large, read, MULTIKERNEL_ENTRY_BYTES_MAX));
	EXPECT_EQ(0, delete_entry(fd, "large"));
	EXPECT_EQ(-ENOENT, delete_entry(fd, "large"));
	EXPECT_EQ(-ENOENT, get_bytes(fd, "large", read, 1));
	free(large);
	free(read);
}

TEST_F_TIMEOUT(session, no_more_entries_than_fit, 120)
{
	char key[16];
	int i;

	for (i = 0; i < MULTIKERNEL_ENTRIES_MAX; i++) {
		snprintf(key, sizeof(key), "key-%d", i);
		ASSERT_EQ(0, put_bytes(self->fd, key, key, sizeof(key)));
	}
	EXPECT_EQ(-ENOSPC, put_bytes(self->fd, "more", key, sizeof(key)));
	EXPECT_EQ(0, put_bytes(self->fd, "key-7", "seven", 6));
	EXPECT_EQ(16, get_bytes(self->fd, "key-510", key, sizeof(key)));
	EXPECT_STREQ("key-510", key);
	EXPECT_EQ(6, get_bytes(self->fd, "key-7", key, sizeof(key)));
	EXPECT_STREQ("seven", key);
}

static int memory_file(size_t length)
{
	int fd = memfd_create("abi_session", MFD_CLOEXEC);
	size_t i;

	if (fd < 0 || ftruncate(fd, length))
		return -1;
	for (i = 0; i < length; i += 8)
		if (pwrite(fd, &i, length - i < 8 ? length - i : 8, i) < 0)
			return -1;
	return fd;
}

static bool same_file(int one, int two, size_t length)
{
	char bytes[2][4096];
	size_t at;

	for (at = 0; at < length; at += 4096) {
		ssize_t part = length - at < 4096 ? length - at : 4096;

		if (pread(one, bytes[0], part, at) != part ||
		    pread(two, bytes[1], part, at) != part)
			return false;
		if (memcmp(bytes[0], bytes[1], part))
			return false;
	}
	return true;
}

TEST_F_TIMEOUT(session, files, 120)
{
	static const size_t lengths[] = { 0, 1, PAGE, PAGE + 1, MIB };
	int fd = self->fd, pipes[2], other, file;
	struct multikernel_ioctl_session_entry base;
	char room[8];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		file = memory_file(lengths[i]);
		other = memory_file(0);
		ASSERT_LE(0, file);
		ASSERT_LE(0, other);
		EXPECT_EQ(lengths[i], put_file(fd, "file", file));
		/* What comes to the file later is not in the session. */
		EXPECT_EQ(3, pwrite(file, "abc", 3, lengths[i]));
		EXPECT_EQ(lengths[i], get_file(fd, "file", other));
		EXPECT_EQ(lengths[i], lseek(other, 0, SEEK_END));
		EXPECT_TRUE(same_file(file, other, lengths[i]));
		close(file);
		close(other);
	}
	file = memory_file(PAGE);
	EXPECT_EQ(-EINVAL, get_bytes(fd, "file", room, 8));
	base = entry("file");
	base.kind = MULTIKERNEL_ENTRY_MEMFD;
	base.fd = file;
	EXPECT_REFUSED(-EINVAL, PUT, length, 1);
	EXPECT_REFUSED(-EINVAL, PUT, address, (uintptr_t)room);
	EXPECT_EQ(-EBADF, put_file(fd, "file", -1));
	EXPECT_EQ(-EBADF, put_file(fd, "file", 1000));
	EXPECT_EQ(-EBADF, get_file(fd, "file", -1));
	EXPECT_EQ(-EBADF, get_file(fd, "file", 1000));
	/* Of no kind that has a length, or not opened for it. */
	ASSERT_EQ(0, pipe(pipes));
	EXPECT_EQ(-EINVAL, put_file(fd, "file", pipes[0]));
	EXPECT_EQ(-EBADF, put_file(fd, "file", pipes[1]));
	EXPECT_EQ(-EINVAL, get_file(fd, "file", pipes[1]));
	EXPECT_EQ(-EBADF, get_file(fd, "file", pipes[0]));
	EXPECT_EQ(-EINVAL, put_file(fd, "file", self->device));
	EXPECT_EQ(-EINVAL, put_file(fd, "file", fd));
	EXPECT_EQ(-EINVAL, get_file(fd, "file", fd));
	other = open("/", O_RDONLY | O_DIRECTORY);
	EXPECT_EQ(-EINVAL, put_file(fd, "file", other));
	EXPECT_EQ(-EBADF, get_file(fd, "file", other));
	close(other);
	other = open("/proc/self/exe", O_PATH);
	EXPECT_EQ(-EBADF, put_file(fd, "file", other));
	close(other);
	other = open("/proc/self/exe", O_RDONLY);
	EXPECT_EQ(-EBADF, get_file(fd, "file", other));
	close(other);
	other = open("/tmp/abi_session", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ASSERT_LE(0, other);
	EXPECT_EQ(-EBADF, put_file(fd, "file", other));
	EXPECT_EQ(MIB, get_file(fd, "file", other));
	close(other);
	unlink("/tmp/abi_session");
	/* Larger than the arena, of which nothing is there. */
	ASSERT_EQ(0, ftruncate(file, 1ULL << 40));
	EXPECT_EQ(-ENOSPC, put_file(fd, "file", file));
	close(file);
	close(pipes[0]);
	close(pipes[1]);
	/* After all that it is as it was. */
	file = memory_file(MIB);
	other = memory_file(0);
	EXPECT_EQ(MIB, get_file(fd, "file", other));
	EXPECT_TRUE(same_file(file, other, MIB));
	close(file);
	close(other);
}

/* A memfd that a session of /dev/liveupdate preserves, with a token of more than 32 bits. */
#define TOKEN	0x123456789abULL

static int liveupdate_session(int memfd)
{
	struct liveupdate_ioctl_create_session create = { .size = sizeof(create) };
	struct liveupdate_session_preserve_fd preserve = {
		.size = sizeof(preserve),
		.fd = memfd,
		.token = TOKEN,
	};
	int device = open("/dev/liveupdate", O_RDWR | O_CLOEXEC), err;

	if (device < 0)
		return -errno;
	strcpy((char *)create.name, "abi_session");
	err = mk_ioctl(device, LIVEUPDATE_IOCTL_CREATE_SESSION, &create);
	close(device);
	if (!err)
		err = mk_ioctl(create.fd, LIVEUPDATE_SESSION_PRESERVE_FD, &preserve);
	return err ? err : create.fd;
}

TEST_F_TIMEOUT(session, preserved_files, 120)
{
	int fd = self->fd, file = memory_file(MIB), other = memory_file(0), luo;
	struct multikernel_ioctl_session_entry base = entry("file");

	ASSERT_LE(0, file);
	luo = liveupdate_session(file);
	if (luo == -ENOENT)
		SKIP(return, "there is no /dev/liveupdate: liveupdate=on kho=on is missing");
	ASSERT_LE(0, luo);
	base.kind = MULTIKERNEL_ENTRY_MEMFD;
	base.flags = MULTIKERNEL_PUT_PRESERVED;
	base.address = TOKEN;
	base.fd = luo;
	EXPECT_REFUSED(-ENOENT, PUT, address, TOKEN + 1);
	EXPECT_REFUSED(-EINVAL, PUT, fd, file);
	EXPECT_REFUSED(-EINVAL, PUT, fd, self->device);
	EXPECT_REFUSED(-EBADF, PUT, fd, -1);
	EXPECT_REFUSED(-EINVAL, PUT, length, 1);
	EXPECT_REFUSED(-EINVAL, PUT, kind, MULTIKERNEL_ENTRY_PAGES);
	EXPECT_EQ(-ENOENT, get_file(fd, "file", other));
	/* Whoever puts it need not have it. */
	close(file);
	EXPECT_EQ(0, mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_PUT, &base));
	EXPECT_EQ(MIB, base.length);
	EXPECT_EQ(MIB, get_file(fd, "file", other));
	file = memory_file(MIB);
	EXPECT_TRUE(same_file(file, other, MIB));
	/* It is preserved still. */
	base.length = 0;
	EXPECT_EQ(0, mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_PUT, &base));
	close(luo);
	close(file);
	close(other);
}

TEST_F(session, pages)
{
	struct multikernel_ioctl_session_entry get = entry("pages");
	int fd = self->fd, pages, start[2], status;
	__u64 ticket;
	char *map;
	pid_t child;
	char byte;
	size_t i;

	pages = put_pages(fd, "pages", 2 * PAGE);
	ASSERT_LE(0, pages);
	EXPECT_EQ(FD_CLOEXEC, fcntl(pages, F_GETFD));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, pages, 0));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, pages, 2 * PAGE));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, pages, 0));
	map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, pages, 0);
	ASSERT_NE(MAP_FAILED, map);
	for (i = 0; i < 2 * PAGE; i++)
		ASSERT_EQ(0, map[i]);
	strcpy(map + PAGE, "of the first");
	/* Nobody takes them away: not while the file is open, nor the mapping is there. */
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(-EBUSY, delete_entry(fd, "pages"));
		EXPECT_EQ(-EBUSY, put_pages(fd, "pages", PAGE));
		EXPECT_EQ(-EBUSY, put_bytes(fd, "pages", "x", 1));
		EXPECT_EQ(-EBUSY, offer(fd, "one", &ticket));
		EXPECT_EQ(0, put_bytes(fd, "other", "x", 1));
		close(pages);
		pages = -1;
	}
	/* Another process has them as well, until it ends. */
	ASSERT_EQ(0, pipe(start));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		close(start[1]);
		/* Until the other end is closed. */
		_exit(read(start[0], &byte, 1) != 0 || strcmp(map + PAGE, "of the second"));
	}
	close(start[0]);
	strcpy(map + PAGE, "of the second");
	munmap(map, 2 * PAGE);
	EXPECT_EQ(-EBUSY, offer(fd, "one", &ticket));
	EXPECT_EQ(-EBUSY, delete_entry(fd, "pages"));
	/* Nor is the session opened again before. */
	close(fd);
	EXPECT_EQ(-EBUSY, OPEN(self->device, "state"));
	close(start[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	fd = OPEN(self->device, "state");
	self->fd = fd;
	ASSERT_LE(0, fd);

	ASSERT_EQ(0, mk_ioctl(fd, MULTIKERNEL_IOCTL_SESSION_GET, &get));
	EXPECT_EQ(MULTIKERNEL_ENTRY_PAGES, get.kind);
	EXPECT_EQ(2 * PAGE, get.length);
	map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, get.fd, PAGE);
	ASSERT_NE(MAP_FAILED, map);
	EXPECT_STREQ("of the second", map);
	munmap(map, PAGE);
	close(get.fd);
	EXPECT_EQ(-EINVAL, get_bytes(fd, "pages", &byte, 1));
	EXPECT_EQ(-EINVAL, get_file(fd, "pages", 1));
	/* As many begin at a large page. */
	pages = put_pages(fd, "large", UNIT);
	EXPECT_LE(0, pages);
	close(pages);
	EXPECT_EQ(-ENOSPC, put_pages(fd, "larger", UNIT));
	EXPECT_EQ(0, delete_entry(fd, "pages"));
	EXPECT_EQ(-ENOENT, delete_entry(fd, "pages"));
}

TEST_F(session, offers)
{
	const unsigned long commit = MULTIKERNEL_IOCTL_SESSION_COMMIT;
	const unsigned long abort = MULTIKERNEL_IOCTL_SESSION_ABORT;
	const unsigned long wait = MULTIKERNEL_IOCTL_SESSION_WAIT;
	int fd = self->fd, device = self->device;
	struct multikernel_session state;
	__u64 ticket, again;
	char byte;

	ASSERT_EQ(0, put_bytes(fd, "key", "a", 1));
	/* Nothing is offered. */
	EXPECT_EQ(-EINVAL, step(fd, wait, 0));
	EXPECT_EQ(-EINVAL, step(fd, commit, 1));
	EXPECT_EQ(-EINVAL, step(fd, abort, 1));
	EXPECT_EQ(MULTIKERNEL_SESSION_COMMITTED, step(fd, commit, 0));
	EXPECT_EQ(MULTIKERNEL_SESSION_ABORTED, step(fd, abort, 0));
	EXPECT_EQ(-ENOENT, offer(fd, "nobody", &ticket));
	EXPECT_EQ(-EINVAL, offer(fd, "no body", &ticket));
	EXPECT_EQ(-EINVAL, offer(fd, "", &ticket));
	state = listed(device);
	EXPECT_STREQ("state", (char *)state.name);
	EXPECT_EQ(ARENA_BYTES, state.bytes);
	EXPECT_EQ(MULTIKERNEL_SESSION_OWNED, state.state);
	EXPECT_EQ(0, state.owner);
	EXPECT_EQ(0, state.ticket);

	ASSERT_EQ(0, offer(fd, "one", &ticket));
	EXPECT_NE(0, ticket);
	EXPECT_EQ(0, offer(fd, "one", &again));
	EXPECT_EQ(ticket, again);
	EXPECT_EQ(-EBUSY, offer(fd, "two", &again));
	state = listed(device);
	EXPECT_EQ(MULTIKERNEL_SESSION_OFFERED, state.state);
	EXPECT_EQ(self->one.id, state.to);
	EXPECT_EQ(ticket, state.ticket);
	EXPECT_EQ(-EBUSY, put_bytes(fd, "key", "b", 1));
	EXPECT_EQ(-EBUSY, delete_entry(fd, "key"));
	EXPECT_EQ(-EBUSY, get_bytes(fd, "key", &byte, 1));
	EXPECT_EQ(-ETIMEDOUT, step(fd, wait, 1));
	EXPECT_EQ(-EACCES, step(fd, commit, 0));
	/* It is open here, and not taken from this. */
	EXPECT_EQ(-EBUSY, SEIZE(device, "state"));
	EXPECT_EQ(MULTIKERNEL_SESSION_OFFERED, listed(device).state);

	/* Who offered it has ended: it is offered still. */
	close(fd);
	EXPECT_EQ(-EBUSY, REMOVE(device, "state"));
	EXPECT_EQ(-EACCES, ACCEPT(device, "state", 0));
	EXPECT_EQ(MULTIKERNEL_SESSION_OFFERED, listed(device).state);
	fd = device_session(device, MULTIKERNEL_IOCTL_SESSION_OPEN, "state", 0, 0, &again);
	self->fd = fd;
	ASSERT_LE(0, fd);
	EXPECT_EQ(ticket, again);
	EXPECT_EQ(-EBUSY, get_bytes(fd, "key", &byte, 1));
	EXPECT_EQ(MULTIKERNEL_SESSION_ABORTED, step(fd, abort, 0));
	EXPECT_EQ(MULTIKERNEL_SESSION_ABORTED, step(fd, abort, 0));
	EXPECT_EQ(MULTIKERNEL_SESSION_OWNED, listed(device).state);
	EXPECT_EQ(1, get_bytes(fd, "key", &byte, 1));
	EXPECT_EQ('a', byte);
	EXPECT_EQ(0, put_bytes(fd, "key", "c", 1));

	/* The one it was offered to is no more. */
	ASSERT_EQ(0, offer(fd, "two", &again));
	EXPECT_NE(ticket, again);
	EXPECT_EQ(0, destroy(&self->two));
	EXPECT_EQ(MULTIKERNEL_SESSION_ABORTED, step(fd, wait, 1));
	EXPECT_EQ(-EINVAL, step(fd, wait, 0));
	EXPECT_EQ(0, put_bytes(fd, "key", "d", 1));

	/* The host takes it back from itself, with what was offered. */
	ASSERT_EQ(0, offer(fd, "one", &again));
	close(fd);
	fd = SEIZE(device, "state");
	self->fd = fd;
	ASSERT_LE(0, fd);
	EXPECT_EQ(MULTIKERNEL_SESSION_OWNED, listed(device).state);
	EXPECT_EQ(1, get_bytes(fd, "key", &byte, 1));
	EXPECT_EQ('d', byte);

	/* For the fixture, which takes two apart. */
	{
		struct multikernel_range range = any_range(UNIT);
		__u32 cpu = spare_cpu(&self->before, 0);

		EXPECT_EQ(0, create(device, "two", &cpu, 1, &range, 1, &self->two));
	}
}

/* Of physical memory. */
static bool memory_at(bool write, __u64 at, void *bytes, size_t length)
{
	int fd = open("/dev/mem", O_RDWR | O_CLOEXEC);
	ssize_t done = write ? pwrite(fd, bytes, length, at) : pread(fd, bytes, length, at);

	close(fd);
	return done == length;
}

TEST_F(session, damaged_arenas)
{
	const __u64 table = TABLES, entry = TABLES + ENTRIES, second = entry + 128;
	const struct {
		const char *what;
		__u64 at;
		__u8 value;
		int err;
	} damage[] = {
		{ "version", 21, '2', -EPROTONOSUPPORT },
		{ "magic", 0, 0, -EPROTONOSUPPORT },
		{ "bytes", HEADER_BYTES + 6, 1, -EUCLEAN },
		{ "reserved", HEADER_RESERVED, 1, -EPROTONOSUPPORT },
		{ "name", HEADER_NAME, 'S', -EUCLEAN },
		{ "generation", table, 2, -EUCLEAN },
		{ "count", table + TABLE_COUNT + 1, 2, -EUCLEAN },
		{ "head reserved", table + TABLE_RESERVED, 1, -EPROTONOSUPPORT },
		{ "key", entry, 0, -EUCLEAN },
		{ "key end", entry + 63, 'x', -EUCLEAN },
		{ "key twice", second, 'a', -EUCLEAN },
		{ "kind", entry + ENTRY_KIND, 9, -EPROTONOSUPPORT },
		{ "entry reserved", entry + ENTRY_RESERVED, 1, -EPROTONOSUPPORT },
		{ "offset", entry + ENTRY_OFFSET, 1, -EUCLEAN },
		{ "offset outside", entry + ENTRY_OFFSET + 3, 1, -EUCLEAN },
		{ "length", entry + ENTRY_LENGTH + 2, 0xff, -EUCLEAN },
		{ "overlap", entry + ENTRY_LENGTH, 65, -EUCLEAN },
	};
	struct multikernel_arena arena[2] = { };
	struct multikernel_ioctl_list list = {
		.size = sizeof(list),
		.nr = 2,
		.items = (uintptr_t)arena,
	};
	__u64 generation;
	char byte;
	size_t i;

	/* The second table is in force after one change, the first after two. */
	ASSERT_EQ(0, put_bytes(self->fd, "a", "1", 1));
	ASSERT_EQ(0, put_bytes(self->fd, "b", "2", 1));
	close(self->fd);
	ASSERT_EQ(0, mk_ioctl(self->device, MULTIKERNEL_IOCTL_LIST_ARENAS, &list));
	ASSERT_EQ(1, list.nr);
	ASSERT_TRUE(memory_at(false, arena[0].base + table, &generation, 8));
	ASSERT_EQ(3, generation);
	for (i = 0; i < ARRAY_SIZE(damage); i++) {
		__u64 at = arena[0].base + damage[i].at;
		__u8 before, bad = damage[i].value;

		ASSERT_TRUE(memory_at(false, at, &before, 1));
		ASSERT_NE(bad, before);
		ASSERT_TRUE(memory_at(true, at, &bad, 1));
		EXPECT_EQ(damage[i].err, OPEN(self->device, "state"))
			TH_LOG("%s", damage[i].what);
		ASSERT_TRUE(memory_at(true, at, &before, 1));
		self->fd = OPEN(self->device, "state");
		ASSERT_LE(0, self->fd);
		EXPECT_EQ(1, get_bytes(self->fd, "b", &byte, 1));
		EXPECT_EQ('2', byte);
		close(self->fd);
	}
	/* What nobody can open can be removed. */
	byte = 0;
	ASSERT_TRUE(memory_at(true, arena[0].base, &byte, 1));
	EXPECT_EQ(-1, REMOVE(self->device, "state"));
	self->fd = CREATE(self->device, "state");
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(-ENOENT, get_bytes(self->fd, "b", &byte, 1));
}

TEST_HARNESS_MAIN
