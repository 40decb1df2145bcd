// SPDX-License-Identifier: GPL-2.0
/*
 * spawn_calls: what /dev/multikernel answers inside a spawn kernel, by errno.
 * messages.sh puts it into the spawn's initrd. Prints a line for what is not as
 * it should be, then "spawn_calls: N wrong".
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest.h"
#include "host.h"

/* A port that nobody has: the first that user space may open. */
#define NOBODY		0x10000

static int device, wrong;
static char request[MULTIKERNEL_CALL_MAX], answer[MULTIKERNEL_CALL_MAX];

static void expect(int expected, int got, const char *what)
{
	if (got == expected)
		return;
	printf("spawn_calls: %s: %d, and not %d\n", what, got, expected);
	wrong++;
}

static struct multikernel_ioctl_call echo(__u32 bytes)
{
	__u32 i;

	for (i = 0; i < sizeof(request); i++)
		request[i] = i * 5 + bytes;
	memset(answer, 0x5a, sizeof(answer));
	return (struct multikernel_ioctl_call) {
		.size = sizeof(struct multikernel_ioctl_call),
		.port = MULTIKERNEL_PORT_ECHO,
		.cpu = MULTIKERNEL_CPU_ANY,
		.timeout_ms = 20000,
		.request_bytes = bytes,
		.answer_bytes = sizeof(answer),
		.request = (uintptr_t)request,
		.answer = (uintptr_t)answer,
	};
}

#define EXPECT(err, field, value) do {						\
	struct multikernel_ioctl_call call = echo(8);				\
										\
	call.field = value;							\
	expect(err, mk_ioctl(device, MULTIKERNEL_IOCTL_CALL, &call), #field);	\
} while (0)

static void echoes(void)
{
	struct multikernel_ioctl_call call;
	__u32 bytes;
	int err;

	for (bytes = 0; bytes <= MULTIKERNEL_CALL_MAX; bytes++) {
		call = echo(bytes);
		err = mk_ioctl(device, MULTIKERNEL_IOCTL_CALL, &call);
		if (!err && (call.answer_bytes != bytes || memcmp(request, answer, bytes)))
			err = -EILSEQ;
		if (err) {
			printf("spawn_calls: %u bytes: %d\n", bytes, err);
			wrong++;
			return;
		}
	}
}

/* What is the host's to do is not known here. */
static void host_calls(void)
{
	struct multikernel_range range = any_range(UNIT);
	struct ledger ledger;
	__u32 cpu = 1;
	__u64 base;

	expect(-ENOTTY, ledger_read(device, &ledger), "list");
	expect(-ENOTTY, pool_grow(device, UNIT, &base), "grow");
	expect(-ENOTTY, create(device, "a", &cpu, 1, &range, 1, NULL), "create");
	expect(-ENOTTY, stop_force(device), "stop");
}

/* Nobody is linked with this spawn. */
static void no_siblings(void)
{
	struct multikernel_ioctl_connect connect = { .size = sizeof(connect), .id = 1 };
	struct multikernel_ioctl_open open = { .size = sizeof(open), .name = "nobody" };
	struct multikernel_ioctl_open wrong;
	int fd;

	expect(-ENOENT, open_by_id(device, 1, &fd), "open by id");
	expect(-ENOENT, open_by_id(device, MULTIKERNEL_ID_MAX + 1, &fd), "open by a high id");
	expect(-EINVAL, open_by_id(device, 0, &fd), "open without a name");
	expect(-ENOENT, mk_ioctl(device, MULTIKERNEL_IOCTL_OPEN, &open), "open by name");
	wrong = open;
	wrong.id = 1;
	expect(-EINVAL, mk_ioctl(device, MULTIKERNEL_IOCTL_OPEN, &wrong), "id and name");
	wrong = open;
	wrong.reserved = 1;
	expect(-EINVAL, mk_ioctl(device, MULTIKERNEL_IOCTL_OPEN, &wrong), "reserved");
	wrong = open;
	wrong.size--;
	expect(-EINVAL, mk_ioctl(device, MULTIKERNEL_IOCTL_OPEN, &wrong), "size");
	memset(wrong.name, 'x', sizeof(wrong.name));
	wrong.size = sizeof(wrong);
	expect(-ENAMETOOLONG, mk_ioctl(device, MULTIKERNEL_IOCTL_OPEN, &wrong), "name");
	expect(-ENOTTY, mk_ioctl(device, MULTIKERNEL_IOCTL_CONNECT, &connect), "connect");
}

static void unprivileged(void)
{
	struct multikernel_ioctl_call call = echo(8);
	int status = -1;
	pid_t pid = fork();

	if (!pid) {
		if (drop_cap_sys_boot())
			_exit(1);
		_exit(mk_ioctl(device, MULTIKERNEL_IOCTL_CALL, &call) == -EPERM ? 0 : 2);
	}
	waitpid(pid, &status, 0);
	expect(0, status, "without CAP_SYS_BOOT");
}

int main(void)
{
	struct multikernel_ioctl_call call;

	device = device_open();
	if (device < 0) {
		printf("spawn_calls: no device: %d\n", device);
		return 1;
	}
	EXPECT(-EINVAL, size, sizeof(call) - 1);
	EXPECT(-EINVAL, flags, 1);
	EXPECT(-EINVAL, reserved, 1);
	EXPECT(-EINVAL, port, 0);
	EXPECT(-EINVAL, timeout_ms, 0);
	EXPECT(-EINVAL, timeout_ms, 3600001);
	EXPECT(-EINVAL, cpu, 0xfffffffe);
	EXPECT(-EMSGSIZE, request_bytes, MULTIKERNEL_CALL_MAX + 1);
	EXPECT(-EFAULT, request, 0);
	EXPECT(-EFAULT, answer, 0);
	EXPECT(-ECONNREFUSED, port, NOBODY);
	EXPECT(0, cpu, 0);

	call = echo(100);
	call.answer_bytes = 99;
	expect(-EMSGSIZE, mk_ioctl(device, MULTIKERNEL_IOCTL_CALL, &call), "short answer");
	expect(100, call.answer_bytes, "how long it should be");

	echoes();
	host_calls();
	no_siblings();
	unprivileged();
	printf("spawn_calls: %d wrong\n", wrong);
	return wrong != 0;
}
