// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>

#include "../kselftest.h"
#include "host.h"

int device_open(void)
{
	int fd = open("/dev/multikernel", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int mk_ioctl(int fd, unsigned long command, void *argument)
{
	return ioctl(fd, command, argument) ? -errno : 0;
}

static int list(int device, unsigned long command, void *items, __u32 room, __u32 *nr)
{
	struct multikernel_ioctl_list list = {
		.size = sizeof(list),
		.nr = room,
		.items = (uintptr_t)items,
	};
	int err = mk_ioctl(device, command, &list);

	if (!err && list.nr > room)
		err = -E2BIG;
	*nr = list.nr;
	return err;
}

int ledger_read(int device, struct ledger *ledger)
{
	int err;

	memset(ledger, 0, sizeof(*ledger));
	err = list(device, MULTIKERNEL_IOCTL_LIST_MEMORY, ledger->ranges, LEDGER_RANGES,
		   &ledger->nr_ranges);
	if (!err)
		err = list(device, MULTIKERNEL_IOCTL_LIST_CPUS, ledger->cpus, LEDGER_CPUS,
			   &ledger->nr_cpus);
	if (!err)
		err = list(device, MULTIKERNEL_IOCTL_LIST_INSTANCES, ledger->ids, LEDGER_IDS,
			   &ledger->nr_ids);
	return err;
}

bool ledger_same(const struct ledger *before, const struct ledger *after)
{
	__u32 i;

	if (!memcmp(before, after, sizeof(*before)))
		return true;
	printf("# ledger: %u ranges, %u CPUs, %u instances became %u, %u, %u\n",
	       before->nr_ranges, before->nr_cpus, before->nr_ids,
	       after->nr_ranges, after->nr_cpus, after->nr_ids);
	for (i = 0; i < LEDGER_RANGES; i++) {
		const struct multikernel_range *was = &before->ranges[i], *is = &after->ranges[i];

		if (!memcmp(was, is, sizeof(*was)))
			continue;
		printf("# range %u: %#llx+%#llx owner %u id %u became %#llx+%#llx owner %u id %u\n",
		       i, was->base, was->size, was->owner, was->id,
		       is->base, is->size, is->owner, is->id);
	}
	for (i = 0; i < LEDGER_CPUS; i++) {
		const struct multikernel_cpu *was = &before->cpus[i], *is = &after->cpus[i];

		if (!memcmp(was, is, sizeof(*was)))
			continue;
		printf("# CPU %u: owner %u id %u online %u became owner %u id %u online %u\n",
		       was->cpu, was->owner, was->id, was->online,
		       is->owner, is->id, is->online);
	}
	return false;
}

__u32 spare_cpu(const struct ledger *ledger, unsigned int nth)
{
	__u32 i = ledger->nr_cpus;

	while (i--)
		if (ledger->cpus[i].online && ledger->cpus[i].cpu && !nth--)
			return ledger->cpus[i].cpu;
	return 0;
}

int pool_grow(int device, __u64 bytes, __u64 *base)
{
	struct multikernel_ioctl_pool pool = {
		.size = sizeof(pool),
		.flags = MULTIKERNEL_RANGE_BELOW_4G,
		.bytes = bytes,
		.nid = -1,
	};
	int err = mk_ioctl(device, MULTIKERNEL_IOCTL_POOL_GROW, &pool);

	*base = pool.base;
	return err;
}

int pool_shrink(int device, __u64 base, __u64 bytes)
{
	struct multikernel_ioctl_pool pool = {
		.size = sizeof(pool),
		.flags = MULTIKERNEL_RANGE_FIXED,
		.base = base,
		.bytes = bytes,
		.nid = -1,
	};

	return mk_ioctl(device, MULTIKERNEL_IOCTL_POOL_SHRINK, &pool);
}

struct multikernel_range any_range(__u64 size)
{
	return (struct multikernel_range) { .size = size, .nid = -1 };
}

struct multikernel_range fixed_range(__u64 base, __u64 size)
{
	return (struct multikernel_range) {
		.base = base,
		.size = size,
		.nid = -1,
		.flags = MULTIKERNEL_RANGE_FIXED,
	};
}

int get_info(int fd, struct info *info)
{
	int err;

	memset(info, 0, sizeof(*info));
	info->get.size = sizeof(info->get);
	info->get.cpus = (uintptr_t)info->cpus;
	info->get.nr_cpus = ARRAY_SIZE(info->cpus);
	info->get.ranges = (uintptr_t)info->ranges;
	info->get.nr_ranges = ARRAY_SIZE(info->ranges);
	err = mk_ioctl(fd, MULTIKERNEL_IOCTL_GET_INFO, &info->get);
	return err;
}

int create(int device, const char *name, const __u32 *cpus, __u32 nr_cpus,
	   const struct multikernel_range *ranges, __u32 nr_ranges,
	   struct instance *instance)
{
	struct multikernel_ioctl_create create = {
		.size = sizeof(create),
		.nr_cpus = nr_cpus,
		.nr_ranges = nr_ranges,
		.cpus = (uintptr_t)cpus,
		.ranges = (uintptr_t)ranges,
	};
	struct info info;
	__u32 i;
	int err;

	/* Not strncpy(): a name without a terminating zero is one of the tests. */
	memcpy(create.name, name, strnlen(name, sizeof(create.name)));
	err = mk_ioctl(device, MULTIKERNEL_IOCTL_CREATE, &create);
	if (err || !instance)
		return err;
	memset(instance, 0, sizeof(*instance));
	instance->fd = create.fd;
	instance->id = create.id;
	err = get_info(instance->fd, &info);
	if (err)
		return err;
	instance->base = info.ranges[0].base;
	instance->size = info.ranges[0].size;
	for (i = 0; i < info.get.nr_ranges; i++)
		if (info.ranges[i].flags & MULTIKERNEL_RANGE_LOW)
			instance->low = info.ranges[i].base;
	instance->shared_base = info.get.shared_base;
	instance->shared_size = info.get.shared_size;
	return 0;
}

int open_by_id(int device, __u32 id, int *fd)
{
	struct multikernel_ioctl_open open = { .size = sizeof(open), .id = id };
	int err = mk_ioctl(device, MULTIKERNEL_IOCTL_OPEN, &open);

	*fd = err ? -1 : open.fd;
	return err;
}

int add_cpus(int fd, __u32 from, const __u32 *cpus, __u32 nr_cpus)
{
	struct multikernel_ioctl_add_cpus request = {
		.size = sizeof(request),
		.nr_cpus = nr_cpus,
		.from = from,
		.cpus = (uintptr_t)cpus,
	};

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_ADD_CPUS, &request);
}

int start(int fd, __u64 argument)
{
	struct multikernel_ioctl_start start = { .size = sizeof(start), .argument = argument };

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_START, &start);
}

int stop_force(int fd)
{
	struct multikernel_ioctl_stop stop = {
		.size = sizeof(stop),
		.flags = MULTIKERNEL_STOP_FORCE,
	};

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_STOP, &stop);
}

int stop_in_order(int fd, __u32 milliseconds)
{
	struct multikernel_ioctl_stop stop = {
		.size = sizeof(stop),
		.timeout_ms = milliseconds,
	};

	return mk_ioctl(fd, MULTIKERNEL_IOCTL_STOP, &stop);
}

int destroy(struct instance *instance)
{
	struct multikernel_ioctl_simple simple = { .size = sizeof(simple) };
	int err = mk_ioctl(instance->fd, MULTIKERNEL_IOCTL_DESTROY, &simple);

	if (!err)
		close(instance->fd);
	return err;
}

int destroy_all(int device)
{
	struct ledger ledger;
	__u32 i;

	if (ledger_read(device, &ledger))
		return -1;
	for (i = 0; i < ledger.nr_ids; i++) {
		struct instance instance = { .id = ledger.ids[i] };

		if (open_by_id(device, instance.id, &instance.fd))
			continue;
		stop_force(instance.fd);
		if (destroy(&instance))
			close(instance.fd);
	}
	return ledger.nr_ids;
}

int load_flags(unsigned long flags, __u64 entry, const struct kexec_segment *segments,
	       unsigned long nr)
{
	return syscall(SYS_kexec_load, entry, nr, segments, flags) ? -errno : 0;
}

int load(__u32 id, __u64 entry, const struct kexec_segment *segments, unsigned long nr)
{
	return load_flags(KEXEC_ARCH_DEFAULT | KEXEC_MULTIKERNEL |
			  (unsigned long)id << KEXEC_MULTIKERNEL_ID_SHIFT,
			  entry, segments, nr);
}

struct kexec_segment segment(const void *buf, size_t bufsz, __u64 mem, size_t memsz)
{
	return (struct kexec_segment) {
		.buf = buf,
		.bufsz = bufsz,
		.mem = (void *)mem,
		.memsz = memsz,
	};
}

int arena_create(int device, const char *name, __u64 bytes)
{
	struct multikernel_ioctl_arena_create request = {
		.size = sizeof(request),
		.bytes = bytes,
		.nid = -1,
	};
	int err;

	strcpy((char *)request.name, name);
	err = mk_ioctl(device, MULTIKERNEL_IOCTL_ARENA_CREATE, &request);
	return err ? err : request.fd;
}

int arena_remove(int device, const char *name)
{
	struct multikernel_ioctl_arena_remove request = { .size = sizeof(request) };

	strcpy((char *)request.name, name);
	return mk_ioctl(device, MULTIKERNEL_IOCTL_ARENA_REMOVE, &request);
}

int arena_grant(int device, unsigned long command, const char *name, __u32 id,
		__u32 flags)
{
	struct multikernel_ioctl_arena_grant request = {
		.size = sizeof(request),
		.flags = flags,
		.id = id,
	};

	strcpy((char *)request.name, name);
	return mk_ioctl(device, command, &request);
}

int arena_resize(int device, const char *name, __u64 bytes)
{
	struct multikernel_ioctl_arena_resize request = { .size = sizeof(request), .bytes = bytes };

	strcpy((char *)request.name, name);
	return mk_ioctl(device, MULTIKERNEL_IOCTL_ARENA_RESIZE, &request);
}

int arena_open(int device, const char *name, __u32 flags)
{
	struct multikernel_ioctl_arena_open request = { .size = sizeof(request), .flags = flags };
	int err;

	strcpy((char *)request.name, name);
	err = mk_ioctl(device, MULTIKERNEL_IOCTL_ARENA_OPEN, &request);
	return err ? err : request.fd;
}

int drop_cap_sys_boot(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	int i;

	if (syscall(SYS_capget, &header, data))
		return -errno;
	for (i = 0; i < 2; i++)
		if (CAP_TO_INDEX(CAP_SYS_BOOT) == i) {
			data[i].effective &= ~CAP_TO_MASK(CAP_SYS_BOOT);
			data[i].permitted &= ~CAP_TO_MASK(CAP_SYS_BOOT);
			data[i].inheritable &= ~CAP_TO_MASK(CAP_SYS_BOOT);
		}
	return syscall(SYS_capset, &header, data) ? -errno : 0;
}

int cpu_set_online(__u32 cpu, bool online)
{
	char path[64];
	int fd, err = 0;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -errno;
	if (write(fd, online ? "1" : "0", 1) != 1)
		err = -errno;
	close(fd);
	return err;
}
