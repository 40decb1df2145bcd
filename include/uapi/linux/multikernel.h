/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */

/*
 * Userspace interface for /dev/multikernel
 *
 * Several Linux kernels side by side on one machine, without a hypervisor.
 */

#ifndef _UAPI_LINUX_MULTIKERNEL_H
#define _UAPI_LINUX_MULTIKERNEL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: Overview
 *
 * The kernel that firmware booted is the host kernel. It lends CPUs and memory
 * to instances; each instance runs a spawn kernel on what it was lent.
 *
 * Memory is first moved from the host into a pool (%MULTIKERNEL_IOCTL_POOL_GROW,
 * or reserve_mem=SIZE:ALIGN:multikernel on the host's command line).
 * %MULTIKERNEL_IOCTL_CREATE takes memory from the pool and CPUs from the host
 * and returns a file descriptor for the new instance. An image is loaded into
 * it by kexec_load(2) with %KEXEC_MULTIKERNEL, %MULTIKERNEL_IOCTL_START runs it,
 * %MULTIKERNEL_IOCTL_STOP ends it, %MULTIKERNEL_IOCTL_DESTROY gives everything
 * back. Instances outlive the file descriptors that refer to them.
 *
 * An instance fd can be mmap(2)ed, MAP_SHARED, at offset 0 for up to
 * &multikernel_ioctl_get_info.shared_size bytes: the instance's shared area,
 * whose layout is in kernel/multikernel/abi.rs and
 * Documentation/multikernel/abi.rst. That needs CAP_SYS_BOOT as well.
 *
 * read(2) on an instance fd returns &struct multikernel_event, one for each
 * change of the instance's state since the fd was opened;
 * %MULTIKERNEL_IOCTL_EVENTS gives an fd that does so for all instances. Such an
 * fd is readable to poll(2) when there is an event, and hung up (EPOLLHUP) once
 * its instance has been destroyed.
 *
 * An arena is memory of the pool that has a name and outlives the kernels that
 * use it. %MULTIKERNEL_IOCTL_ARENA_CREATE makes one,
 * %MULTIKERNEL_IOCTL_ARENA_GRANT lets an instance have it, and
 * %MULTIKERNEL_IOCTL_ARENA_OPEN, on the host and in a spawn kernel, returns a
 * file descriptor for it that can be mmap(2)ed.
 */

/**
 * DOC: General ioctl format
 *
 * As in &liveupdate.h: each ioctl takes a pointer to a structure whose first
 * field is the structure's size as the caller knows it. What the kernel does
 * not know must be zero. Every array is given as pointer and number of
 * elements; where the kernel fills an array, the number on return is how many
 * elements there are, also when this is more than fitted.
 *
 * All calls need CAP_SYS_BOOT, checked against the caller, not the opener.
 * One errno stands for one cause:
 *
 *  - EPERM: the caller lacks CAP_SYS_BOOT, or kernel lockdown forbids it;
 *    mmap(2) with PROT_EXEC.
 *  - ENOTTY: the ioctl number is not known, or not on this kind of fd.
 *  - E2BIG: the structure is larger than the kernel knows and the excess is
 *    not zero.
 *  - EINVAL: a size too small, an unknown flag, a reserved field not zero, a
 *    value out of its range, an address or size not aligned, ranges that
 *    overlap or wrap, a malformed name, the same CPU twice.
 *  - EFAULT: a pointer of the caller is not accessible.
 *  - ENAMETOOLONG: a name that fills its field without a terminating zero.
 *  - EEXIST: an instance, an arena or a session of this name exists.
 *  - ENOENT: there is no instance of this name or id, or no arena, session or
 *    entry of this name; in a spawn kernel, no instance that it has a link to at
 *    the moment.
 *  - EACCES: the instance was not granted the arena, or only to be read; a
 *    session that is another's, or not offered to the caller; a mapping that is
 *    to be written to, of a file that is open only to be read.
 *  - ESTALE: the fd's instance has been destroyed; the fd's session has gone to
 *    another; the offer of a session is over.
 *  - EUCLEAN: what is in an arena is no session, or a damaged one.
 *  - ENODEV: a CPU number that this machine does not have; a CPU that the
 *    instance it is to be moved from does not have.
 *  - ENETDOWN: a CPU that is offline and not lent.
 *  - EOPNOTSUPP: CPU 0 or the host's last CPU cannot be lent; a flag that this
 *    machine cannot honour.
 *  - EBUSY: a CPU or memory range that is lent already; an instance that is
 *    running, or on which another call is in progress; an arena that is open,
 *    or granted to an instance that is running, or on which another call is in
 *    progress; a session that is open, or offered, or of which pages are open;
 *    an arena that has a session in it; nothing new is begun while the host goes down; read(2) or
 *    write(2) of a port that is taken over to be mapped.
 *  - EADDRNOTAVAIL: memory that is not in the pool; a kexec segment or entry
 *    that is not inside the instance's memory.
 *  - ENOSPC: the pool, or the memory below 1 MiB, has no free range that is
 *    large enough; no instance id is left; the running kernel was not told of
 *    so many CPUs.
 *  - ENOMEM: the host kernel could not allocate memory.
 *  - EMFILE, ENFILE: no further file descriptor can be opened.
 *  - ENOEXEC: start without an image loaded.
 *  - EALREADY: stop of an instance that is not running.
 *  - EAGAIN: read(2) with O_NONBLOCK, and there is no event; a message for which
 *    the other kernel has no room at the moment.
 *  - EINTR: a signal arrived during a wait. What the call documents holds.
 *  - ETIMEDOUT: the deadline passed, or a CPU did not confirm. What the call
 *    documents holds.
 *  - EISCONN: the two instances have been connected already.
 *  - ENOLINK: the two instances have not been connected.
 *  - ENOTCONN: the other kernel does not take part in the link, or not yet.
 *  - EPROTONOSUPPORT: the other kernel has another version of the ABI, or has
 *    written a session by another; the logs of both, or of this one, say which.
 *  - EPIPE: the other kernel ended meanwhile.
 *  - EADDRINUSE: somebody has opened the port in this kernel.
 *  - ECONNREFUSED: nobody has the port in the other kernel.
 *  - EBADMSG: the port in the other kernel takes requests of another length.
 *  - EMSGSIZE: a message or an answer that is too long.
 *  - ENXIO: mmap(2) of a port's lane that is not taken over, or not there yet.
 *  - EPROTO: the other kernel broke the rules of the link.
 */

/* The ioctl type, documented in ioctl-number.rst */
#define MULTIKERNEL_IOCTL_TYPE		0xB9

/* kexec_load(2): load into the instance whose id is in bits 5..15 of flags. */
#define KEXEC_MULTIKERNEL		0x00000010
#define KEXEC_MULTIKERNEL_ID_SHIFT	5
#define KEXEC_MULTIKERNEL_ID_MASK	0x0000ffe0

/* Ids are MULTIKERNEL_ID_MIN..MULTIKERNEL_ID_MAX. A spawn kernel's id is also its
 * address (CID) of AF_VSOCK, where the numbers below have other meanings.
 */
#define MULTIKERNEL_ID_MIN		3
#define MULTIKERNEL_ID_MAX		2047

/* The length of an instance's name including the terminating zero. A name is
 * 1..63 bytes of [A-Za-z0-9._-], and neither "." nor "..".
 */
#define MULTIKERNEL_NAME_LENGTH		64

/* The most CPUs and memory ranges that one instance may be given. */
#define MULTIKERNEL_CPUS_MAX		512
#define MULTIKERNEL_RANGES_MAX		16

/* Memory is lent in multiples of this many bytes, aligned to it. */
#define MULTIKERNEL_MEMORY_ALIGN	0x200000

/* ioctl commands on /dev/multikernel */
enum {
	MULTIKERNEL_CMD_BASE = 0x00,
	MULTIKERNEL_CMD_HOST_INFO = MULTIKERNEL_CMD_BASE,
	MULTIKERNEL_CMD_POOL_GROW = 0x01,
	MULTIKERNEL_CMD_POOL_SHRINK = 0x02,
	MULTIKERNEL_CMD_LIST_MEMORY = 0x03,
	MULTIKERNEL_CMD_LIST_CPUS = 0x04,
	MULTIKERNEL_CMD_LIST_INSTANCES = 0x05,
	MULTIKERNEL_CMD_CREATE = 0x06,
	MULTIKERNEL_CMD_OPEN = 0x07,
	MULTIKERNEL_CMD_EVENTS = 0x08,
	MULTIKERNEL_CMD_LIST_LINKS = 0x09,
	MULTIKERNEL_CMD_ARENA_CREATE = 0x50,
	MULTIKERNEL_CMD_ARENA_OPEN = 0x51,
	MULTIKERNEL_CMD_ARENA_REMOVE = 0x52,
	MULTIKERNEL_CMD_ARENA_GRANT = 0x53,
	MULTIKERNEL_CMD_ARENA_REVOKE = 0x54,
	MULTIKERNEL_CMD_LIST_ARENAS = 0x55,
	MULTIKERNEL_CMD_ARENA_RESIZE = 0x56,
	MULTIKERNEL_CMD_LIST_GRANTS = 0x57,
	MULTIKERNEL_CMD_SESSION_CREATE = 0x58,
	MULTIKERNEL_CMD_SESSION_OPEN = 0x59,
	MULTIKERNEL_CMD_SESSION_ACCEPT = 0x5a,
	MULTIKERNEL_CMD_SESSION_REMOVE = 0x5b,
	MULTIKERNEL_CMD_LIST_SESSIONS = 0x5c,
};

/* ioctl commands on an instance fd */
enum {
	MULTIKERNEL_CMD_INSTANCE_BASE = 0x40,
	MULTIKERNEL_CMD_GET_INFO = MULTIKERNEL_CMD_INSTANCE_BASE,
	MULTIKERNEL_CMD_START = 0x41,
	MULTIKERNEL_CMD_STOP = 0x42,
	MULTIKERNEL_CMD_DESTROY = 0x43,
	MULTIKERNEL_CMD_RING = 0x44,
	MULTIKERNEL_CMD_READ_MEMORY = 0x45,
	MULTIKERNEL_CMD_CALL = 0x46,
	MULTIKERNEL_CMD_OPEN_PORT = 0x47,
	MULTIKERNEL_CMD_CONNECT = 0x48,
	MULTIKERNEL_CMD_DISCONNECT = 0x49,
	MULTIKERNEL_CMD_LINK_STATS = 0x4c,
	MULTIKERNEL_CMD_ADD_CPUS = 0x4d,
	MULTIKERNEL_CMD_EXCHANGE_NAMES = 0x4e,
};

/* ioctl commands on a port fd */
enum {
	MULTIKERNEL_CMD_MAP_PORT = 0x4a,
	MULTIKERNEL_CMD_RING_PORT = 0x4b,
};

/* ioctl commands on a session fd */
enum {
	MULTIKERNEL_CMD_SESSION_BASE = 0x60,
	MULTIKERNEL_CMD_SESSION_PUT = MULTIKERNEL_CMD_SESSION_BASE,
	MULTIKERNEL_CMD_SESSION_GET = 0x61,
	MULTIKERNEL_CMD_SESSION_DELETE = 0x62,
	MULTIKERNEL_CMD_SESSION_LIST_ENTRIES = 0x63,
	MULTIKERNEL_CMD_SESSION_OFFER = 0x64,
	MULTIKERNEL_CMD_SESSION_COMMIT = 0x65,
	MULTIKERNEL_CMD_SESSION_ABORT = 0x66,
	MULTIKERNEL_CMD_SESSION_WAIT = 0x67,
};

/* Owners of a CPU or of a memory range */
#define MULTIKERNEL_OWNER_HOST		0 /* the host kernel uses it */
#define MULTIKERNEL_OWNER_POOL		1 /* set aside, lent to nobody */
#define MULTIKERNEL_OWNER_INSTANCE	2 /* lent to the instance in @id */
#define MULTIKERNEL_OWNER_TRANSITION	3 /* on the way from one to another */
#define MULTIKERNEL_OWNER_ARENA		4 /* that of the arena in @id */

/* States of an instance */
#define MULTIKERNEL_STATE_EMPTY		0 /* being created */
#define MULTIKERNEL_STATE_READY		1 /* holds CPUs and memory, no image */
#define MULTIKERNEL_STATE_LOADED	2 /* has an image that can be started */
#define MULTIKERNEL_STATE_RUNNING	3 /* the spawn kernel runs */
#define MULTIKERNEL_STATE_STOPPING	4 /* a stop is being confirmed */
#define MULTIKERNEL_STATE_STOPPED	5 /* ended on request; holds CPUs, memory */
#define MULTIKERNEL_STATE_CRASHED	6 /* ended by itself, see @reason */
#define MULTIKERNEL_STATE_FAILED	7 /* a CPU is not confirmed parked */
#define MULTIKERNEL_STATE_GONE		8 /* no more; in events only */

/* Why an instance is Stopped, Crashed or Failed */
#define MULTIKERNEL_REASON_NONE		0
#define MULTIKERNEL_REASON_FORCED	1 /* stopped by force */
#define MULTIKERNEL_REASON_POWEROFF	2 /* the spawn powered off or halted */
#define MULTIKERNEL_REASON_RESTART	3 /* the spawn asked to be restarted */
#define MULTIKERNEL_REASON_PANIC	4 /* the spawn's kernel panicked */
#define MULTIKERNEL_REASON_NO_CONFIRM	5 /* a CPU did not reach the park code */
#define MULTIKERNEL_REASON_HUNG		6 /* a CPU took no interrupt for hang_ms */

/**
 * struct multikernel_cpu - One CPU in a list
 * @cpu:	the host's number of the CPU
 * @apic_id:	its APIC id
 * @nid:	its NUMA node, -1 if none
 * @owner:	%MULTIKERNEL_OWNER_HOST, _INSTANCE or _TRANSITION
 * @id:		the instance that has it, 0 if none
 * @online:	1 if the host runs on it
 */
struct multikernel_cpu {
	__u32	cpu;
	__u32	apic_id;
	__s32	nid;
	__u32	owner;
	__u32	id;
	__u32	online;
};

/**
 * struct multikernel_range - One memory range
 * @base:	physical address, bytes, aligned to %MULTIKERNEL_MEMORY_ALIGN
 *		(ranges below 1 MiB: to 4096)
 * @size:	bytes, a multiple of the same
 * @nid:	NUMA node, -1 for any (on input) or none
 * @owner:	output; one of the owners
 * @id:		output; the instance or arena that has it, 0 if none
 * @flags:	MULTIKERNEL_RANGE_*
 */
struct multikernel_range {
	__u64	base;
	__u64	size;
	__s32	nid;
	__u32	owner;
	__u32	id;
	__u32	flags;
};

/* In a request: @base is given; otherwise the kernel chooses. */
#define MULTIKERNEL_RANGE_FIXED		0x1
/* In a request: the whole range must be below 4 GiB. */
#define MULTIKERNEL_RANGE_BELOW_4G	0x2
/* In a list: memory that reserve_mem= set aside; it cannot leave the pool. */
#define MULTIKERNEL_RANGE_BOOT		0x4
/* In a list: pages below 1 MiB, lent for the spawn's real-mode trampoline. */
#define MULTIKERNEL_RANGE_LOW		0x8
/* In a request: the whole range must be at or above 4 GiB. */
#define MULTIKERNEL_RANGE_ABOVE_4G	0x10

/* How it stands with two connected instances. */
#define MULTIKERNEL_LINK_DOWN		0 /* one of them does not take part */
#define MULTIKERNEL_LINK_UP		1 /* their kernels can talk */
#define MULTIKERNEL_LINK_CHANGING	2 /* a kernel has not answered yet */

/**
 * struct multikernel_link - Two instances that are connected
 * @ids:	their ids, the lower one first
 * @state:	MULTIKERNEL_LINK_*. A kernel that is not running, not up yet, or
 *		has no support for links does not take part.
 * @epoch:	of the link between their kernels, another one whenever it is made
 *		anew; 0 unless it is up
 */
struct multikernel_link {
	__u32	ids[2];
	__u32	state;
	__u32	epoch;
};

/**
 * struct multikernel_ioctl_host_info - ioctl(MULTIKERNEL_IOCTL_HOST_INFO)
 * @size:	Input; sizeof(struct multikernel_ioctl_host_info)
 * @abi_version: Output; version of the shared-memory ABI (abi.rs)
 * @features:	Output; MULTIKERNEL_HOST_* bits
 * @tsc_khz:	Output; the host's TSC frequency in kHz, 0 if not known
 * @lapic_khz:	Output; local APIC timer input clock in kHz, 0 if not known
 * @cpus_online: Output; number of CPUs that the host runs on
 * @cpus_lent:	Output; number of CPUs that instances hold
 * @instances:	Output; number of instances
 * @segments_max: Output; most segments that kexec_load takes
 * @shared_size: Output; bytes of an instance's shared area
 * @kernel_bytes: Output; host memory that the subsystem holds beside what is
 *		lent: page tables, mailboxes, bookkeeping. In bytes.
 */
struct multikernel_ioctl_host_info {
	__u32	size;
	__u32	abi_version;
	__aligned_u64 features;
	__u32	tsc_khz;
	__u32	lapic_khz;
	__u32	cpus_online;
	__u32	cpus_lent;
	__u32	instances;
	__u32	segments_max;
	__aligned_u64 shared_size;
	__aligned_u64 kernel_bytes;
};

#define MULTIKERNEL_IOCTL_HOST_INFO \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_HOST_INFO)

/* The host uses x2APIC mode. Spawns start in it, and need a kernel with it. */
#define MULTIKERNEL_HOST_X2APIC		0x1
/* IPI shorthands are off at this moment because CPUs are lent. */
#define MULTIKERNEL_HOST_SHORTHAND_OFF	0x2

/**
 * struct multikernel_ioctl_pool - ioctl(MULTIKERNEL_IOCTL_POOL_GROW, _SHRINK)
 * @size:	Input; sizeof(struct multikernel_ioctl_pool)
 * @flags:	Input; %MULTIKERNEL_RANGE_FIXED (shrink only),
 *		%MULTIKERNEL_RANGE_BELOW_4G or %MULTIKERNEL_RANGE_ABOVE_4G
 * @base:	Input with %MULTIKERNEL_RANGE_FIXED, else 0; Output of grow: the
 *		lowest address that was added
 * @bytes:	Input; how much to move, a multiple of %MULTIKERNEL_MEMORY_ALIGN;
 *		not 0
 * @nid:	Input; NUMA node, -1 for any
 * @reserved:	Input; 0
 *
 * Grow moves one contiguous range from the host to the pool; ENOSPC if the host
 * cannot free such a range. Shrink gives free pool memory back to the host,
 * all of @bytes or nothing (ENOSPC, with %MULTIKERNEL_RANGE_FIXED EBUSY where
 * it is lent and EADDRNOTAVAIL where it is not in the pool). Memory from
 * reserve_mem= stays in the pool.
 */
struct multikernel_ioctl_pool {
	__u32	size;
	__u32	flags;
	__aligned_u64 base;
	__aligned_u64 bytes;
	__s32	nid;
	__u32	reserved;
};

#define MULTIKERNEL_IOCTL_POOL_GROW \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_POOL_GROW)
#define MULTIKERNEL_IOCTL_POOL_SHRINK \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_POOL_SHRINK)

/**
 * struct multikernel_ioctl_list - ioctl(MULTIKERNEL_IOCTL_LIST_*)
 * @size:	Input; sizeof(struct multikernel_ioctl_list)
 * @nr:		Input; elements that fit at @items; Output; elements there are
 * @items:	Input; user pointer to an array of &struct multikernel_range
 *		(LIST_MEMORY), &struct multikernel_cpu (LIST_CPUS), __u32 ids
 *		(LIST_INSTANCES), &struct multikernel_link (LIST_LINKS), &struct
 *		multikernel_arena (LIST_ARENAS) or &struct multikernel_arena_grant
 *		(LIST_GRANTS); may be 0 if @nr is 0
 */
struct multikernel_ioctl_list {
	__u32	size;
	__u32	nr;
	__aligned_u64 items;
};

#define MULTIKERNEL_IOCTL_LIST_MEMORY \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LIST_MEMORY)
#define MULTIKERNEL_IOCTL_LIST_CPUS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LIST_CPUS)
#define MULTIKERNEL_IOCTL_LIST_INSTANCES \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LIST_INSTANCES)
#define MULTIKERNEL_IOCTL_LIST_LINKS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LIST_LINKS)

/**
 * struct multikernel_ioctl_create - ioctl(MULTIKERNEL_IOCTL_CREATE)
 * @size:	Input; sizeof(struct multikernel_ioctl_create)
 * @flags:	Input; 0
 * @name:	Input; name of the instance
 * @nr_cpus:	Input; elements at @cpus, 1..%MULTIKERNEL_CPUS_MAX
 * @nr_ranges:	Input; elements at @ranges, 1..%MULTIKERNEL_RANGES_MAX
 * @cpus:	Input; user pointer to __u32 host CPU numbers. The first becomes
 *		the spawn's boot CPU.
 * @ranges:	Input; user pointer to &struct multikernel_range. Each is one
 *		contiguous range; @owner and @id are 0.
 * @low_bytes:	Input; bytes below 1 MiB, a multiple of 4096, at most 524288;
 *		0 takes the default of 65536
 * @id:		Output; the new instance's id
 * @fd:		Output; a new file descriptor (O_CLOEXEC) for it
 * @reserved:	Input; 0
 *
 * The CPUs are taken offline, and parked; the memory is taken from the pool
 * which it entered zeroed. On success the instance is in
 * %MULTIKERNEL_STATE_READY. On error everything is where it was. What the host's
 * CPU hotplug objects is passed on as it is.
 */
struct multikernel_ioctl_create {
	__u32	size;
	__u32	flags;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__u32	nr_cpus;
	__u32	nr_ranges;
	__aligned_u64 cpus;
	__aligned_u64 ranges;
	__u32	low_bytes;
	__u32	id;
	__s32	fd;
	__u32	reserved;
};

#define MULTIKERNEL_IOCTL_CREATE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_CREATE)

/**
 * struct multikernel_ioctl_open - ioctl(MULTIKERNEL_IOCTL_OPEN)
 * @size:	Input; sizeof(struct multikernel_ioctl_open)
 * @id:		Input; an instance's id, or 0 to search by @name; Output; its id
 * @name:	Input; an instance's name; all zero if @id is given
 * @fd:		Output; a new file descriptor (O_CLOEXEC)
 * @reserved:	Input; 0
 *
 * In a spawn kernel: opens another one that it is linked with. Such an fd knows
 * %MULTIKERNEL_IOCTL_CALL and %MULTIKERNEL_IOCTL_OPEN_PORT only. It stands for
 * the name: when the other one is started again, and linked again, the fd is for
 * its new life, and between the two calls fail with ENOTCONN.
 */
struct multikernel_ioctl_open {
	__u32	size;
	__u32	id;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__s32	fd;
	__u32	reserved;
};

#define MULTIKERNEL_IOCTL_OPEN \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_OPEN)

/**
 * struct multikernel_ioctl_get_info - ioctl(MULTIKERNEL_IOCTL_GET_INFO)
 * @size:	Input; sizeof(struct multikernel_ioctl_get_info)
 * @id:		Output; the instance's id
 * @name:	Output; its name
 * @state:	Output; MULTIKERNEL_STATE_*
 * @reason:	Output; MULTIKERNEL_REASON_*
 * @epoch:	Output; how often it has been started
 * @nr_cpus:	Input; elements that fit at @cpus; Output; how many there are
 * @nr_ranges:	Input; elements that fit at @ranges; Output; how many there are,
 *		those below 1 MiB (%MULTIKERNEL_RANGE_LOW) included
 * @reserved:	Input; 0
 * @cpus:	Input; user pointer to &struct multikernel_cpu, in the order
 *		given to create, then in that in which they were added
 * @ranges:	Input; user pointer to &struct multikernel_range, in the order
 *		given to create, then those below 1 MiB
 * @shared_base: Output; physical address of the shared area. It is in none of
 *		the ranges; the spawn is to be told of it as reserved memory.
 * @shared_size: Output; its size in bytes
 * @entry:	Output; entry address of the image, 0 if none is loaded
 * @image_bytes: Output; sum of the memory sizes of the loaded segments
 * @hang_ms:	Output; the bound that was given to start, 0 if it was never
 *		started
 * @reserved2:	Output; 0
 */
struct multikernel_ioctl_get_info {
	__u32	size;
	__u32	id;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__u32	state;
	__u32	reason;
	__u32	epoch;
	__u32	nr_cpus;
	__u32	nr_ranges;
	__u32	reserved;
	__aligned_u64 cpus;
	__aligned_u64 ranges;
	__aligned_u64 shared_base;
	__aligned_u64 shared_size;
	__aligned_u64 entry;
	__aligned_u64 image_bytes;
	__u32	hang_ms;
	__u32	reserved2;
};

#define MULTIKERNEL_IOCTL_GET_INFO \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_GET_INFO)

/**
 * struct multikernel_ioctl_start - ioctl(MULTIKERNEL_IOCTL_START)
 * @size:	Input; sizeof(struct multikernel_ioctl_start)
 * @flags:	Input; 0
 * @argument:	Input; value of RSI at the entry: for a Linux image the physical
 *		address of its boot_params. Inside the instance's memory.
 * @hang_ms:	Input; how long a CPU of the spawn may take no interrupt before
 *		the spawn counts as hung: %MULTIKERNEL_HANG_MS_MIN..
 *		%MULTIKERNEL_HANG_MS_MAX milliseconds, 0 for the default of
 *		10000, %MULTIKERNEL_HANG_NEVER
 * @cpus_max:	Input; of how many CPUs the image's tables tell, those included
 *		that %MULTIKERNEL_IOCTL_ADD_CPUS may give to the spawn while it
 *		runs: from as many as the instance has to
 *		%MULTIKERNEL_CPUS_MAX, or 0 for those that it has
 *
 * Starts the boot CPU at the image's entry, in 64-bit mode, interrupts off, on
 * page tables that map to themselves the instance's memory, its shared area and,
 * to be read only, page 0 with the BIOS data area.
 * RSI is @argument, RAX the entry; all other general registers are zero. The
 * spawn starts its further CPUs by INIT and SIPI. An image can be started once:
 * a spawn changes what was loaded. ENOEXEC without an image, EBUSY if it runs
 * already. EINTR while kernels that it was connected with are told that its life
 * before has ended: nothing has been done.
 *
 * The host rings every CPU that a spawn with guest support has online, five
 * times in @hang_ms. When one of them has not answered four times in a row, the
 * spawn is stopped by force: %MULTIKERNEL_STATE_CRASHED,
 * %MULTIKERNEL_REASON_HUNG. Without guest support there is nothing to go by.
 */
struct multikernel_ioctl_start {
	__u32	size;
	__u32	flags;
	__aligned_u64 argument;
	__u32	hang_ms;
	__u32	cpus_max;
};

/* Bounds of &multikernel_ioctl_start.hang_ms */
#define MULTIKERNEL_HANG_MS_DEFAULT	10000
#define MULTIKERNEL_HANG_MS_MIN		100
#define MULTIKERNEL_HANG_MS_MAX		3600000
#define MULTIKERNEL_HANG_NEVER		0xffffffff

#define MULTIKERNEL_IOCTL_START \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_START)

/* Do not ask the spawn: stop its CPUs at once. */
#define MULTIKERNEL_STOP_FORCE		0x1

/**
 * struct multikernel_ioctl_stop - ioctl(MULTIKERNEL_IOCTL_STOP)
 * @size:	Input; sizeof(struct multikernel_ioctl_stop)
 * @flags:	Input; %MULTIKERNEL_STOP_FORCE or 0
 * @timeout_ms:	Input; without force: how long to wait for the spawn to end by
 *		itself, 1..3600000; with force 0
 * @reason:	Output; MULTIKERNEL_REASON_*; without force NONE if it has ended and
 *		somebody else has started it again meanwhile
 *
 * With force, every CPU of the instance is sent INIT and brought to the park
 * code; the call returns when each has confirmed. ETIMEDOUT: at least one has
 * not, the instance is %MULTIKERNEL_STATE_FAILED, and another stop tries again.
 *
 * Without force, the spawn is asked to power off. ETIMEDOUT and EINTR: it has
 * been asked, and goes on running. EOPNOTSUPP: the spawn kernel has no guest
 * support, only force stops it. EFAULT after the stop is possible: @reason is
 * written last.
 */
struct multikernel_ioctl_stop {
	__u32	size;
	__u32	flags;
	__u32	timeout_ms;
	__u32	reason;
};

#define MULTIKERNEL_IOCTL_STOP \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_STOP)

/**
 * struct multikernel_ioctl_simple - ioctl(MULTIKERNEL_IOCTL_DESTROY, _RING)
 * @size:	Input; sizeof(struct multikernel_ioctl_simple)
 * @flags:	Input; 0
 *
 * Destroy gives the instance's memory back to the pool and its CPUs back to
 * the host, which brings them online. EBUSY while it runs, or is Failed. EINTR
 * while kernels that it was connected with are told: nothing has been done.
 *
 * Ring sends the doorbell interrupt to the spawn, so that it looks at its
 * shared area (console input, requests). EALREADY if it does not run,
 * EOPNOTSUPP if it has not advertised a doorbell.
 */
struct multikernel_ioctl_simple {
	__u32	size;
	__u32	flags;
};

#define MULTIKERNEL_IOCTL_DESTROY \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_DESTROY)
#define MULTIKERNEL_IOCTL_RING \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_RING)

/* The most bytes that one MULTIKERNEL_IOCTL_READ_MEMORY copies. */
#define MULTIKERNEL_READ_MAX		0x100000

/**
 * struct multikernel_ioctl_read_memory - ioctl(MULTIKERNEL_IOCTL_READ_MEMORY)
 * @size:	Input; sizeof(struct multikernel_ioctl_read_memory)
 * @flags:	Input; 0
 * @base:	Input; physical address of the first byte
 * @bytes:	Input; how many, 1..%MULTIKERNEL_READ_MAX
 * @buffer:	Input; user pointer to where they are copied
 *
 * Copies memory of the instance, for a dump: also of one that has ended, whose
 * memory stays as it is until the next load or destroy, and of one that runs,
 * which may change it meanwhile. All bytes must be in one range of the instance
 * (EADDRNOTAVAIL). EPERM under lockdown for confidentiality, as /proc/kcore.
 */
struct multikernel_ioctl_read_memory {
	__u32	size;
	__u32	flags;
	__aligned_u64 base;
	__aligned_u64 bytes;
	__aligned_u64 buffer;
};

#define MULTIKERNEL_IOCTL_READ_MEMORY \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_READ_MEMORY)

/* Any CPU of the other kernel, for &multikernel_ioctl_call.cpu */
#define MULTIKERNEL_CPU_ANY		0xffffffff

/* Ports that every kernel has: one that answers with what it was sent. */
#define MULTIKERNEL_PORT_ECHO		1

/* The most bytes of a call and of an answer. */
#define MULTIKERNEL_CALL_MAX		1024

/**
 * struct multikernel_ioctl_call - ioctl(MULTIKERNEL_IOCTL_CALL)
 * @size:	Input; sizeof(struct multikernel_ioctl_call)
 * @flags:	Input; 0
 * @port:	Input; the port that is called, not 0
 * @cpu:	Input; number of the other kernel's CPU on which it is called, or
 *		%MULTIKERNEL_CPU_ANY (EINVAL if it has no such CPU). Its first CPU
 *		stands in for one that is offline, and for any when there are more
 *		pairs of CPUs than lanes.
 * @timeout_ms:	Input; how long to wait for the answer, 1..3600000
 * @request_bytes: Input; bytes at @request, at most %MULTIKERNEL_CALL_MAX
 * @answer_bytes: Input; bytes that fit at @answer; Output; bytes of the answer,
 *		also if it is EMSGSIZE that they do not fit
 * @reserved:	Input; 0
 * @request:	Input; user pointer to what is sent
 * @answer:	Input; user pointer to where the answer goes
 *
 * Calls a port of the kernel at the other end of the link and waits for its
 * answer: on an instance fd the spawn kernel's, on /dev/multikernel of a spawn
 * kernel the host's, on an fd that was opened there the other spawn kernel's.
 * The answer may be an errno of its own.
 *
 * ENOTCONN: the spawn kernel has no support for links, or is not up yet.
 * EPROTONOSUPPORT: it has another version of the ABI.
 * EPIPE: it ended meanwhile. EPROTO: it broke the rules. EALREADY: none runs.
 * ETIMEDOUT, EINTR: the call has been sent, and what it does is done, unless
 * there was no room for it all the time; a late answer is ignored. EBUSY: too
 * many calls wait, for this kernel or for all.
 */
struct multikernel_ioctl_call {
	__u32	size;
	__u32	flags;
	__u32	port;
	__u32	cpu;
	__u32	timeout_ms;
	__u32	request_bytes;
	__u32	answer_bytes;
	__u32	reserved;
	__aligned_u64 request;
	__aligned_u64 answer;
};

#define MULTIKERNEL_IOCTL_CALL \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_CALL)

/* The first port that user space may open. */
#define MULTIKERNEL_PORT_USER		0x10000

/**
 * struct multikernel_ioctl_open_port - ioctl(MULTIKERNEL_IOCTL_OPEN_PORT)
 * @size:	Input; sizeof(struct multikernel_ioctl_open_port)
 * @flags:	Input; 0
 * @port:	Input; the port, %MULTIKERNEL_PORT_USER or above
 * @fd:		Output; a new file descriptor (O_CLOEXEC) for it
 *
 * Opens a port of the link to another kernel, as %MULTIKERNEL_IOCTL_CALL has
 * it. Two programs that have the same port open, one at each end, are
 * connected: each write(2) on one port fd is one message, which one read(2) on
 * the other returns, in order; what is longer than the buffer is cut off. A
 * message has at least one byte (EINVAL) and at most 1784 (EMSGSIZE). What is
 * written before the other end is opened waits for it; what has come when a port
 * fd is closed is lost.
 *
 * A write for which there is no room waits for it, and a read for a message;
 * with O_NONBLOCK they fail with EAGAIN instead. poll(2) works for both. When
 * the other end has been closed, and all has been read, read returns 0 and
 * poll EPOLLHUP, until it is opened again. When the other kernel has ended,
 * read returns 0 and write fails with EPIPE, for ever: a port has to be opened
 * again in its next life.
 *
 * ENOSPC: the link has no lane left; a link has some 20, and a port keeps its
 * lane as long as both kernels run.
 */
struct multikernel_ioctl_open_port {
	__u32	size;
	__u32	flags;
	__u32	port;
	__s32	fd;
};

#define MULTIKERNEL_IOCTL_OPEN_PORT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_OPEN_PORT)

/**
 * struct multikernel_ioctl_connect - ioctl(MULTIKERNEL_IOCTL_CONNECT, _DISCONNECT)
 * @size:	Input; sizeof(struct multikernel_ioctl_connect)
 * @flags:	Input; 0
 * @id:		Input; the other instance's id, or 0 to find it by @name
 * @reserved:	Input; 0
 * @name:	Input; the other instance's name; all zero if @id is given
 *
 * Connect lets the spawn kernels of two instances talk to each other, whenever
 * both run and have support for it, through any number of starts and ends of
 * either, until they are disconnected or one of the instances is destroyed. It
 * does not wait for anything: %MULTIKERNEL_IOCTL_LIST_LINKS says whether there
 * is a link. EISCONN if they are connected already, EINVAL if the other instance
 * is the same one.
 *
 * Disconnect ends that, and returns when neither of the two kernels rings the
 * other any more. What they still wait for fails with EPIPE. ENOLINK if they are
 * not connected. ETIMEDOUT, EINTR: they are disconnected, but a kernel has not
 * said yet that it knows.
 */
struct multikernel_ioctl_connect {
	__u32	size;
	__u32	flags;
	__u32	id;
	__u32	reserved;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
};

#define MULTIKERNEL_IOCTL_CONNECT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_CONNECT)
#define MULTIKERNEL_IOCTL_DISCONNECT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_DISCONNECT)

/**
 * struct multikernel_ioctl_add_cpus - ioctl(MULTIKERNEL_IOCTL_ADD_CPUS)
 * @size:	Input; sizeof(struct multikernel_ioctl_add_cpus)
 * @flags:	Input; 0
 * @nr_cpus:	Input; elements at @cpus, 1..%MULTIKERNEL_CPUS_MAX
 * @from:	Input; 0 to take them from the host, or the id of the instance that
 *		they are moved from
 * @cpus:	Input; user pointer to __u32 host CPU numbers
 *
 * Gives CPUs to an instance, which may be running. From the host they are taken
 * as %MULTIKERNEL_IOCTL_CREATE does. An instance that they are moved from does
 * not run, has no image loaded (EBUSY), is another one and keeps at least one
 * CPU (EINVAL). On error everything is where it was: EINTR too, for a signal
 * while another call on the instance, or kernels that the other one was
 * connected with, are waited for.
 *
 * On success the CPUs are parked, and are the instance's in every respect: what
 * stops it stops them. A running spawn kernel has to be told: it may start them
 * by INIT and SIPI as it may its others, if its tables have them. ENOSPC if it
 * was started with a smaller &multikernel_ioctl_start.cpus_max.
 */
struct multikernel_ioctl_add_cpus {
	__u32	size;
	__u32	flags;
	__u32	nr_cpus;
	__u32	from;
	__aligned_u64 cpus;
};

#define MULTIKERNEL_IOCTL_ADD_CPUS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_ADD_CPUS)

/**
 * struct multikernel_ioctl_exchange_names - ioctl(MULTIKERNEL_IOCTL_EXCHANGE_NAMES)
 * @size:	Input; sizeof(struct multikernel_ioctl_exchange_names)
 * @flags:	Input; 0 or %MULTIKERNEL_EXCHANGE_SESSIONS
 * @id:		Input; the other instance's id
 * @reserved:	Input; 0
 *
 * Gives each of two instances the name of the other, in whatever state they are.
 * Both names are there at every moment, so that who opens an instance by name
 * gets one or the other. Nothing else changes: fds, links and grants of arenas
 * are the instances', not the names'. EINVAL if it is the same instance.
 *
 * With %MULTIKERNEL_EXCHANGE_SESSIONS all sessions that the other instance owns
 * become this one's at the same instant, which it has to have accepted: EBUSY if
 * there is one that it has not, and nothing has changed then. The kernel there
 * hears of it by %MULTIKERNEL_IOCTL_SESSION_WAIT.
 */
struct multikernel_ioctl_exchange_names {
	__u32	size;
	__u32	flags;
	__u32	id;
	__u32	reserved;
};

#define MULTIKERNEL_IOCTL_EXCHANGE_NAMES \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_EXCHANGE_NAMES)

/* The sessions of the other instance go over as well. */
#define MULTIKERNEL_EXCHANGE_SESSIONS	0x1

/**
 * struct multikernel_ioctl_map_port - ioctl(MULTIKERNEL_IOCTL_MAP_PORT)
 * @size:	Input; sizeof(struct multikernel_ioctl_map_port)
 * @flags:	Input; 0
 * @connected:	Output; 1 if there is the lane in which the other end sends, that
 *		is if it has ever been opened there, else 0
 * @epoch:	Output; epoch of the link, which is in the stamps of slots
 * @lane_slots:	Output; slots of each lane, a power of two
 * @head_bytes:	Output; bytes of a lane before its slots
 * @lane_bytes:	Output; bytes of each mapping
 * @send_offset: Output; offset for mmap(2) of the lane in which to send
 * @receive_offset: Output; offset for mmap(2) of the lane in which to receive
 * @send_position: Output; position of the first slot to be sent
 * @receive_position: Output; position of the first slot to be received; 0 if
 *		not @connected
 *
 * On a port fd: takes the port over, to be mapped. From then on read(2) and
 * write(2) on this fd fail with EBUSY, and the process sends and receives by
 * itself in two mappings, each of @lane_bytes bytes at its offset, MAP_SHARED.
 * Their layout is that of a lane in Documentation/multikernel/messaging.rst.
 * There is no way back but to close the port.
 *
 * Before @connected the lane to receive in cannot be mapped (ENXIO). poll(2)
 * says POLLIN when it has come, until this call is made again and says so. Its
 * other answers stay the same: positions are those at which the process began.
 *
 * poll(2) says POLLIN when there is a message at the position in the head of the
 * lane, so that is to be up to date, POLLOUT when half of the other lane is free,
 * and POLLHUP as before. As it has put the caller to sleep, in @asleep and
 * @waiting of the lanes, the caller may make these the next even number when it
 * is awake, by an atomic exchange, and is not rung for then.
 *
 * A mapping cannot be executed (EPERM) or grown, and is not inherited by
 * fork(2). It keeps the port open as the fd does. When both are gone the port can
 * be opened again, and goes on where the memory says that the process was; where
 * that cannot be, the port is broken (EPROTO) as long as both kernels run. A
 * mapping of a link that has ended stays, and leads nowhere.
 */
struct multikernel_ioctl_map_port {
	__u32	size;
	__u32	flags;
	__u32	connected;
	__u32	epoch;
	__u32	lane_slots;
	__u32	head_bytes;
	__aligned_u64 lane_bytes;
	__aligned_u64 send_offset;
	__aligned_u64 receive_offset;
	__aligned_u64 send_position;
	__aligned_u64 receive_position;
};

#define MULTIKERNEL_IOCTL_MAP_PORT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_MAP_PORT)

/*
 * ioctl(MULTIKERNEL_IOCTL_RING_PORT), with &struct multikernel_ioctl_simple, on a
 * port fd: rings who sleeps at the other end, for a message or for credit. For a
 * process that has the port mapped, after it has sent or received; @asleep and
 * @waiting in its mappings say whether it has to. It does nothing where nobody
 * sleeps, or has been rung for that sleep. It needs no capability.
 */
#define MULTIKERNEL_IOCTL_RING_PORT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_RING_PORT)

/**
 * struct multikernel_link_lane - What went through one lane of a link
 * @lane:	its number among the lanes of the kernel that sends in it
 * @flags:	MULTIKERNEL_LANE_*
 * @from:	number of the CPU that sends; 0 of a port's lane
 * @to:		number of the CPU that receives; of a port's lane the port
 * @messages:	messages sent, or received
 * @bytes:	bytes of their payload
 * @stalls:	how often there was no room for a message; 0 of a lane in which the
 *		other kernel sends
 * @doorbells:	doorbells that were rung because of what was sent in it; 0 of a
 *		lane in which the other kernel sends
 * @used:	slots in use; 0 of a lane in which the other kernel sends
 * @highest:	the most slots that were seen in use; likewise
 *
 * The sender looks at how many slots are in use every quarter of a lane, when
 * there is no room, and when it is asked. Of what a process sends and receives in
 * lanes that it has mapped the kernel knows doorbells and @used alone: the other
 * counters are those of the time before.
 */
struct multikernel_link_lane {
	__u32	lane;
	__u32	flags;
	__u32	from;
	__u32	to;
	__aligned_u64 messages;
	__aligned_u64 bytes;
	__aligned_u64 stalls;
	__aligned_u64 doorbells;
	__u32	used;
	__u32	highest;
};

/* The other kernel sends in it; otherwise the one that is asked. */
#define MULTIKERNEL_LANE_RECEIVES	0x1
/* It is a port's; otherwise of a pair of CPUs. */
#define MULTIKERNEL_LANE_PORT		0x2
/* It is for all pairs of CPUs that have found no lane left. */
#define MULTIKERNEL_LANE_COMMON		0x4
/* The other kernel broke the rules: it is not used any more. */
#define MULTIKERNEL_LANE_BROKEN		0x8
/* A process has it mapped: its messages are not counted. */
#define MULTIKERNEL_LANE_MAPPED		0x10

/**
 * struct multikernel_link_cpu - The doorbells of one CPU
 * @cpu:	its number, as its kernel counts
 * @flags:	%MULTIKERNEL_LINK_CPU_PEER or 0
 * @doorbells:	that it got, over all links; of a CPU of the other kernel those
 *		that were rung over this link
 * @idle:	those of them that were looked at and for nothing
 * @held:	those that had to wait to be looked at, as there had been too many for
 *		nothing
 * @delayed:	how often this link had used up its share of the CPU, and what it
 *		brought had to wait
 * @polls:	how often messages were looked for before it slept, over all links: by
 *		a call for its answer, or for more behind a message
 * @polled:	how often that was of use
 *
 * Of a CPU of the other kernel all but @doorbells is 0.
 */
struct multikernel_link_cpu {
	__u32	cpu;
	__u32	flags;
	__aligned_u64 doorbells;
	__aligned_u64 idle;
	__aligned_u64 held;
	__aligned_u64 delayed;
	__aligned_u64 polls;
	__aligned_u64 polled;
};

/* A CPU of the other kernel; otherwise of the one that is asked. */
#define MULTIKERNEL_LINK_CPU_PEER	0x1

/* States of the other kernel of a link */
#define MULTIKERNEL_PEER_DOWN	0 /* it is not there yet, or is not understood */
#define MULTIKERNEL_PEER_UP	1 /* messages can be sent to it */
#define MULTIKERNEL_PEER_GONE	2 /* it takes none any more */

/**
 * struct multikernel_ioctl_link_stats - ioctl(MULTIKERNEL_IOCTL_LINK_STATS)
 * @size:	Input; sizeof(struct multikernel_ioctl_link_stats)
 * @flags:	Input; 0
 * @peer:	Output; id of the other kernel's instance, 0 for the host
 * @epoch:	Output; of the link: with another one all counters began anew
 * @state:	Output; MULTIKERNEL_PEER_*
 * @lane_slots:	Output; slots of each lane
 * @nr_lanes:	Input; elements that fit at @lanes; Output; how many there are
 * @nr_cpus:	Input; elements that fit at @cpus; Output; how many there are
 * @lane_size:	Input; sizeof(struct multikernel_link_lane)
 * @cpu_size:	Input; sizeof(struct multikernel_link_cpu)
 * @lanes:	Input; user pointer to &struct multikernel_link_lane; may be 0 if
 *		@nr_lanes is 0
 * @cpus:	Input; user pointer to &struct multikernel_link_cpu; may be 0 if
 *		@nr_cpus is 0
 * @time_ns:	Output; when it was, CLOCK_MONOTONIC, in nanoseconds
 * @undeliverable: Output; messages received for a port that nobody has, or that
 *		are not of its type
 * @broken:	Output; ends of lanes that are not used any more, as the other kernel
 *		did in them what it must not
 *
 * Counters of the link to another kernel, as %MULTIKERNEL_IOCTL_CALL has it,
 * since it began. Each lane is looked at by itself, while messages come and go.
 * Elements are written in the size that the caller gives, a multiple of 8, at
 * least what is defined here (EINVAL), at most 4096 (E2BIG): what the kernel
 * does not know of them is zero. EALREADY: none runs. ENOTCONN: this kernel, a
 * spawn, has no link to its host.
 */
struct multikernel_ioctl_link_stats {
	__u32	size;
	__u32	flags;
	__u32	peer;
	__u32	epoch;
	__u32	state;
	__u32	lane_slots;
	__u32	nr_lanes;
	__u32	nr_cpus;
	__u32	lane_size;
	__u32	cpu_size;
	__aligned_u64 lanes;
	__aligned_u64 cpus;
	__aligned_u64 time_ns;
	__aligned_u64 undeliverable;
	__aligned_u64 broken;
};

#define MULTIKERNEL_IOCTL_LINK_STATS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LINK_STATS)

/**
 * struct multikernel_ioctl_events - ioctl(MULTIKERNEL_IOCTL_EVENTS)
 * @size:	Input; sizeof(struct multikernel_ioctl_events)
 * @flags:	Input; 0
 * @fd:		Output; a new file descriptor (O_CLOEXEC) from which the events
 *		of all instances are read, from now on
 * @reserved:	Input; 0
 */
struct multikernel_ioctl_events {
	__u32	size;
	__u32	flags;
	__s32	fd;
	__u32	reserved;
};

#define MULTIKERNEL_IOCTL_EVENTS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_EVENTS)

/**
 * struct multikernel_event - What read(2) returns: an instance changed its state
 * @sequence:	counts the events of this host, from 1
 * @time_ns:	when it was, CLOCK_MONOTONIC, in nanoseconds
 * @lost:	how many earlier events this fd was to return and did not,
 *		because it was not read for too long. In nearly all events 0.
 * @id:		the instance
 * @epoch:	how often it has been started
 * @state:	its new state, MULTIKERNEL_STATE_*
 * @reason:	MULTIKERNEL_REASON_*
 * @name:	its name
 *
 * read(2) returns as many whole events as there are and fit; EINVAL if not even
 * one fits. It waits for the first one, with O_NONBLOCK it fails with EAGAIN
 * instead. It returns 0 when the fd's instance has been destroyed and all of
 * its events have been read.
 */
struct multikernel_event {
	__aligned_u64 sequence;
	__aligned_u64 time_ns;
	__aligned_u64 lost;
	__u32	id;
	__u32	epoch;
	__u32	state;
	__u32	reason;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
};

/* An arena that is opened, or granted, only to be read */
#define MULTIKERNEL_ARENA_READ_ONLY	0x1

/**
 * struct multikernel_ioctl_arena_create - ioctl(MULTIKERNEL_IOCTL_ARENA_CREATE)
 * @size:	Input; sizeof(struct multikernel_ioctl_arena_create)
 * @flags:	Input; %MULTIKERNEL_RANGE_FIXED, %MULTIKERNEL_RANGE_BELOW_4G or
 *		%MULTIKERNEL_RANGE_ABOVE_4G
 * @name:	Input; name of the arena, of the form of an instance's
 * @base:	Input with %MULTIKERNEL_RANGE_FIXED, else 0; Output; its physical
 *		address
 * @bytes:	Input; how long it is, a multiple of %MULTIKERNEL_MEMORY_ALIGN; not 0
 * @nid:	Input; NUMA node, -1 for any
 * @fd:		Output; a new file descriptor (O_CLOEXEC) for it, as
 *		%MULTIKERNEL_IOCTL_ARENA_OPEN gives
 *
 * Takes one contiguous range from the pool, where all memory is zero. The arena
 * is there until it is removed, or the host ends.
 */
struct multikernel_ioctl_arena_create {
	__u32	size;
	__u32	flags;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 base;
	__aligned_u64 bytes;
	__s32	nid;
	__s32	fd;
};

#define MULTIKERNEL_IOCTL_ARENA_CREATE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_ARENA_CREATE)

/**
 * struct multikernel_ioctl_arena_open - ioctl(MULTIKERNEL_IOCTL_ARENA_OPEN)
 * @size:	Input; sizeof(struct multikernel_ioctl_arena_open)
 * @flags:	Input; %MULTIKERNEL_ARENA_READ_ONLY or 0
 * @name:	Input; the arena's name
 * @bytes:	Output; how long it is
 * @fd:		Output; a new file descriptor (O_CLOEXEC) for it
 * @reserved:	Input; 0
 *
 * The only call about arenas that there is in a spawn kernel too, which asks
 * its host: EACCES if the arena was not granted to the instance, or is to be
 * written to and was granted only to be read. EBUSY also if the spawn asks for
 * too many at the same time. The errors of %MULTIKERNEL_IOCTL_CALL tell of a
 * host that cannot be asked; ECONNREFUSED of one that knows no arenas.
 *
 * The fd can be mmap(2)ed, MAP_SHARED, at any offset of whole pages, up to the
 * arena's end: EINVAL otherwise. It may be passed to other processes. Stores go
 * to the memory itself, through the caches of the CPUs, which are coherent; there
 * is no page cache and nothing to be synchronised. Large pages are used where
 * address and offset are both multiples of their size, as the kernel chooses
 * the address. The pages are bare frames: O_DIRECT, futexes between processes
 * and whatever else needs a struct page fail on them (EFAULT). They are not in
 * core dumps. read(2) and write(2) fail with EINVAL.
 *
 * As long as an fd or a mapping of it is there, the arena is open.
 */
struct multikernel_ioctl_arena_open {
	__u32	size;
	__u32	flags;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 bytes;
	__s32	fd;
	__u32	reserved;
};

#define MULTIKERNEL_IOCTL_ARENA_OPEN \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_ARENA_OPEN)

/**
 * struct multikernel_ioctl_arena_remove - ioctl(MULTIKERNEL_IOCTL_ARENA_REMOVE)
 * @size:	Input; sizeof(struct multikernel_ioctl_arena_remove)
 * @flags:	Input; 0
 * @name:	Input; the arena's name
 *
 * Zeroes the arena's memory and gives it back to the pool; its grants go with
 * it. EBUSY while it is open on the host, or granted to an instance that runs
 * or is Failed, whether that has it open or not.
 */
struct multikernel_ioctl_arena_remove {
	__u32	size;
	__u32	flags;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
};

#define MULTIKERNEL_IOCTL_ARENA_REMOVE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_ARENA_REMOVE)

/**
 * struct multikernel_ioctl_arena_grant - ioctl(MULTIKERNEL_IOCTL_ARENA_GRANT, _REVOKE)
 * @size:	Input; sizeof(struct multikernel_ioctl_arena_grant)
 * @flags:	Input; %MULTIKERNEL_ARENA_READ_ONLY or 0; 0 for revoke
 * @name:	Input; the arena's name
 * @id:		Input; the instance's id
 * @reserved:	Input; 0
 *
 * Grant lets an instance open the arena, from now on, in this and all further
 * lives, until it is revoked or the instance is destroyed. Granted again, it is
 * as was said last; EBUSY if an instance that runs would lose the right to
 * write.
 *
 * Revoke takes that back: EACCES if it was not granted; EBUSY while the instance
 * runs or is Failed, or owns a session in the arena.
 */
struct multikernel_ioctl_arena_grant {
	__u32	size;
	__u32	flags;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__u32	id;
	__u32	reserved;
};

#define MULTIKERNEL_IOCTL_ARENA_GRANT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_ARENA_GRANT)
#define MULTIKERNEL_IOCTL_ARENA_REVOKE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_ARENA_REVOKE)

/**
 * struct multikernel_ioctl_arena_resize - ioctl(MULTIKERNEL_IOCTL_ARENA_RESIZE)
 * @size:	Input; sizeof(struct multikernel_ioctl_arena_resize)
 * @flags:	Input; 0
 * @name:	Input; the arena's name
 * @bytes:	Input; how long it is to be, a multiple of
 *		%MULTIKERNEL_MEMORY_ALIGN; not 0
 *
 * What is in the arena stays, as far as there is room for it; what is added is
 * zero, and what is taken away is zeroed. Without free memory behind it, it is
 * copied to other memory of its NUMA node, for which the pool has to have room
 * (ENOSPC). EBUSY as for %MULTIKERNEL_IOCTL_ARENA_REMOVE.
 */
struct multikernel_ioctl_arena_resize {
	__u32	size;
	__u32	flags;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 bytes;
};

#define MULTIKERNEL_IOCTL_ARENA_RESIZE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_ARENA_RESIZE)

/**
 * struct multikernel_arena - One arena in the list of MULTIKERNEL_IOCTL_LIST_ARENAS
 * @name:	its name
 * @base:	physical address
 * @bytes:	how long it is
 * @nid:	NUMA node, -1 if none
 * @id:		its number, which no other arena has or will have
 * @grants:	to how many instances it is granted
 * @files:	how many files of the host have it open; one that was duplicated or
 *		passed on counts once
 */
struct multikernel_arena {
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 base;
	__aligned_u64 bytes;
	__s32	nid;
	__u32	id;
	__u32	grants;
	__u32	files;
};

/**
 * struct multikernel_arena_grant - One element of MULTIKERNEL_IOCTL_LIST_GRANTS
 * @arena:	the arena's number
 * @id:		the instance's id
 * @flags:	%MULTIKERNEL_ARENA_READ_ONLY or 0
 * @reserved:	0
 */
struct multikernel_arena_grant {
	__u32	arena;
	__u32	id;
	__u32	flags;
	__u32	reserved;
};

/* Both take struct multikernel_ioctl_list. */
#define MULTIKERNEL_IOCTL_LIST_ARENAS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LIST_ARENAS)
#define MULTIKERNEL_IOCTL_LIST_GRANTS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LIST_GRANTS)

/**
 * DOC: Sessions
 *
 * A session is what one kernel hands to another: entries, each a key and bytes,
 * pages, or the contents of a memfd. It is in an arena, whose name it has, and
 * has one owner: the host or an instance, in all of its lives. Only the owner
 * gets at it. Its kernel offers it, and it becomes the other's when that has
 * accepted and committed; until then whatever dies leaves it with the old owner.
 * The words are those of &liveupdate.h where that has the same thing.
 */

/**
 * struct multikernel_ioctl_session - ioctl(MULTIKERNEL_IOCTL_SESSION_CREATE, _OPEN,
 *	_ACCEPT, _REMOVE)
 * @size:	Input; sizeof(struct multikernel_ioctl_session)
 * @flags:	Input; 0; %MULTIKERNEL_SESSION_SEIZE with _OPEN on the host
 * @name:	Input; the session's name, which is its arena's
 * @ticket:	Output; the number of the offer that stands, 0 if none does
 * @timeout_ms:	Input; how long _ACCEPT waits for an offer; 0 does not wait
 * @fd:		Output; a new file descriptor (O_CLOEXEC) for the session; -1 from
 *		_REMOVE
 *
 * On the host and in a spawn kernel. A session is open once in a kernel at a
 * time: EBUSY.
 *
 * _CREATE makes a session without entries in an arena, and loses what was in it.
 * An instance needs to be granted the arena, to be written to (EACCES). EEXIST:
 * there is one. EBUSY: the arena is open on the host, or granted to another
 * instance that is running; or, in a spawn kernel, it has the arena open or as
 * persistent memory itself, in which case _OPEN and _ACCEPT fail likewise. From
 * then on it cannot be opened as an arena, nor resized or removed (EBUSY).
 *
 * _OPEN opens one that this kernel, or an earlier life of it, owns (EACCES). If
 * it was offered it is still, see @ticket. With %MULTIKERNEL_SESSION_SEIZE the
 * host first takes it from an instance that is not running (EBUSY).
 *
 * _ACCEPT opens one that is offered to this kernel, to be looked at; it is this
 * kernel's with %MULTIKERNEL_IOCTL_SESSION_COMMIT. Whatever closes the file
 * before leaves it with the owner. What is in the arena was written by another
 * kernel, and is checked: EUCLEAN, and EPROTONOSUPPORT if this kernel does not
 * know the version or an entry's kind; the log says why, the offer is called off.
 * EACCES: there is a session, and it is not offered to this kernel. ENOENT: there
 * is none. Both, after @timeout_ms, ETIMEDOUT.
 *
 * _REMOVE leaves the arena without a session. Only the owner can do that (EACCES),
 * and not while it is offered or open (EBUSY).
 */
struct multikernel_ioctl_session {
	__u32	size;
	__u32	flags;
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 ticket;
	__u32	timeout_ms;
	__s32	fd;
};

#define MULTIKERNEL_IOCTL_SESSION_CREATE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_CREATE)
#define MULTIKERNEL_IOCTL_SESSION_OPEN \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_OPEN)
#define MULTIKERNEL_IOCTL_SESSION_ACCEPT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_ACCEPT)
#define MULTIKERNEL_IOCTL_SESSION_REMOVE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_REMOVE)

/* The host takes the session from its owner, which is not running. */
#define MULTIKERNEL_SESSION_SEIZE	0x1

/* How it stands with a session, or with an offer. */
#define MULTIKERNEL_SESSION_OWNED	0 /* not offered to anybody */
#define MULTIKERNEL_SESSION_OFFERED	1 /* offered, not accepted */
#define MULTIKERNEL_SESSION_ACCEPTED	2 /* accepted, not committed */
#define MULTIKERNEL_SESSION_COMMITTED	3 /* an offer: it is the other's now */
#define MULTIKERNEL_SESSION_ABORTED	4 /* an offer: the owner has kept it */

/**
 * struct multikernel_session - One session in the list of
 *	MULTIKERNEL_IOCTL_LIST_SESSIONS, which the host has
 * @name:	its name
 * @bytes:	how long its arena is
 * @ticket:	the number of the offer that stands, 0 if none does
 * @owner:	the instance that owns it, 0 is the host
 * @to:		to which instance it is offered, 0 is the host, if it is
 * @state:	%MULTIKERNEL_SESSION_OWNED, _OFFERED or _ACCEPTED
 * @reserved:	0
 */
struct multikernel_session {
	__u8	name[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 bytes;
	__aligned_u64 ticket;
	__u32	owner;
	__u32	to;
	__u32	state;
	__u32	reserved;
};

/* Takes struct multikernel_ioctl_list. */
#define MULTIKERNEL_IOCTL_LIST_SESSIONS \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_LIST_SESSIONS)

/* Kinds of an entry */
#define MULTIKERNEL_ENTRY_BYTES		1 /* bytes */
#define MULTIKERNEL_ENTRY_PAGES		2 /* pages that processes map */
#define MULTIKERNEL_ENTRY_MEMFD		3 /* the contents of a memfd, or of a file */

/* The most entries of a session, and the most bytes of an entry that is bytes. */
#define MULTIKERNEL_ENTRIES_MAX		511
#define MULTIKERNEL_ENTRY_BYTES_MAX	0x100000

/**
 * struct multikernel_ioctl_session_entry - ioctl(MULTIKERNEL_IOCTL_SESSION_PUT, _GET,
 *	_DELETE)
 * @size:	Input; sizeof(struct multikernel_ioctl_session_entry)
 * @kind:	Input of _PUT, else 0; Output; MULTIKERNEL_ENTRY_*
 * @key:	Input; 1 to 63 bytes that are not zero, and zeroes to the end
 * @address:	Input; user address of the bytes of %MULTIKERNEL_ENTRY_BYTES, or of
 *		room for them; with %MULTIKERNEL_PUT_PRESERVED a token; else 0
 * @length:	Input; how many bytes there are, or fit, at @address, or how many
 *		bytes of pages there are to be; Output; how many there are
 * @fd:		Input with %MULTIKERNEL_ENTRY_MEMFD; a file to be read from its
 *		beginning to its end (_PUT), or written from its beginning (_GET);
 *		Output with %MULTIKERNEL_ENTRY_PAGES; a new file descriptor
 *		(O_CLOEXEC) of @length bytes for mmap(2)
 * @flags:	Input; 0; %MULTIKERNEL_PUT_PRESERVED with _PUT and
 *		%MULTIKERNEL_ENTRY_MEMFD
 *
 * _PUT and _DELETE need a session that is the caller's and not offered (EBUSY; when
 * it has gone to another ESTALE); _GET also works on one that has been accepted,
 * and its pages are read-only then. _PUT puts an entry in the place of one of the
 * same key at once, whatever ends the kernel meanwhile; ENOSPC if there is no room
 * for both. Pages are zero, and begin at a multiple of 2 MiB if they are as many.
 * Neither _PUT nor _DELETE takes away pages while any are open (EBUSY).
 * A file is a regular one (EINVAL), open to be read with _PUT and to be written with
 * _GET (EBADF).
 *
 * With %MULTIKERNEL_PUT_PRESERVED @fd is a session of /dev/liveupdate (EINVAL), and the
 * file the one that was preserved there, or retrieved from there, with the token
 * @address (ENOENT); it stays preserved. EOPNOTSUPP: the kernel has no such sessions.
 */
struct multikernel_ioctl_session_entry {
	__u32	size;
	__u32	kind;
	__u8	key[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 address;
	__aligned_u64 length;
	__s32	fd;
	__u32	flags;
};

#define MULTIKERNEL_IOCTL_SESSION_PUT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_PUT)
#define MULTIKERNEL_IOCTL_SESSION_GET \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_GET)
#define MULTIKERNEL_IOCTL_SESSION_DELETE \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_DELETE)

/* The file is one that a session of /dev/liveupdate preserves. */
#define MULTIKERNEL_PUT_PRESERVED	0x1

/**
 * struct multikernel_session_entry - One entry in the list of
 *	MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES
 * @key:	its key
 * @length:	how many bytes it has
 * @kind:	MULTIKERNEL_ENTRY_*
 * @reserved:	0
 */
struct multikernel_session_entry {
	__u8	key[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 length;
	__u32	kind;
	__u32	reserved;
};

/* Takes struct multikernel_ioctl_list. */
#define MULTIKERNEL_IOCTL_SESSION_LIST_ENTRIES \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_LIST_ENTRIES)

/**
 * struct multikernel_ioctl_session_offer - ioctl(MULTIKERNEL_IOCTL_SESSION_OFFER)
 * @size:	Input; sizeof(struct multikernel_ioctl_session_offer)
 * @flags:	Input; 0
 * @to:		Input; name of the instance; all zero is the host
 * @ticket:	Output; the number of the offer
 *
 * From then on the session cannot be changed, and its entries not be got (EBUSY),
 * until the offer has been called off. No pages of it may be open (EBUSY). EACCES:
 * the session has another owner; ENOENT: there is no such instance; EINVAL: it is
 * the owner; EBUSY: it is offered to another. To offer it to the same one again
 * changes nothing.
 */
struct multikernel_ioctl_session_offer {
	__u32	size;
	__u32	flags;
	__u8	to[MULTIKERNEL_NAME_LENGTH];
	__aligned_u64 ticket;
};

#define MULTIKERNEL_IOCTL_SESSION_OFFER \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_OFFER)

/**
 * struct multikernel_ioctl_session_step - ioctl(MULTIKERNEL_IOCTL_SESSION_COMMIT,
 *	_ABORT, _WAIT)
 * @size:	Input; sizeof(struct multikernel_ioctl_session_step)
 * @flags:	Input; 0
 * @timeout_ms:	Input; how long _WAIT waits, else 0
 * @state:	Output; MULTIKERNEL_SESSION_*
 *
 * _COMMIT makes a session that was accepted the caller's. ESTALE: the offer has
 * been called off; EACCES: the caller has offered it. _ABORT calls off an offer,
 * by its owner or by who has accepted it. ESTALE: it has been committed. Both may
 * be called again, and say the same: after EINTR, ETIMEDOUT or EPIPE they have to
 * be, as the step may have been made.
 *
 * _WAIT waits until the offer that was made or accepted by this file has been
 * committed or called off, and says which in @state. EINVAL: there is none;
 * ETIMEDOUT. The host may commit for who has accepted: see
 * %MULTIKERNEL_IOCTL_EXCHANGE_NAMES.
 */
struct multikernel_ioctl_session_step {
	__u32	size;
	__u32	flags;
	__u32	timeout_ms;
	__u32	state;
};

#define MULTIKERNEL_IOCTL_SESSION_COMMIT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_COMMIT)
#define MULTIKERNEL_IOCTL_SESSION_ABORT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_ABORT)
#define MULTIKERNEL_IOCTL_SESSION_WAIT \
	_IO(MULTIKERNEL_IOCTL_TYPE, MULTIKERNEL_CMD_SESSION_WAIT)

#endif /* _UAPI_LINUX_MULTIKERNEL_H */
