// SPDX-License-Identifier: GPL-2.0
/*
 * interrupt: kills a command at one of its system calls.
 *
 * interrupt count COMMAND...: prints how many system calls it makes.
 * interrupt before N COMMAND...: kills it by SIGKILL as it begins the Nth, which
 *	is not made.
 * interrupt within N MICROSECONDS COMMAND...: kills it so long after the Nth has
 *	begun, which is in the middle of that call if it takes longer.
 *
 * The last two print the call's number and end with status 0 if it was killed,
 * and with status 1 if it had fewer calls. killed.sh and upgrade.sh run this.
 *
 * interrupt from IOCTL ...: counts from the first ioctl(2) of that number on.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a stop for a system call is told from others by. */
#define SYSCALL_STOP	(SIGTRAP | 0x80)

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(2);
}

static pid_t start(char **command)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		fail("fork");
	if (!pid) {
		/* Its own end, by whatever, is not the tracer's. */
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(127);
		raise(SIGSTOP);
		execvp(command[0], command);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
		fail("waitpid");
	if (ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))
		fail("PTRACE_SETOPTIONS");
	return pid;
}

/*
 * Goes on to the next entry of a system call, and returns its number, or -1 if
 * there is none any more; then *status says how the command ended.
 */
static long next_entry(pid_t pid, int *status, unsigned long *command)
{
	struct __ptrace_syscall_info info;
	int signal = 0;

	while (1) {
		if (ptrace(PTRACE_SYSCALL, pid, NULL, signal))
			fail("PTRACE_SYSCALL");
		if (waitpid(pid, status, 0) != pid)
			fail("waitpid");
		if (!WIFSTOPPED(*status))
			return -1;
		signal = WSTOPSIG(*status);
		if (signal == SIGTRAP)
			signal = 0;	/* after execve() */
		if (signal != SYSCALL_STOP)
			continue;
		signal = 0;
		if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) < 0)
			fail("PTRACE_GET_SYSCALL_INFO");
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
			*command = info.entry.nr == SYS_ioctl ? info.entry.args[1] : 0;
			return info.entry.nr;
		}
	}
}

/* The same, but the first is the ioctl of this number; any if that is 0. */
static long next_call(pid_t pid, int *status, unsigned long *from)
{
	unsigned long command;
	long call;

	do {
		call = next_entry(pid, status, &command);
	} while (call >= 0 && *from && command != *from);
	*from = 0;
	return call;
}

int main(int argc, char **argv)
{
	long count = 0, wanted, call;
	unsigned long from = 0;
	int status, within;
	pid_t pid;

	if (argc > 3 && !strcmp(argv[1], "from")) {
		from = strtoul(argv[2], NULL, 0);
		argv += 2;
		argc -= 2;
	}
	if (argc > 2 && !strcmp(argv[1], "count")) {
		pid = start(argv + 2);
		while (next_call(pid, &status, &from) >= 0)
			count++;
		printf("%ld\n", count);
		return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
	}
	within = argc > 4 && !strcmp(argv[1], "within");
	if (!within && (argc < 4 || strcmp(argv[1], "before"))) {
		fprintf(stderr, "interrupt [from IOCTL] count|before N|within N US COMMAND...\n");
		return 2;
	}
	wanted = strtol(argv[2], NULL, 10);
	pid = start(argv + 3 + within);
	do {
		call = next_call(pid, &status, &from);
		if (call < 0) {
			printf("it had %ld calls\n", count);
			return 1;
		}
	} while (++count < wanted);
	if (within) {
		if (ptrace(PTRACE_CONT, pid, NULL, NULL))
			fail("PTRACE_CONT");
		usleep(strtoul(argv[3], NULL, 10));
	}
	if (kill(pid, SIGKILL))
		fail("kill");
	/* All that it was doing in the kernel has come to its end. */
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
		ptrace(PTRACE_CONT, pid, NULL, NULL);
	printf("call %ld of the kernel, its %ldth\n", call, count);
	return !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}
