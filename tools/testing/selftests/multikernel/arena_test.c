// SPDX-License-Identifier: GPL-2.0
/*
 * arena_test: programs that use an arena by plain loads and stores, for arena.sh,
 * on the host and in spawns alike.
 *
 * arena_test fill NAME SEED	writes every word of it
 * arena_test verify NAME SEED	sees whether every word is as fill wrote it
 * arena_test open NAME ACCESS ERRNO
 *				opens it "rw" or "ro", which is to end so
 * arena_test refused NAME [ro]	what cannot be done with an open arena
 * arena_test large NAME	large pages are used
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <linux/multikernel.h>

#include "../kselftest.h"

#define PAGE	4096UL
#define LARGE	(2UL << 20)

static int fail(const char *format, ...)
{
	int error = errno;
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(" (errno %d, %s)\n", error, strerror(error));
	exit(1);
}

/* One access each, as what is there may change at any time. */
static __u64 load(const __u64 *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static void store(__u64 *at, __u64 value)
{
	__atomic_store_n(at, value, __ATOMIC_RELAXED);
}

static int open_arena(const char *name, __u32 flags, __u64 *bytes)
{
	struct multikernel_ioctl_arena_open request = {
		.size = sizeof(request),
		.flags = flags,
	};
	int device = open("/dev/multikernel", O_RDWR | O_CLOEXEC);

	if (device < 0)
		fail("/dev/multikernel");
	snprintf((char *)request.name, sizeof(request.name), "%s", name);
	if (ioctl(device, MULTIKERNEL_IOCTL_ARENA_OPEN, &request)) {
		close(device);
		return -1;
	}
	close(device);
	*bytes = request.bytes;
	return request.fd;
}

static __u64 *map_arena(const char *name, int protection, __u64 *words)
{
	__u32 flags = protection & PROT_WRITE ? 0 : MULTIKERNEL_ARENA_READ_ONLY;
	__u64 bytes;
	int fd = open_arena(name, flags, &bytes);
	void *address;

	if (fd < 0)
		fail("open %s", name);
	address = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
	if (address == MAP_FAILED)
		fail("mmap of %s", name);
	close(fd);
	*words = bytes / sizeof(__u64);
	return address;
}

/* No word is as another, nor as that of another seed. */
static __u64 word(__u64 seed, __u64 index)
{
	return (seed << 40) + index * 0x9e3779b97f4a7c15;
}

static void fill(const char *name, __u64 seed)
{
	__u64 words, i;
	__u64 *arena = map_arena(name, PROT_READ | PROT_WRITE, &words);

	for (i = 0; i < words; i++)
		store(&arena[i], word(seed, i));
	printf("%llu words written\n", words);
}

static int verify(const char *name, __u64 seed)
{
	__u64 words, wrong = 0, i;
	__u64 *arena = map_arena(name, PROT_READ, &words);

	for (i = 0; i < words; i++) {
		__u64 expected = seed ? word(seed, i) : 0;

		if (load(&arena[i]) != expected && !wrong++)
			printf("word %llu is %#llx, and not %#llx\n", i, load(&arena[i]),
			       expected);
	}
	printf("%llu words, %llu wrong\n", words, wrong);
	return wrong != 0;
}

static int expect_open(const char *name, const char *access, int expected)
{
	__u64 bytes;
	__u32 flags = strcmp(access, "ro") ? 0 : MULTIKERNEL_ARENA_READ_ONLY;
	int fd = open_arena(name, flags, &bytes);
	int got = fd < 0 ? errno : 0;

	printf("open %s %s: %d (%s)\n", name, access, got, strerror(got));
	return got != expected;
}

static int wrong;

static void expect_map(int fd, size_t bytes, int protection, int flags, off_t offset,
		       int expected, const char *what)
{
	void *address = mmap(NULL, bytes, protection, flags, fd, offset);
	int got = address == MAP_FAILED ? errno : 0;

	if (!got)
		munmap(address, bytes);
	if (got != expected) {
		printf("%s: %d, and not %d\n", what, got, expected);
		wrong++;
	}
}

static void expect(int condition, const char *what)
{
	if (!condition) {
		printf("%s\n", what);
		wrong++;
	}
}

/* A store that the mapping does not allow ends the process. */
static int killed_by(__u64 *at)
{
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		store(at, 1);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		fail("fork");
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static int refused(const char *name, int read_only)
{
	int both = PROT_READ | PROT_WRITE, usual = read_only ? PROT_READ : both;
	__u64 bytes;
	int fd = open_arena(name, read_only ? MULTIKERNEL_ARENA_READ_ONLY : 0, &bytes);
	__u64 *whole, *part;
	__u64 before;
	char byte = 0;

	if (fd < 0)
		fail("open %s", name);
	expect_map(fd, bytes + PAGE, usual, MAP_SHARED, 0, EINVAL, "more than there is");
	expect_map(fd, PAGE, usual, MAP_SHARED, bytes, EINVAL, "behind its end");
	expect_map(fd, 2 * PAGE, usual, MAP_SHARED, bytes - PAGE, EINVAL, "over its end");
	expect_map(fd, PAGE, usual, MAP_SHARED, 1L << 40, EINVAL,
		   "far behind its end");
	expect_map(fd, PAGE, usual, MAP_PRIVATE, 0, EINVAL, "private");
	expect_map(fd, PAGE, both, MAP_SHARED, 0, read_only ? EACCES : 0, "to be written to");
	expect(read(fd, &byte, 1) == -1, "read(2)");
	expect(write(fd, &byte, 1) == -1, "write(2)");
	expect(ftruncate(fd, 0) == -1, "ftruncate(2)");

	/* At an offset that is no large page's beginning. */
	whole = mmap(NULL, bytes, usual, MAP_SHARED, fd, 0);
	part = mmap(NULL, bytes - PAGE, usual, MAP_SHARED, fd, PAGE);
	if (whole == MAP_FAILED || part == MAP_FAILED)
		fail("mmap of %s", name);
	before = load(&whole[PAGE / 8]);
	expect(load(&part[0]) == before, "another offset is another place");
	expect(load(&part[(bytes - PAGE) / 8 - 1]) == load(&whole[bytes / 8 - 1]),
	       "the last word");
	if (read_only) {
		expect(mprotect(whole, PAGE, both) == -1 && errno == EACCES, "mprotect(2)");
		expect(killed_by(whole) == SIGSEGV, "a store");
	} else {
		store(&part[0], ~before);
		expect(load(&whole[PAGE / 8]) == ~before, "two mappings differ");
		store(&part[0], before);
		/* A child stores into the same memory. */
		before = load(&whole[0]);
		store(&whole[0], 0);
		expect(killed_by(whole) == 0 && load(&whole[0]) == 1, "a store by a child");
		store(&whole[0], before);
	}
	expect(mremap(whole, bytes, bytes + PAGE, MREMAP_MAYMOVE) == MAP_FAILED,
	       "mremap(2) to more than there is");
	printf("%d wrong\n", wrong);
	return wrong != 0;
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static int large(const char *name)
{
	__u64 words, bytes, i;
	__u64 *arena = map_arena(name, PROT_READ | PROT_WRITE, &words);
	long before = faults(), took;

	bytes = words * sizeof(*arena);
	for (i = 0; i < bytes; i += PAGE)
		store(&arena[i / 8], load(&arena[i / 8]));
	took = faults() - before;
	printf("%llu bytes at %p: %ld faults\n", bytes, arena, took);
	/* Some are of the C library's. */
	return took > (long)(bytes / LARGE) + 16;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "", *name = argc > 2 ? argv[2] : "";
	int result = 0;

	if (!strcmp(what, "fill") && argc == 4)
		fill(name, strtoull(argv[3], NULL, 0));
	else if (!strcmp(what, "verify") && argc == 4)
		result = verify(name, strtoull(argv[3], NULL, 0));
	else if (!strcmp(what, "open") && argc == 5)
		result = expect_open(name, argv[3], atoi(argv[4]));
	else if (!strcmp(what, "refused"))
		result = refused(name, argc > 3);
	else if (!strcmp(what, "large"))
		result = large(name);
	else
		fail("arena_test: no such case");
	return result;
}
