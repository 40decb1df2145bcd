/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Several kernels side by side on one machine: what C code calls of it.
 */
#ifndef _LINUX_MULTIKERNEL_H
#define _LINUX_MULTIKERNEL_H

#include <linux/errno.h>
#include <linux/kexec.h>
#include <linux/types.h>
#include <uapi/linux/multikernel.h>

/**
 * DOC: Messages of kernels
 *
 * Kernels that have a link (Documentation/multikernel/messaging.rst) send each
 * other messages by ports. On the host the other kernel is named by the id of
 * its instance, in a spawn kernel it is the host, whose id is 0. CPUs go by the
 * numbers that the other kernel gives them.
 *
 * Ports 0x100 to 0xffff are for kernels. One that is registered takes messages from
 * all links, those that come later included.
 */

/**
 * struct multikernel_message - a message that has come
 * @data:	what was sent, a copy that nobody changes; any bytes
 * @length:	bytes at @data
 * @answer:	where the answer goes, if it is a call; NULL if not
 * @answer_size: room at @answer in bytes, 256
 * @instance:	id of the instance that it comes from, 0 for the host
 * @cpu:	the CPU that sent it, as the other kernel says
 * @port:	the port that it came to
 * @reserved:	0
 *
 * It and what it points at are the handler's until that returns.
 */
struct multikernel_message {
	const void	*data;
	size_t		length;
	void		*answer;
	size_t		answer_size;
	u32		instance;
	u32		cpu;
	u32		port;
	u32		reserved;
};

/**
 * typedef multikernel_handler_t - takes the messages of a port
 * @message:	what has come
 * @priv:	as it was registered
 *
 * Context: Softirq or process context, with interrupts off and a spinlock held,
 * on the CPU that the message was sent to or one that stands in for it; on
 * several CPUs at the same time. It must be short, must not sleep, and calls
 * nothing of this header.
 * Return: Of a call, how many bytes of answer there are, or a negative errno,
 * which the caller gets; else it is not looked at.
 */
typedef int (*multikernel_handler_t)(const struct multikernel_message *message, void *priv);

#ifdef CONFIG_MULTIKERNEL
/**
 * multikernel_register_port - take the messages of a port
 * @port:	a number from 0x100 to 0xffff
 * @handler:	called for each
 * @priv:	passed to @handler
 *
 * Context: Process context. May sleep.
 * Return: 0, %-EINVAL if there is no such port or no handler, %-EADDRINUSE if
 * somebody has it, %-EOPNOTSUPP if this kernel takes no messages, %-ENOMEM.
 */
int multikernel_register_port(u32 port, multikernel_handler_t handler, void *priv);

/**
 * multikernel_unregister_port - take a port back
 * @port:	one that the caller has registered
 *
 * When it returns, the handler is at work on no CPU and will not be called
 * again. Calls that come later are answered with %-ECONNREFUSED.
 *
 * Context: Process context. May sleep. Not to be called by a handler.
 */
void multikernel_unregister_port(u32 port);

/**
 * multikernel_send - send a message
 * @instance:	id of the instance to send to; 0, the host, in a spawn kernel
 * @cpu:	CPU to send to, or %MULTIKERNEL_CPU_ANY
 * @port:	port to send to
 * @data:	what to send
 * @length:	bytes at @data, up to 1784
 *
 * It does not wait for room, nor for the receiver. Messages of one CPU to one
 * CPU arrive in the order in which they were sent.
 *
 * Context: Process context. May sleep.
 * Return: 0, %-EAGAIN if there is no room at the moment, or %-EMSGSIZE,
 * %-ENOENT (no such instance), %-EALREADY (it does not run), %-ENOTCONN,
 * %-EPROTONOSUPPORT, %-EPIPE, %-EPROTO, %-EINVAL (no such CPU) as listed in
 * include/uapi/linux/multikernel.h.
 */
int multikernel_send(u32 instance, u32 cpu, u32 port, const void *data, size_t length);

/**
 * multikernel_call - send a message and wait for its answer
 * @instance:	id of the instance to call; 0, the host, in a spawn kernel
 * @cpu:	CPU to call, or %MULTIKERNEL_CPU_ANY
 * @port:	port to call
 * @request:	what to send
 * @length:	bytes at @request, up to %MULTIKERNEL_CALL_MAX
 * @answer:	where the answer goes
 * @answer_size: room at @answer in bytes
 * @timeout_ms:	how long to wait, 1 ms to one hour
 *
 * Context: Process context. Sleeps.
 * Return: Bytes of the answer, or a negative errno: what the handler returned,
 * what multikernel_send() can return but %-EAGAIN, %-EMSGSIZE (also if the
 * answer does not fit), %-ECONNREFUSED (nobody has the port), %-EBUSY (too many
 * calls wait), %-ETIMEDOUT, %-EINTR (a signal), %-EINVAL, %-ENOMEM.
 */
ssize_t multikernel_call(u32 instance, u32 cpu, u32 port, const void *request, size_t length,
			 void *answer, size_t answer_size, unsigned int timeout_ms);

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
static inline int
multikernel_register_port(u32 port, multikernel_handler_t handler, void *priv)
{
	return -EOPNOTSUPP;
}

static inline void multikernel_unregister_port(u32 port)
{
}

static inline int
multikernel_send(u32 instance, u32 cpu, u32 port, const void *data, size_t length)
{
	return -EOPNOTSUPP;
}

static inline ssize_t
multikernel_call(u32 instance, u32 cpu, u32 port, const void *request, size_t length,
		 void *answer, size_t answer_size, unsigned int timeout_ms)
{
	return -EOPNOTSUPP;
}

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
