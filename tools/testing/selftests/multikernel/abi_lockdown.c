// SPDX-License-Identifier: GPL-2.0
/*
 * A host that is locked down refuses images: a kernel on a lent CPU could
 * reach all of the machine. There is no way back from it, hence a test of its
 * own on a machine of its own.
 *
 * vm: CPUS=2 MEM=1G APPEND="multikernel_selftest=lockdown"
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "host.h"

static int lock_down(void)
{
	static const char level[] = "integrity";
	int fd = open("/sys/kernel/security/lockdown", O_WRONLY);
	int err;

	if (fd < 0)
		return -errno;
	err = write(fd, level, strlen(level)) < 0 ? -errno : 0;
	close(fd);
	return err;
}

TEST(images_are_refused)
{
	struct multikernel_range range = any_range(UNIT);
	static const char bytes[PAGE] = { 0xf4 };
	struct ledger before, after;
	struct kexec_segment one;
	struct instance instance;
	struct info info;
	__u64 base;
	__u32 cpu;
	int device;

	device = device_open();
	ASSERT_LE(0, device);
	ASSERT_EQ(0, pool_grow(device, POOL, &base));
	ASSERT_EQ(0, ledger_read(device, &before));
	cpu = spare_cpu(&before, 0);
	ASSERT_NE(0, cpu);
	ASSERT_EQ(0, create(device, "locked", &cpu, 1, &range, 1, &instance));
	one = segment(bytes, sizeof(bytes), instance.base, PAGE);
	ASSERT_EQ(0, load(instance.id, instance.base, &one, 1));

	ASSERT_EQ(0, lock_down());

	EXPECT_EQ(-EPERM, load(instance.id, instance.base, &one, 1));
	EXPECT_EQ(0, get_info(instance.fd, &info));
	EXPECT_EQ(instance.base, info.get.entry);
	/* What it has can be given back. */
	EXPECT_EQ(0, destroy(&instance));
	EXPECT_EQ(0, ledger_read(device, &after));
	EXPECT_TRUE(ledger_same(&before, &after));
	EXPECT_EQ(0, pool_shrink(device, base, POOL));
	close(device);
}

TEST_HARNESS_MAIN
