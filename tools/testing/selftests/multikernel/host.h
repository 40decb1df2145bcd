/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The user ABI as C functions, for the tests. All return 0 or a negative
 * errno, so that a test compares with one value.
 */
#ifndef SELFTEST_MULTIKERNEL_HOST_H
#define SELFTEST_MULTIKERNEL_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <linux/kexec.h>
#include <linux/multikernel.h>

#define PAGE		4096UL
#define MIB		(1024 * 1024UL)
/* The unit in which memory is lent. */
#define UNIT		((__u64)MULTIKERNEL_MEMORY_ALIGN)
/* How much the fixtures put into the pool, in one piece. */
#define POOL		(8 * UNIT)

#define LEDGER_RANGES	128
#define LEDGER_CPUS	512
#define LEDGER_IDS	64

/* Everything that the host says about who owns what. */
struct ledger {
	__u32 nr_ranges, nr_cpus, nr_ids;
	struct multikernel_range ranges[LEDGER_RANGES];
	struct multikernel_cpu cpus[LEDGER_CPUS];
	__u32 ids[LEDGER_IDS];
};

/* An instance that a test created. */
struct instance {
	int fd;
	__u32 id;
	/* Memory and pages below 1 MiB that it got. */
	__u64 base, size, low;
	__u64 shared_base, shared_size;
};

struct info {
	struct multikernel_ioctl_get_info get;
	struct multikernel_cpu cpus[8];
	struct multikernel_range ranges[MULTIKERNEL_RANGES_MAX + 1];
};

int device_open(void);
int mk_ioctl(int fd, unsigned long command, void *argument);

int ledger_read(int device, struct ledger *ledger);
/* Says on standard output what differs. */
bool ledger_same(const struct ledger *before, const struct ledger *after);
/* The @nth CPU, from the last, that the host runs on; 0 if there are too few. */
__u32 spare_cpu(const struct ledger *ledger, unsigned int nth);

int pool_grow(int device, __u64 bytes, __u64 *base);
int pool_shrink(int device, __u64 base, __u64 bytes);

struct multikernel_range any_range(__u64 size);
struct multikernel_range fixed_range(__u64 base, __u64 size);
int create(int device, const char *name, const __u32 *cpus, __u32 nr_cpus,
	   const struct multikernel_range *ranges, __u32 nr_ranges,
	   struct instance *instance);
int open_by_id(int device, __u32 id, int *fd);
int get_info(int fd, struct info *info);
/* @from is 0 for the host. */
int add_cpus(int fd, __u32 from, const __u32 *cpus, __u32 nr_cpus);
int start(int fd, __u64 argument);
int stop_force(int fd);
int stop_in_order(int fd, __u32 milliseconds);
int destroy(struct instance *instance);
/* Stops and destroys what is left. Returns how many instances there were. */
int destroy_all(int device);

/* Return a file of the arena, or a negative errno. */
int arena_create(int device, const char *name, __u64 bytes);
int arena_open(int device, const char *name, __u32 flags);
int arena_remove(int device, const char *name);
/* @command is MULTIKERNEL_IOCTL_ARENA_GRANT or _REVOKE. */
int arena_grant(int device, unsigned long command, const char *name, __u32 id, __u32 flags);
int arena_resize(int device, const char *name, __u64 bytes);

int load_flags(unsigned long flags, __u64 entry, const struct kexec_segment *segments,
	       unsigned long nr);
int load(__u32 id, __u64 entry, const struct kexec_segment *segments, unsigned long nr);
struct kexec_segment segment(const void *buf, size_t bufsz, __u64 mem, size_t memsz);

/* Gives up CAP_SYS_BOOT, for good. */
int drop_cap_sys_boot(void);
int cpu_set_online(__u32 cpu, bool online);

#endif
