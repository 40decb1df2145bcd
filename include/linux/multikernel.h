/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Several kernels side by side on one machine: what C code calls of it.
 */
#ifndef _LINUX_MULTIKERNEL_H
#define _LINUX_MULTIKERNEL_H

#include <linux/errno.h>
#include <linux/kexec.h>
#include <uapi/linux/multikernel.h>

#ifdef CONFIG_MULTIKERNEL
/**
 * multikernel_kexec_load - kexec_load(2) into an instance
 * @entry:	physical address of a 64-bit entry inside the instance's memory
 * @nr_segments: number of @segments, at most %KEXEC_SEGMENT_MAX; 0 unloads
 * @segments:	the caller's array
 * @flags:	the flags of the system call, already checked; the instance id is
 *		in %KEXEC_MULTIKERNEL_ID_MASK
 *
 * The caller has made the capability, LSM and lockdown checks of kexec_load.
 *
 * Return: 0 or a negative errno as listed in include/uapi/linux/multikernel.h.
 */
long multikernel_kexec_load(unsigned long entry, unsigned long nr_segments,
			    const struct kexec_segment __user *segments,
			    unsigned long flags);

/* What kexec_load(2) lets through together with %KEXEC_MULTIKERNEL. */
#define MULTIKERNEL_KEXEC_FLAGS	(KEXEC_MULTIKERNEL | KEXEC_MULTIKERNEL_ID_MASK)
#else
static inline long
multikernel_kexec_load(unsigned long entry, unsigned long nr_segments,
		       const struct kexec_segment __user *segments,
		       unsigned long flags)
{
	return -EINVAL;
}

#define MULTIKERNEL_KEXEC_FLAGS	0
#endif

#endif /* _LINUX_MULTIKERNEL_H */
