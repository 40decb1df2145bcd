/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Several kernels side by side on one machine: what C code calls of it.
 */
#ifndef _LINUX_MULTIKERNEL_H
#define _LINUX_MULTIKERNEL_H

#include <linux/err.h>
#include <linux/errno.h>
#include <linux/kexec.h>
#include <linux/math64.h>
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

/**
 * DOC: State that goes from kernel to kernel
 *
 * An arena is memory with a name that outlives the kernels which use it; a
 * session is a set of entries in one, keys with their contents, that one kernel
 * owns and hands to another: it offers the session, the other accepts it, looks
 * at it, and commits. Whatever ends at whatever moment, one of the two owns it
 * (Documentation/multikernel/handover.rst). Names have 1 to 63 characters of
 * a-z, A-Z, 0-9, '.', '_' and '-'; a session has that of its arena. Keys are 1 to
 * 63 bytes.
 *
 * The functions are called in process context and sleep, or may. Those that ask
 * the host return in a spawn kernel also %-ENOTCONN, %-EPIPE, %-ETIMEDOUT and
 * %-EINTR; what was asked for may have been done then. It can be asked for again;
 * only a session that was to be made is there then (%-EEXIST), and to be removed.
 *
 * What other kernels may be writing to, mapped memory for instance, is copied
 * before it is passed to one of them.
 */

struct multikernel_open_session;

/**
 * struct multikernel_pages - memory of an arena that this kernel has mapped
 * @address:	where it is; a multiple of 4096, write-back cached
 * @length:	bytes
 * @writable:	whether it may be written to
 * @keeper:	for multikernel_unmap()
 *
 * Other kernels may be writing to it at the same time: what matters is copied
 * once, checked, and then used.
 */
struct multikernel_pages {
	void	*address;
	u64	length;
	bool	writable;
	void	*keeper;
};

/**
 * multikernel_pages_at - an element of mapped memory
 * @pages:	memory that is mapped
 * @index:	of the element
 * @size:	bytes of each element; not 0
 *
 * Return: Where it is, NULL if it is not inside.
 */
static inline void *
multikernel_pages_at(const struct multikernel_pages *pages, u64 index, size_t size)
{
	return index < div64_u64(pages->length, size) ? pages->address + index * size : NULL;
}

/**
 * multikernel_pages_as - mapped memory as an array
 * @pages:	memory that is mapped
 * @type:	type of the elements, which any bytes make a valid one of
 * @index:	of the element
 *
 * Return: A pointer to the element, NULL if it is not inside.
 */
#define multikernel_pages_as(pages, type, index) \
	((type *)multikernel_pages_at(pages, index, sizeof(type)))

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
 * multikernel_session_create - make a session in the arena of its name
 * @name:	name of the arena and of the session
 *
 * Whatever was in the arena is not there any more.
 *
 * Return: The session, which this kernel owns, until multikernel_session_close();
 * or an error pointer: %-EINVAL (no name), %-ENAMETOOLONG, %-ENOENT (no such
 * arena), %-EEXIST (there is a session), %-EBUSY (the arena is in use, or the
 * session open), %-EACCES (this kernel was not granted the arena),
 * %-EOPNOTSUPP, %-ENOMEM.
 */
struct multikernel_open_session *multikernel_session_create(const char *name);

/**
 * multikernel_session_open - open a session that this kernel owns
 * @name:	its name
 *
 * Return: As multikernel_session_create(); %-ENOENT if there is no such session,
 * %-EACCES if it is another's, %-EUCLEAN or %-EPROTONOSUPPORT if what is in it
 * makes no sense, of which the log has the reason.
 */
struct multikernel_open_session *multikernel_session_open(const char *name);

/**
 * multikernel_session_accept - look at a session that another kernel offers
 * @name:	its name
 * @timeout_ms:	how long to wait for an offer; 0: there is one already
 *
 * It can be read from now on. It is this kernel's with multikernel_session_commit().
 *
 * Return: As multikernel_session_open(); %-EACCES if it is not offered to this
 * kernel, %-ETIMEDOUT if it was not in that time, %-EINTR (a signal).
 */
struct multikernel_open_session *
multikernel_session_accept(const char *name, unsigned int timeout_ms);

/**
 * multikernel_session_close - give back what create, open or accept returned
 * @session:	the session; not used again
 *
 * It stays whose it is. What was accepted and not committed stays the other's.
 */
void multikernel_session_close(struct multikernel_open_session *session);

/**
 * multikernel_session_remove - have a session be none any more
 * @name:	a session that this kernel owns, has not open and does not offer
 *
 * Return: 0, or as multikernel_session_open().
 */
int multikernel_session_remove(const char *name);

/**
 * multikernel_session_put - put bytes into a session
 * @session:	one that this kernel owns and does not offer
 * @key:	the entry's key; an entry of the same key goes at the same instant
 * @data:	the bytes, which are copied
 * @length:	how many, up to %MULTIKERNEL_ENTRY_BYTES_MAX
 *
 * Return: 0, or %-EINVAL, %-ENAMETOOLONG, %-ENOSPC (the arena or the table is
 * full), %-EBUSY (offered, accepted, or pages are mapped), %-ESTALE (it is
 * another's now), %-ENOMEM; nothing has changed then.
 */
int multikernel_session_put(struct multikernel_open_session *session, const char *key,
			    const void *data, size_t length);

/**
 * multikernel_session_put_pages - put zeroed pages into a session
 * @session:	as multikernel_session_put()
 * @key:	as there
 * @length:	bytes, a multiple of 4096
 *
 * Return: As multikernel_session_put().
 */
int multikernel_session_put_pages(struct multikernel_open_session *session, const char *key,
				  u64 length);

/**
 * multikernel_session_get - copy an entry's bytes
 * @session:	one that this kernel owns or has accepted
 * @key:	the entry's key
 * @data:	where to
 * @size:	room there
 *
 * Return: How many bytes the entry has, of which @size at most were copied;
 * %-ENOENT (no such entry), %-EINVAL (it is pages), %-EBUSY, %-ESTALE.
 */
ssize_t multikernel_session_get(struct multikernel_open_session *session, const char *key,
				void *data, size_t size);

/**
 * multikernel_session_map - have the pages of an entry
 * @session:	as multikernel_session_get()
 * @key:	the entry's key
 * @pages:	filled with where they are; writable if this kernel owns the session
 *
 * A session cannot be offered while pages of it are mapped.
 *
 * Return: 0, or %-ENOENT, %-EINVAL (it is no pages), %-EBUSY, %-ESTALE, %-ENOMEM.
 */
int multikernel_session_map(struct multikernel_open_session *session, const char *key,
			    struct multikernel_pages *pages);

/**
 * multikernel_arena_map - have an arena that no session is in
 * @name:	its name
 * @writable:	whether to write to it
 * @pages:	filled with where it is
 *
 * Return: 0, or %-ENOENT (no such arena), %-EACCES (not granted, or to be read
 * only), %-EBUSY (a session is in it, or it is being resized), %-EINVAL,
 * %-ENAMETOOLONG, %-ENOMEM.
 */
int multikernel_arena_map(const char *name, bool writable, struct multikernel_pages *pages);

/**
 * multikernel_unmap - give back mapped memory
 * @pages:	what multikernel_session_map() or multikernel_arena_map() has filled;
 *		the memory is not used again
 *
 * May be called after the session was closed. A second time it does nothing.
 */
void multikernel_unmap(struct multikernel_pages *pages);

/**
 * multikernel_session_delete - take an entry out of a session
 * @session:	as multikernel_session_put()
 * @key:	the entry's key
 *
 * Return: 0, %-ENOENT, or as multikernel_session_put().
 */
int multikernel_session_delete(struct multikernel_open_session *session, const char *key);

/**
 * multikernel_session_offer - offer a session to another kernel
 * @session:	one that this kernel owns
 * @to:		name of an instance, or NULL: the host
 *
 * It cannot be changed until the offer is called off.
 *
 * Return: 0, also if it was offered to the same kernel already; %-ENOENT (no such
 * instance), %-EBUSY (offered to another, or pages are mapped), %-EACCES or
 * %-ESTALE (it is another's), %-EINVAL (to itself).
 */
int multikernel_session_offer(struct multikernel_open_session *session, const char *to);

/**
 * multikernel_session_commit - own a session that was accepted
 * @session:	the session
 *
 * Return: 0, also if it was committed already; %-ESTALE if it was called off
 * before, %-EACCES if this kernel is the one that offers it.
 */
int multikernel_session_commit(struct multikernel_open_session *session);

/**
 * multikernel_session_abort - call an offer off, by either side
 * @session:	the session
 *
 * Return: 0, also if the owner has none that stands; %-ESTALE if it was committed
 * before, or if who had accepted it has called it off already.
 */
int multikernel_session_abort(struct multikernel_open_session *session);

/**
 * multikernel_session_wait - wait until an offer was committed or called off
 * @session:	the session, offered or accepted by this kernel
 * @timeout_ms:	how long
 *
 * Return: 1 if it was committed, 0 if it was called off, %-ETIMEDOUT, %-EINTR (a
 * signal), %-EINVAL or %-ESTALE if there is no offer, or its end was seen before.
 */
int multikernel_session_wait(struct multikernel_open_session *session, unsigned int timeout_ms);

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

static inline struct multikernel_open_session *multikernel_session_create(const char *name)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static inline struct multikernel_open_session *multikernel_session_open(const char *name)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static inline struct multikernel_open_session *
multikernel_session_accept(const char *name, unsigned int timeout_ms)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static inline void multikernel_session_close(struct multikernel_open_session *session)
{
}

static inline int multikernel_session_remove(const char *name)
{
	return -EOPNOTSUPP;
}

static inline int multikernel_session_put(struct multikernel_open_session *session, const char *key,
					  const void *data, size_t length)
{
	return -EOPNOTSUPP;
}

static inline int multikernel_session_put_pages(struct multikernel_open_session *session,
						const char *key, u64 length)
{
	return -EOPNOTSUPP;
}

static inline ssize_t multikernel_session_get(struct multikernel_open_session *session,
					      const char *key, void *data, size_t size)
{
	return -EOPNOTSUPP;
}

static inline int multikernel_session_map(struct multikernel_open_session *session, const char *key,
					  struct multikernel_pages *pages)
{
	return -EOPNOTSUPP;
}

static inline int
multikernel_arena_map(const char *name, bool writable, struct multikernel_pages *pages)
{
	return -EOPNOTSUPP;
}

static inline void multikernel_unmap(struct multikernel_pages *pages)
{
}

static inline int
multikernel_session_delete(struct multikernel_open_session *session, const char *key)
{
	return -EOPNOTSUPP;
}

static inline int
multikernel_session_offer(struct multikernel_open_session *session, const char *to)
{
	return -EOPNOTSUPP;
}

static inline int multikernel_session_commit(struct multikernel_open_session *session)
{
	return -EOPNOTSUPP;
}

static inline int multikernel_session_abort(struct multikernel_open_session *session)
{
	return -EOPNOTSUPP;
}

static inline int
multikernel_session_wait(struct multikernel_open_session *session, unsigned int timeout_ms)
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
