// SPDX-License-Identifier: GPL-2.0
/*
 * A module that uses include/linux/multikernel.h, for c_api.sh.
 *
 * It has a port that answers a call with its bytes inverted, and counts other
 * messages. Writing to its parameters has it use the port of the same number in
 * another kernel:
 *
 *   call	"INSTANCE CPU COUNT BYTES": makes calls, and looks at the answers
 *   send	"INSTANCE CPU COUNT": sends messages
 *
 * INSTANCE is 0 in a spawn, CPU -1 for any. The file's writer gets the errno of
 * what failed.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/multikernel.h>
#include <linux/sched.h>
#include <linux/slab.h>

#define PORT		0xff00
/* A port of the subsystem itself. */
#define PORT_TAKEN	1
#define TIMEOUT_MS	60000

static atomic_t calls, messages;
/* What the handler is registered with. */
static u32 canary = 0x5a5aa5a5;

static unsigned int delay_us;
module_param(delay_us, uint, 0600);
MODULE_PARM_DESC(delay_us, "how long the handler takes at least, up to 1000");

static int handle(const struct multikernel_message *message, void *priv)
{
	const u8 *data = message->data;
	u8 *answer = message->answer;
	size_t i;

	if (*(u32 *)priv != canary || message->port != PORT)
		return -EIO;
	udelay(min(delay_us, 1000U));
	if (!answer) {
		atomic_inc(&messages);
		return 0;
	}
	atomic_inc(&calls);
	if (message->length > message->answer_size)
		return -E2BIG;
	for (i = 0; i < message->length; i++)
		answer[i] = ~data[i];
	return message->length;
}

/* Makes one call, and looks at the answer. */
static int call_once(u32 instance, u32 cpu, u8 *request, u8 *answer, size_t bytes, u8 seed)
{
	ssize_t got;
	size_t i;

	for (i = 0; i < bytes; i++)
		request[i] = seed + i * 7;
	got = multikernel_call(instance, cpu, PORT, request, bytes, answer, bytes, TIMEOUT_MS);
	if (got < 0)
		return got;
	if (got != bytes)
		return -EBADMSG;
	for (i = 0; i < bytes; i++)
		if (answer[i] != (u8)~request[i])
			return -EBADMSG;
	return 0;
}

static int set_call(const char *value, const struct kernel_param *param)
{
	u32 instance, count, bytes, i;
	u8 *request, *answer;
	int cpu, ret = 0;

	if (sscanf(value, "%u %d %u %u", &instance, &cpu, &count, &bytes) != 4)
		return -EINVAL;
	if (bytes > 2 * MULTIKERNEL_CALL_MAX)
		return -EINVAL;
	request = kmalloc(2 * MULTIKERNEL_CALL_MAX, GFP_KERNEL);
	answer = kmalloc(2 * MULTIKERNEL_CALL_MAX, GFP_KERNEL);
	if (!request || !answer)
		ret = -ENOMEM;
	for (i = 0; i < count && !ret; i++) {
		ret = call_once(instance, cpu, request, answer, bytes, i);
		cond_resched();
	}
	kfree(request);
	kfree(answer);
	return ret;
}

static int set_send(const char *value, const struct kernel_param *param)
{
	u32 instance, count, i;
	int cpu, ret = 0;

	if (sscanf(value, "%u %d %u", &instance, &cpu, &count) != 3)
		return -EINVAL;
	for (i = 0; i < count && !ret; i++) {
		/* There is room again before long, as the receiver does not wait. */
		while ((ret = multikernel_send(instance, cpu, PORT, &i, sizeof(i))) == -EAGAIN) {
			if (signal_pending(current))
				return -EINTR;
			fsleep(1000);
		}
	}
	return ret;
}

static int get_count(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%d\n", atomic_read((atomic_t *)param->arg));
}

static const struct kernel_param_ops call_ops = { .set = set_call };
static const struct kernel_param_ops send_ops = { .set = set_send };
static const struct kernel_param_ops count_ops = { .get = get_count };

module_param_cb(call, &call_ops, NULL, 0200);
module_param_cb(send, &send_ops, NULL, 0200);
module_param_cb(calls, &count_ops, &calls, 0400);
MODULE_PARM_DESC(calls, "calls that were received");
module_param_cb(messages, &count_ops, &messages, 0400);
MODULE_PARM_DESC(messages, "other messages that were received");

static int __init expect(int expected, int got, const char *what)
{
	if (got == expected)
		return 0;
	pr_err("%s: %d, and not %d\n", what, got, expected);
	return -EIO;
}

/* What is refused, whether there is anybody to talk to or not. */
static int __init refused(void)
{
	u8 byte = 0;
	int ret = 0;

	ret |= expect(-EINVAL, multikernel_register_port(0, handle, NULL), "port 0");
	ret |= expect(-EINVAL, multikernel_register_port(PORT_TAKEN, handle, NULL),
		      "a port of the subsystem");
	ret |= expect(-EINVAL, multikernel_register_port(MULTIKERNEL_PORT_USER, handle, NULL),
		      "a port of programs");
	ret |= expect(-EINVAL, multikernel_register_port(PORT + 1, NULL, NULL), "no handler");
	ret |= expect(-EADDRINUSE, multikernel_register_port(PORT, handle, NULL), "twice");
	ret |= expect(-ENOENT, multikernel_send(MULTIKERNEL_ID_MAX, 0, PORT, &byte, 1),
		      "send to no instance");
	ret |= expect(-ENOENT, multikernel_call(MULTIKERNEL_ID_MAX, 0, PORT, &byte, 1, &byte, 1,
						1000), "call of no instance");
	ret |= expect(-EINVAL, multikernel_call(0, 0, PORT, &byte, 1, &byte, 1, 0), "no time");
	/* There is nothing to take back. */
	multikernel_unregister_port(PORT + 1);
	return ret;
}

static int __init multikernel_test_init(void)
{
	int ret = multikernel_register_port(PORT, handle, &canary);

	if (ret)
		return ret;
	ret = refused();
	if (ret)
		multikernel_unregister_port(PORT);
	return ret;
}

static void __exit multikernel_test_exit(void)
{
	multikernel_unregister_port(PORT);
	/* What the handler looks at: a call of it from now on would be seen. */
	canary = 0;
}

module_init(multikernel_test_init);
module_exit(multikernel_test_exit);

MODULE_DESCRIPTION("Test of messages between kernels");
MODULE_LICENSE("GPL");
