// SPDX-License-Identifier: GPL-2.0
/*
 * port_test: programs that talk over ports, for ports.sh.
 *
 * port_test serve: in a spawn, serves the ports below, for ever.
 * port_test serve ID: the same for another spawn, that of instance ID.
 * port_test CASE ID: on the host, does one thing with the server in instance ID.
 *	Says what it did; status 0 if all was as it should be. In a spawn, ID is
 *	"host".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <linux/multikernel.h>

#include "../kselftest.h"

/* Returns each message as it was. */
#define PORT_ECHO	(MULTIKERNEL_PORT_USER + 0)
/* Takes messages, slowly at first; one byte 0xff is answered with what came. */
#define PORT_SINK	(MULTIKERNEL_PORT_USER + 1)
/* An unsigned int is answered with so many messages, as fast as they go. */
#define PORT_SOURCE	(MULTIKERNEL_PORT_USER + 2)
/* A message has the server close the port for a moment. */
#define PORT_CLOSE	(MULTIKERNEL_PORT_USER + 3)
/* As PORT_ECHO, but a while later. */
#define PORT_LATE	(MULTIKERNEL_PORT_USER + 4)
/* The server is never there. */
#define PORT_ALONE	(MULTIKERNEL_PORT_USER + 5)

#define LONGEST		1784
#define DEADLINE_MS	60000

struct tally {
	unsigned int count;
	unsigned int wrong;
	unsigned long long bytes;
};

static int fail(const char *format, ...)
{
	int error = errno;
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(" (errno %d, %s)\n", error, strerror(error));
	exit(1);
}

static int open_port(int fd, unsigned int port)
{
	struct multikernel_ioctl_open_port request = { .size = sizeof(request), .port = port };

	return ioctl(fd, MULTIKERNEL_IOCTL_OPEN_PORT, &request) ? -1 : request.fd;
}

static int open_device(void)
{
	int fd = open("/dev/multikernel", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail("/dev/multikernel");
	return fd;
}

/* Message @number has a length and bytes of its own. */
static size_t compose(unsigned char *message, unsigned int number)
{
	size_t length = 1 + (number * 7919u) % LONGEST, i;

	for (i = 0; i < length; i++)
		message[i] = number + i * 31;
	return length;
}

static bool is_message(const unsigned char *message, ssize_t length, unsigned int number)
{
	unsigned char expected[LONGEST];

	return length == (ssize_t)compose(expected, number) &&
	       !memcmp(message, expected, length);
}

static void must_write(int fd, const void *message, size_t length)
{
	if (write(fd, message, length) != (ssize_t)length)
		fail("write of %zu bytes", length);
}

static void wait_for(int fd, short events)
{
	struct pollfd poller = { .fd = fd, .events = events };

	if (poll(&poller, 1, DEADLINE_MS) != 1 || !(poller.revents & events))
		fail("poll for %#x said %#x", events, poller.revents);
}

/* Nobody has the other end: what tells of the next one is another look. */
static void wait_for_opener(void)
{
	usleep(20000);
}

/* In the spawn ---------------------------------------------------------------- */

static void echo(int device, unsigned int port, unsigned int microseconds)
{
	int fd = open_port(device, port);
	char message[LONGEST];
	ssize_t length;

	while ((length = read(fd, message, sizeof(message))) >= 0) {
		if (!length) {
			wait_for_opener();
		} else {
			usleep(microseconds);
			must_write(fd, message, length);
		}
	}
	fail("echo");
}

static void serve_echo(int device)
{
	echo(device, PORT_ECHO, 0);
}

static void serve_late(int device)
{
	echo(device, PORT_LATE, 100000);
}

static void serve_sink(int device)
{
	int fd = open_port(device, PORT_SINK);
	unsigned char message[LONGEST];
	struct tally tally = { 0 };
	ssize_t length;

	while ((length = read(fd, message, sizeof(message))) >= 0) {
		if (!length) {
			memset(&tally, 0, sizeof(tally));
			wait_for_opener();
		} else if (length == 1 && message[0] == 0xff) {
			must_write(fd, &tally, sizeof(tally));
			memset(&tally, 0, sizeof(tally));
		} else {
			/* So that the writer has no credit for a while. */
			if (tally.count < 5)
				usleep(20000);
			tally.wrong += !is_message(message, length, tally.count);
			tally.count++;
			tally.bytes += length;
		}
	}
	fail("sink");
}

static void serve_source(int device)
{
	int fd = open_port(device, PORT_SOURCE);
	unsigned char message[LONGEST];
	unsigned int count, i;
	ssize_t length;

	while ((length = read(fd, &count, sizeof(count))) >= 0) {
		if (!length) {
			wait_for_opener();
			continue;
		}
		for (i = 0; i < count; i++)
			must_write(fd, message, compose(message, i));
	}
	fail("source");
}

static void serve_close(int device)
{
	char message[LONGEST];
	int fd;

	while (1) {
		fd = open_port(device, PORT_CLOSE);
		if (fd < 0)
			fail("open");
		while (read(fd, message, sizeof(message)) <= 0)
			wait_for_opener();
		must_write(fd, "last words", 10);
		close(fd);
		usleep(500000);
	}
}

static int serve(int device)
{
	static void (*const servers[])(int device) = {
		serve_echo, serve_sink, serve_source, serve_close, serve_late,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (!pid)
			servers[i](device);
	}
	return 0;
}

/* On the host ----------------------------------------------------------------- */

static int instance;

static int connect_to(unsigned int port)
{
	int fd = open_port(instance, port);

	if (fd < 0)
		fail("port %u", port);
	return fd;
}

static void receive_number(int fd, unsigned int number)
{
	unsigned char message[LONGEST];
	ssize_t length;

	wait_for(fd, POLLIN);
	length = read(fd, message, sizeof(message));
	if (!is_message(message, length, number))
		fail("message %u came with %zd bytes", number, length);
}

/* Messages of all lengths come back as they were. */
static int case_echo(void)
{
	unsigned char message[LONGEST];
	int fd = connect_to(PORT_ECHO);
	unsigned int i;

	for (i = 0; i < 2 * LONGEST; i++) {
		must_write(fd, message, compose(message, i));
		receive_number(fd, i);
	}
	printf("%u messages there and back\n", i);
	return 0;
}

/* Many go without waiting for the answer, and all arrive in order. */
static int case_sink(void)
{
	unsigned char message[LONGEST];
	int fd = connect_to(PORT_SINK);
	unsigned int i, waits = 0;
	struct tally tally;

	if (fcntl(fd, F_SETFL, O_NONBLOCK))
		fail("O_NONBLOCK");
	for (i = 0; i < 20000; i++) {
		size_t length = compose(message, i);

		/* What could be taken for the question. */
		if (length == 1 && message[0] == 0xff)
			fail("message %u", i);
		while (write(fd, message, length) < 0) {
			if (errno != EAGAIN)
				fail("message %u", i);
			waits++;
			wait_for(fd, POLLOUT);
		}
	}
	if (fcntl(fd, F_SETFL, 0))
		fail("blocking");
	message[0] = 0xff;
	must_write(fd, message, 1);
	wait_for(fd, POLLIN);
	if (read(fd, &tally, sizeof(tally)) != sizeof(tally))
		fail("the tally");
	printf("%u of %u came, %u wrong, %llu bytes, %u waits for credit\n", tally.count, i,
	       tally.wrong, tally.bytes, waits);
	return !(tally.count == i && !tally.wrong && waits);
}

/* The same in the other direction, with a writer who blocks. */
static int case_source(void)
{
	int fd = connect_to(PORT_SOURCE);
	unsigned int count = 20000, i;

	must_write(fd, &count, sizeof(count));
	/* It runs out of credit meanwhile. */
	usleep(200000);
	for (i = 0; i < count; i++)
		receive_number(fd, i);
	printf("%u came\n", i);
	return 0;
}

/* The other end is closed and opened again. */
static int case_close(void)
{
	int fd = connect_to(PORT_CLOSE), round, looks;
	char message[64];
	ssize_t length;

	for (round = 0; round < 3; round++) {
		must_write(fd, "close", 5);
		/* From the second round on it is still closed. */
		for (looks = 0; looks < DEADLINE_MS; looks++) {
			wait_for(fd, POLLIN);
			length = read(fd, message, sizeof(message));
			if (length)
				break;
			usleep(1000);
		}
		if (length != 10 || memcmp(message, "last words", 10))
			fail("last words of %zd bytes", length);
		wait_for(fd, POLLHUP);
		if (read(fd, message, sizeof(message)))
			fail("no end");
		/* Opened again: what is written now is read by the next one. */
	}
	printf("%d times\n", round);
	return 0;
}

/* What a port fd cannot be asked for changes nothing. */
static int case_errors(void)
{
	struct multikernel_ioctl_open_port request = {
		.size = sizeof(request), .port = PORT_ALONE, .flags = 1,
	};
	char message[LONGEST + 1] = "";
	int fd, twice, i;

	if (!ioctl(instance, MULTIKERNEL_IOCTL_OPEN_PORT, &request) || errno != EINVAL)
		fail("flags");
	request.flags = 0;
	request.size = 4;
	if (!ioctl(instance, MULTIKERNEL_IOCTL_OPEN_PORT, &request) || errno != EINVAL)
		fail("size");
	if (open_port(instance, MULTIKERNEL_PORT_USER - 1) >= 0 || errno != EINVAL)
		fail("a port of the kernel");
	fd = connect_to(PORT_ALONE);
	twice = open_port(instance, PORT_ALONE);
	if (twice >= 0 || errno != EADDRINUSE)
		fail("twice");
	if (fcntl(fd, F_SETFL, O_NONBLOCK))
		fail("O_NONBLOCK");
	if (read(fd, message, sizeof(message)) >= 0 || errno != EAGAIN)
		fail("nothing to read");
	if (write(fd, message, LONGEST + 1) >= 0 || errno != EMSGSIZE)
		fail("too long");
	if (write(fd, message, 0) >= 0 || errno != EINVAL)
		fail("empty");
	if (write(fd, NULL, 8) >= 0 || errno != EFAULT)
		fail("bad address");
	/* Nobody reads: a lane of 64 slots is full at some time. */
	for (i = 0; write(fd, message, LONGEST) > 0; i++)
		;
	if (errno != EAGAIN || i < 1 || i > 4)
		fail("%d messages went", i);
	if (close(fd))
		fail("close");
	fd = connect_to(PORT_ALONE);
	printf("opened again\n");
	return close(fd);
}

/* Opened again on another CPU, a reader who waits is woken there. */
static int case_move(void)
{
	char message[16] = "there and back";
	int round, fd;
	cpu_set_t set;

	for (round = 0; round < 6; round++) {
		CPU_ZERO(&set);
		CPU_SET(round % 2, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			fail("CPU %d", round % 2);
		fd = connect_to(PORT_LATE);
		must_write(fd, message, sizeof(message));
		/* The answer comes later than that. */
		if (read(fd, message, sizeof(message)) != sizeof(message))
			fail("round %d", round);
		close(fd);
	}
	printf("%d times\n", round);
	return 0;
}

/* Reads until the other kernel has gone. */
static int case_end(void)
{
	int fd = connect_to(PORT_ECHO);
	char message[8];

	printf("waiting\n");
	fflush(stdout);
	if (read(fd, message, sizeof(message)))
		fail("no end");
	if (write(fd, message, sizeof(message)) >= 0 || errno != EPIPE)
		fail("it can still be written");
	printf("ended\n");
	return 0;
}

/* A kernel that does wrong ------------------------------------------------------ */

static volatile sig_atomic_t over;

static void on_signal(int number)
{
	if (number == SIGTERM)
		over = 1;
}

/* For each thing that is tried: it must not take as long as this. */
#define WATCHDOG_S	40

static bool is_one_of(int error, const int *errors, unsigned int count)
{
	while (count--)
		if (errors[count] == error)
			return true;
	return false;
}

/* What a port may be refused with, or a read or write, whatever the other kernel does. */
static void must_be_refusal(const char *what)
{
	static const int errors[] = {
		EAGAIN, EINTR, EPIPE, EPROTO, ENOTCONN, EALREADY, EBUSY, ENOSPC,
	};

	if (!is_one_of(errno, errors, ARRAY_SIZE(errors)))
		fail("%s", what);
}

static int call_port(unsigned int port, unsigned int cpu, unsigned int timeout_ms, size_t bytes)
{
	unsigned char request[MULTIKERNEL_CALL_MAX] = "", answer[MULTIKERNEL_CALL_MAX];
	struct multikernel_ioctl_call call = {
		.size = sizeof(call),
		.port = port,
		.cpu = cpu,
		.timeout_ms = timeout_ms,
		.request_bytes = bytes,
		.answer_bytes = sizeof(answer),
		.request = (unsigned long)request,
		.answer = (unsigned long)answer,
	};

	return ioctl(instance, MULTIKERNEL_IOCTL_CALL, &call);
}

/* Whatever the answer is, it comes or does not in time. */
static void torment_calls(void)
{
	unsigned int i;

	for (i = 0; !over; i++) {
		alarm(WATCHDOG_S);
		call_port(MULTIKERNEL_PORT_ECHO, i % 3 ? i % 2 : MULTIKERNEL_CPU_ANY, 20,
			  (i * 97) % MULTIKERNEL_CALL_MAX);
	}
}

static void torment_port(void)
{
	struct pollfd poller = { .events = POLLIN | POLLOUT };
	unsigned char message[LONGEST];
	unsigned int i;
	int fd = -1;

	for (i = 0; !over; i++) {
		alarm(WATCHDOG_S);
		if (fd < 0) {
			fd = open_port(instance, PORT_ECHO);
			if (fd < 0) {
				must_be_refusal("open");
				usleep(1000);
				continue;
			}
			if (fcntl(fd, F_SETFL, O_NONBLOCK))
				fail("O_NONBLOCK");
		}
		if (write(fd, message, compose(message, i)) < 0)
			must_be_refusal("write");
		poller.fd = fd;
		if (poll(&poller, 1, 20) < 0)
			must_be_refusal("poll");
		if (read(fd, message, sizeof(message)) < 0)
			must_be_refusal("read");
		if (i % 16 == 0) {
			close(fd);
			fd = -1;
		}
	}
}

/* A reader who waits can be interrupted. */
static void torment_reader(void)
{
	struct itimerval every = { .it_interval.tv_usec = 50000, .it_value.tv_usec = 50000 };
	struct sigaction action = { .sa_handler = on_signal };
	char message[64];
	int fd;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (!over) {
		fd = open_port(instance, PORT_ALONE);
		if (fd < 0) {
			must_be_refusal("open");
			usleep(1000);
			continue;
		}
		if (read(fd, message, sizeof(message)) < 0)
			must_be_refusal("read");
		if (write(fd, message, sizeof(message)) < 0)
			must_be_refusal("write");
		close(fd);
	}
}

/*
 * Asks a kernel that may do anything for all there is, until SIGTERM: each call
 * returns in time, with one of the errnos that it has for that.
 */
static int case_torment(void)
{
	static void (*const jobs[])(void) = {
		torment_calls, torment_calls, torment_port, torment_reader,
	};
	struct sigaction action = { .sa_handler = on_signal };
	pid_t pids[ARRAY_SIZE(jobs)];
	int status, wrong = 0;
	unsigned int i;

	sigaction(SIGTERM, &action, NULL);
	for (i = 0; i < ARRAY_SIZE(jobs); i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			fail("fork");
		if (!pids[i]) {
			jobs[i]();
			exit(0);
		}
	}
	printf("at it\n");
	fflush(stdout);
	while (!over)
		if (wait(&status) >= 0 && !over) {
			printf("one has ended early, status %#x\n", status);
			wrong = 1;
			break;
		}
	/* Who hangs is not waited for. */
	alarm(2 * WATCHDOG_S);
	for (i = 0; i < ARRAY_SIZE(jobs); i++)
		kill(pids[i], SIGTERM);
	while (wait(&status) >= 0 || errno == EINTR)
		if (status) {
			printf("one ended with status %#x\n", status);
			wrong = 1;
		}
	return wrong;
}

/* A port that takes calls and answers none: where answers are sent to. */
#define PORT_DEAF	2

/* More calls than may wait for one kernel: some are told so, none has another errno. */
static int case_crowd(void)
{
	int i, status, busy = 0, late = 0;

	for (i = 0; i < 48; i++) {
		pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (!pid) {
			call_port(PORT_DEAF, 0, 10000, 8);
			exit(errno == EBUSY ? 1 : errno == ETIMEDOUT ? 2 : 3);
		}
	}
	for (i = 0; wait(&status) >= 0; i++) {
		busy += WEXITSTATUS(status) == 1;
		late += WEXITSTATUS(status) == 2;
		/* The first that are told find all places taken. */
		if (busy == 16 && !late) {
			printf("crowded\n");
			fflush(stdout);
		}
	}
	printf("%d were one too many, %d waited in vain\n", busy, late);
	return !(busy == 16 && late == 32);
}

/* The port of multikernel_test.ko, which inverts what it is called with. */
#define PORT_MODULE	0xff00

/* One call of it. */
static int case_refused(void)
{
	if (call_port(PORT_MODULE, MULTIKERNEL_CPU_ANY, DEADLINE_MS, 8))
		fail("call");
	return 0;
}

/* Calls a module that comes and goes: it answers, or nobody has the port. */
static int case_module(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	unsigned char request[200], answer[MULTIKERNEL_CALL_MAX];
	unsigned int answered = 0, refused = 0, i, j;

	sigaction(SIGTERM, &action, NULL);
	for (i = 0; !over; i++) {
		struct multikernel_ioctl_call call = {
			.size = sizeof(call),
			.port = PORT_MODULE,
			.cpu = i % 2,
			.timeout_ms = DEADLINE_MS,
			.request_bytes = 1 + i % sizeof(request),
			.answer_bytes = sizeof(answer),
			.request = (unsigned long)request,
			.answer = (unsigned long)answer,
		};

		for (j = 0; j < call.request_bytes; j++)
			request[j] = i + j * 13;
		if (!ioctl(instance, MULTIKERNEL_IOCTL_CALL, &call)) {
			if (call.answer_bytes != call.request_bytes)
				fail("call %u: %u bytes", i, call.answer_bytes);
			for (j = 0; j < call.request_bytes; j++)
				if (answer[j] != (unsigned char)~request[j])
					fail("call %u: byte %u", i, j);
			answered++;
		} else if (errno == ECONNREFUSED) {
			refused++;
		} else if (errno != EINTR || !over) {
			fail("call %u", i);
		}
	}
	printf("%u answered, %u refused\n", answered, refused);
	return !(answered && refused);
}

static int open_instance(const char *id)
{
	struct multikernel_ioctl_open request = {
		.size = sizeof(request),
		.id = strtoul(id, NULL, 10),
	};

	if (ioctl(open_device(), MULTIKERNEL_IOCTL_OPEN, &request))
		fail("instance %s", id);
	return request.fd;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} cases[] = {
		{ "echo", case_echo }, { "sink", case_sink }, { "source", case_source },
		{ "close", case_close }, { "errors", case_errors }, { "move", case_move },
		{ "end", case_end }, { "torment", case_torment }, { "crowd", case_crowd },
		{ "module", case_module }, { "refused", case_refused },
	};
	unsigned int i;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve(open_device());
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(open_instance(argv[2]));
	for (i = 0; argc == 3 && i < ARRAY_SIZE(cases); i++) {
		if (strcmp(argv[1], cases[i].name))
			continue;
		if (strcmp(argv[2], "host"))
			instance = open_instance(argv[2]);
		else
			instance = open_device();
		return cases[i].run();
	}
	fprintf(stderr, "port_test serve [ID]|CASE ID\n");
	return 2;
}
