// SPDX-License-Identifier: GPL-2.0
/*
 * kexec_load(2) with KEXEC_MULTIKERNEL: which segments are refused, with which
 * errno, and that what was loaded before stays loaded. And that a kexec_load
 * without the flag is what it was.
 *
 * vm: CPUS=4 MEM=2G
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "host.h"

/* The instance has two ranges, one right behind the other. */
#define SIZE	(2 * UNIT)

FIXTURE(image)
{
	int device;
	__u64 pool, base, end, low;
	struct instance instance;
	struct ledger before, after;
	/* Of an image that is loaded before each test. */
	__u64 entry;
	char *bytes;
	struct info info;
};

FIXTURE_SETUP(image)
{
	struct multikernel_range ranges[2];
	struct kexec_segment one;
	__u32 cpu;

	self->device = device_open();
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, pool_grow(self->device, POOL, &self->pool));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	cpu = spare_cpu(&self->before, 0);
	/* The memory around it is the pool's, the next range its own. */
	ranges[0] = fixed_range(self->pool + UNIT, SIZE);
	ranges[1] = fixed_range(self->pool + UNIT + SIZE, UNIT);
	ASSERT_EQ(0, create(self->device, "image", &cpu, 1, ranges, 2, &self->instance));
	ASSERT_EQ(0, ledger_read(self->device, &self->before));
	self->base = self->instance.base;
	self->end = self->base + SIZE;
	self->low = self->instance.low;

	self->bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->bytes);
	memset(self->bytes, 0x90, SIZE);
	one = segment(self->bytes, 100, self->base, 2 * PAGE);
	self->entry = self->base + 16;
	ASSERT_EQ(0, load(self->instance.id, self->entry, &one, 1));
}

FIXTURE_TEARDOWN(image)
{
	EXPECT_EQ(0, get_info(self->instance.fd, &self->info));
	EXPECT_EQ(self->entry ? MULTIKERNEL_STATE_LOADED : MULTIKERNEL_STATE_READY,
		  self->info.get.state);
	EXPECT_EQ(self->entry, self->info.get.entry);
	EXPECT_EQ(self->entry ? 2 * PAGE : 0, self->info.get.image_bytes);
	EXPECT_EQ(0, ledger_read(self->device, &self->after));
	EXPECT_TRUE(ledger_same(&self->before, &self->after));
	EXPECT_EQ(1, destroy_all(self->device));
	EXPECT_EQ(0, pool_shrink(self->device, self->pool, POOL));
	close(self->device);
}

/* Loads one segment of @memsz zero bytes, entered at its first. */
static int try(const FIXTURE_DATA(image) *self, __u64 mem, size_t memsz)
{
	struct kexec_segment one = segment(NULL, 0, mem, memsz);

	return load(self->instance.id, mem, &one, 1);
}

static int try_entry(const FIXTURE_DATA(image) *self, __u64 entry)
{
	struct kexec_segment one = segment(self->bytes, 1, self->base, PAGE);

	return load(self->instance.id, entry, &one, 1);
}

static int try_two(const FIXTURE_DATA(image) *self, __u64 a, size_t a_size, __u64 b, size_t b_size)
{
	struct kexec_segment two[] = {
		segment(self->bytes, 1, a, a_size), segment(self->bytes, 1, b, b_size),
	};

	return load(self->instance.id, a, two, 2);
}

TEST_F(image, good_ones)
{
	struct kexec_segment list[KEXEC_SEGMENT_MAX];
	struct info info;
	size_t i;

	/* All there is, low pages too. */
	EXPECT_EQ(0, try(self, self->base, SIZE));
	EXPECT_EQ(0, try(self, self->end, UNIT));
	EXPECT_EQ(0, try(self, self->low, 65536));
	EXPECT_EQ(0, try(self, self->end - PAGE, PAGE));
	/* As many segments as there may be, backwards, side by side. */
	for (i = 0; i < ARRAY_SIZE(list); i++)
		list[i] = segment(self->bytes, i, self->base + (20 - i) * PAGE, PAGE);
	EXPECT_EQ(0, load(self->instance.id, self->base + 21 * PAGE - 1, list, ARRAY_SIZE(list)));
	EXPECT_EQ(0, get_info(self->instance.fd, &info));
	EXPECT_EQ(MULTIKERNEL_STATE_LOADED, info.get.state);
	EXPECT_EQ(ARRAY_SIZE(list) * PAGE, info.get.image_bytes);
	/* Unloaded, and unloaded once more. */
	EXPECT_EQ(0, load(self->instance.id, 0, NULL, 0));
	EXPECT_EQ(0, load(self->instance.id, 0, NULL, 0));
	self->entry = 0;
}

TEST_F(image, no_such_instance)
{
	struct kexec_segment one = segment(self->bytes, 1, self->base, PAGE);

	EXPECT_EQ(-EINVAL, load(0, self->base, &one, 1));
	EXPECT_EQ(-EINVAL, load(0, 0, NULL, 0));
	EXPECT_EQ(-ENOENT, load(self->instance.id + 1, self->base, &one, 1));
	EXPECT_EQ(-ENOENT, load(MULTIKERNEL_ID_MAX, self->base, &one, 1));
	EXPECT_EQ(-ENOENT, load(self->instance.id + 1, 0, NULL, 0));
}

TEST_F(image, too_big)
{
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->base, SIZE + PAGE));
	/* The ranges touch, and still a segment is in one of them. */
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->base, SIZE + UNIT));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->base, 1UL << 46));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->low, 65536 + PAGE));
}

TEST_F(image, outside)
{
	/* In the pool, in the host, in the host's shared pages, nowhere. */
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->base - PAGE, PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->base - PAGE, 2 * PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->end + UNIT, PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->end + UNIT - PAGE, 2 * PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, 0, PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->low - PAGE, PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, self->instance.shared_base, PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try(self, 1UL << 51, PAGE));
	/* The second of two. */
	EXPECT_EQ(-EADDRNOTAVAIL,
		  try_two(self, self->base, PAGE, self->end + UNIT, PAGE));
	/* Entries. */
	EXPECT_EQ(-EADDRNOTAVAIL, try_entry(self, self->base - 1));
	EXPECT_EQ(-EADDRNOTAVAIL, try_entry(self, self->base + PAGE));
	EXPECT_EQ(-EADDRNOTAVAIL, try_entry(self, 0));
	EXPECT_EQ(-EADDRNOTAVAIL, try_entry(self, ~0ULL));
}

TEST_F(image, overlapping)
{
	EXPECT_EQ(-EINVAL, try_two(self, self->base, PAGE, self->base, PAGE));
	EXPECT_EQ(-EINVAL, try_two(self, self->base, 2 * PAGE, self->base + PAGE, PAGE));
	EXPECT_EQ(-EINVAL, try_two(self, self->base + PAGE, PAGE, self->base, 4 * PAGE));
	EXPECT_EQ(-EINVAL, try_two(self, self->base + PAGE, 2 * PAGE, self->base, 2 * PAGE));
}

TEST_F(image, unaligned_or_empty)
{
	EXPECT_EQ(-EINVAL, try(self, self->base + 1, PAGE));
	EXPECT_EQ(-EINVAL, try(self, self->base + 2048, PAGE));
	EXPECT_EQ(-EINVAL, try(self, self->base, PAGE + 1));
	EXPECT_EQ(-EINVAL, try(self, self->base, PAGE - 1));
	EXPECT_EQ(-EINVAL, try(self, self->base, 0));
}

TEST_F(image, wrapping)
{
	struct kexec_segment one;

	EXPECT_EQ(-EINVAL, try(self, -PAGE, 2 * PAGE));
	EXPECT_EQ(-EINVAL, try(self, -PAGE, PAGE));
	EXPECT_EQ(-EINVAL, try(self, self->base, -PAGE));
	EXPECT_EQ(-EINVAL, try_two(self, self->base, PAGE, self->base + PAGE, -PAGE));
	one = segment((void *)-PAGE, 2 * PAGE, self->base, 2 * PAGE);
	EXPECT_EQ(-EINVAL, load(self->instance.id, self->base, &one, 1));
	one = segment(self->bytes, 2 * PAGE, self->base, PAGE);
	EXPECT_EQ(-EINVAL, load(self->instance.id, self->base, &one, 1));
	one = segment(self->bytes, SIZE_MAX, self->base, PAGE);
	EXPECT_EQ(-EINVAL, load(self->instance.id, self->base, &one, 1));
}

TEST_F(image, too_many)
{
	struct kexec_segment list[KEXEC_SEGMENT_MAX + 1];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(list); i++)
		list[i] = segment(self->bytes, 1, self->base + i * PAGE, PAGE);
	EXPECT_EQ(-EINVAL, load(self->instance.id, self->base, list, ARRAY_SIZE(list)));
	EXPECT_EQ(-EINVAL, load(self->instance.id, self->base, list, 1UL << 32 | 1));
	EXPECT_EQ(-EINVAL, load(self->instance.id, self->base, list, ~0UL));
}

TEST_F(image, not_readable)
{
	struct kexec_segment list[2], *at_end;
	char *pages;

	EXPECT_EQ(-EFAULT, load(self->instance.id, self->base, NULL, 1));
	EXPECT_EQ(-EFAULT, load(self->instance.id, self->base, (void *)~0xfffUL, 1));
	pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	ASSERT_EQ(0, munmap(pages + 3 * PAGE, PAGE));
	/* A list that goes on where nothing is. */
	at_end = (struct kexec_segment *)(pages + 3 * PAGE) - 1;
	*at_end = segment(self->bytes, 1, self->base, PAGE);
	EXPECT_EQ(-EFAULT, load(self->instance.id, self->base, at_end, 2));
	/* Bytes: nowhere; the last page of three; in the second segment. */
	list[0] = segment(NULL, 1, self->base, PAGE);
	EXPECT_EQ(-EFAULT, load(self->instance.id, self->base, list, 1));
	list[0] = segment(pages + PAGE, 2 * PAGE + 1, self->base, 4 * PAGE);
	EXPECT_EQ(-EFAULT, load(self->instance.id, self->base, list, 1));
	list[0] = segment(self->bytes, PAGE, self->base, PAGE);
	list[1] = segment(pages + 3 * PAGE, 1, self->base + PAGE, PAGE);
	EXPECT_EQ(-EFAULT, load(self->instance.id, self->base, list, 2));
	munmap(pages, 3 * PAGE);
}

TEST_F(image, flags)
{
	const unsigned long id = self->instance.id << KEXEC_MULTIKERNEL_ID_SHIFT;
	struct kexec_segment one = segment(self->bytes, 1, self->base, PAGE);
	unsigned long bit;

	/* Not together with what a plain kexec does. */
	for (bit = 1; bit < KEXEC_MULTIKERNEL; bit <<= 1)
		EXPECT_EQ(-EINVAL, load_flags(KEXEC_MULTIKERNEL | id | bit, self->base, &one, 1))
			TH_LOG("flag %#lx", bit);
	EXPECT_EQ(-EINVAL, load_flags(KEXEC_ARCH_ARM << 0 | KEXEC_MULTIKERNEL | id,
				      self->base, &one, 1));
	/* The id means something only with the flag. */
	EXPECT_EQ(-EINVAL, load_flags(id, self->base, &one, 1));
	EXPECT_EQ(-EINVAL, load_flags(id, 0, NULL, 0));
	for (bit = KEXEC_MULTIKERNEL << 1; bit <= KEXEC_MULTIKERNEL_ID_MASK; bit <<= 1)
		EXPECT_EQ(-EINVAL, load_flags(bit, 0, NULL, 0))
			TH_LOG("flag %#lx", bit);
	/* Without either: nothing is loaded for a reboot, and unloading that is fine. */
	EXPECT_EQ(0, load_flags(KEXEC_ARCH_DEFAULT, 0, NULL, 0));
	EXPECT_EQ(0, load_flags(KEXEC_ARCH_X86_64, 0, NULL, 0));
}

TEST_HARNESS_MAIN
