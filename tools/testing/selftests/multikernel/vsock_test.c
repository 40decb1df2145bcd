// SPDX-License-Identifier: GPL-2.0
/*
 * vsock_test: programs that talk by AF_VSOCK, for vsock.sh.
 *
 * vsock_test serve: serves the ports below, for ever, in the background.
 * vsock_test CASE CID: does one thing with the server of that address. Says what
 *	it did; status 0 if all was as it should be.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <linux/vm_sockets.h>

#include "../kselftest.h"

/* Returns what comes. */
#define PORT_ECHO	2000
/* Returns each record, SOCK_SEQPACKET. */
#define PORT_RECORDS	2001
/* Reads nothing until there is another connection, which gets the tally. */
#define PORT_HOLD	2002
/* Reads to the end, and then sends the tally. */
#define PORT_TALLY	2003
/* Sends as many bytes as the uint64_t says that comes first. */
#define PORT_SOURCE	2004
/* Nobody listens there. */
#define PORT_NOBODY	2005

#define DEADLINE_S	120
#define MEGABYTE	(1024 * 1024)

struct tally {
	uint64_t bytes;
	uint64_t wrong;
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

/* Byte @at of stream @seed. No two parts of it are alike for long. */
static unsigned char pattern(uint64_t at, unsigned int seed)
{
	return (at * 0x9e3779b97f4a7c15ull >> 56) + seed;
}

static void fill(unsigned char *buffer, size_t bytes, uint64_t at, unsigned int seed)
{
	size_t i;

	for (i = 0; i < bytes; i++)
		buffer[i] = pattern(at + i, seed);
}

static uint64_t count_wrong(const unsigned char *buffer, size_t bytes, uint64_t at,
			    unsigned int seed)
{
	uint64_t wrong = 0;
	size_t i;

	for (i = 0; i < bytes; i++)
		wrong += buffer[i] != pattern(at + i, seed);
	return wrong;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int new_socket(int type)
{
	struct timeval deadline = { .tv_sec = DEADLINE_S };
	int fd = socket(AF_VSOCK, type | SOCK_CLOEXEC, 0);

	if (fd < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline)) ||
	    setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &deadline, sizeof(deadline)))
		fail("socket");
	return fd;
}

static int try_connect(int fd, unsigned int cid, unsigned int port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = cid,
		.svm_port = port,
	};

	return connect(fd, (struct sockaddr *)&address, sizeof(address));
}

static int connect_to(int type, unsigned int cid, unsigned int port)
{
	int fd = new_socket(type);

	if (try_connect(fd, cid, port))
		fail("connect to %u:%u", cid, port);
	return fd;
}

static void must_write(int fd, const void *buffer, size_t bytes)
{
	while (bytes) {
		ssize_t wrote = write(fd, buffer, bytes);

		if (wrote <= 0)
			fail("write of %zu bytes", bytes);
		buffer += wrote;
		bytes -= wrote;
	}
}

static void must_read(int fd, void *buffer, size_t bytes)
{
	while (bytes) {
		ssize_t got = read(fd, buffer, bytes);

		if (got <= 0)
			fail("read of %zu bytes: %zd", bytes, got);
		buffer += got;
		bytes -= got;
	}
}

static void must_end(int fd)
{
	char byte;

	if (read(fd, &byte, 1))
		fail("not the end");
}

/* Reads to the end. */
static struct tally take_all(int fd, unsigned int seed)
{
	static unsigned char buffer[65536];
	struct tally tally = { 0 };
	ssize_t got;

	while ((got = read(fd, buffer, sizeof(buffer))) > 0) {
		tally.wrong += count_wrong(buffer, got, tally.bytes, seed);
		tally.bytes += got;
	}
	if (got < 0)
		fail("read after %llu bytes", (unsigned long long)tally.bytes);
	return tally;
}

static void send_pattern(int fd, uint64_t bytes, unsigned int seed)
{
	static unsigned char buffer[65536];
	uint64_t at;

	for (at = 0; at < bytes; at += sizeof(buffer)) {
		size_t some = bytes - at < sizeof(buffer) ? bytes - at : sizeof(buffer);

		fill(buffer, some, at, seed);
		must_write(fd, buffer, some);
	}
}

/* The server -------------------------------------------------------------------- */

static int listen_at(int type, unsigned int port)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_ANY,
		.svm_port = port,
	};
	int fd = socket(AF_VSOCK, type | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 128))
		fail("listen at %u", port);
	return fd;
}

static void serve_echo(int fd, int listener)
{
	static char buffer[65536];
	ssize_t got;

	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		must_write(fd, buffer, got);
}

static void serve_records(int fd, int listener)
{
	static char buffer[256 * 1024];
	ssize_t got;

	while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
		if (send(fd, buffer, got, MSG_EOR) != got)
			fail("record of %zd bytes", got);
}

static void serve_hold(int fd, int listener)
{
	int other = accept(listener, NULL, NULL);
	struct tally tally;

	if (other < 0)
		fail("accept");
	tally = take_all(fd, 1);
	must_write(other, &tally, sizeof(tally));
}

static void serve_tally(int fd, int listener)
{
	struct tally tally = take_all(fd, 2);

	must_write(fd, &tally, sizeof(tally));
}

static void serve_source(int fd, int listener)
{
	uint64_t bytes;

	must_read(fd, &bytes, sizeof(bytes));
	send_pattern(fd, bytes, 3);
}

static void serve_port(int listener, void (*serve)(int fd, int listener))
{
	int fd;

	signal(SIGCHLD, SIG_IGN);
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		if (serve == serve_hold) {
			serve(fd, listener);
		} else if (!fork()) {
			serve(fd, listener);
			exit(0);
		}
		close(fd);
	}
	fail("accept");
}

static int serve(void)
{
	static const struct {
		int type;
		unsigned int port;
		void (*serve)(int fd, int listener);
	} servers[] = {
		{ SOCK_STREAM, PORT_ECHO, serve_echo },
		{ SOCK_SEQPACKET, PORT_RECORDS, serve_records },
		{ SOCK_STREAM, PORT_HOLD, serve_hold },
		{ SOCK_STREAM, PORT_TALLY, serve_tally },
		{ SOCK_STREAM, PORT_SOURCE, serve_source },
	};
	unsigned int i;

	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < ARRAY_SIZE(servers); i++) {
		/* Before it is in the background: who starts it may connect then. */
		int listener = listen_at(servers[i].type, servers[i].port);
		pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (!pid) {
			setsid();
			serve_port(listener, servers[i].serve);
		}
		close(listener);
	}
	return 0;
}

/* The client -------------------------------------------------------------------- */

/* Pieces of many lengths come back as they were. */
static int case_echo(unsigned int cid)
{
	static unsigned char sent[200000], got[200000];
	int fd = connect_to(SOCK_STREAM, cid, PORT_ECHO);
	unsigned int length, pieces = 0;

	for (length = 1; length < sizeof(sent); length += 1 + length / 8) {
		fill(sent, length, 0, length);
		must_write(fd, sent, length);
		must_read(fd, got, length);
		if (memcmp(sent, got, length))
			fail("%u bytes are others", length);
		pieces++;
	}
	shutdown(fd, SHUT_WR);
	must_end(fd);
	printf("%u pieces there and back\n", pieces);
	return 0;
}

/* Records keep their boundaries, also those of many packets. */
static int case_records(unsigned int cid)
{
	static unsigned char sent[200000], got[256 * 1024];
	int fd = connect_to(SOCK_SEQPACKET, cid, PORT_RECORDS);
	unsigned int length, records = 0;

	for (length = 1; length < sizeof(sent); length += 1 + length / 3) {
		struct iovec part = { .iov_base = got, .iov_len = sizeof(got) };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
		ssize_t bytes;

		/* The second one waits behind the first. */
		fill(sent, length, 0, length);
		if (send(fd, sent, length, MSG_EOR) != length || send(fd, "next", 4, MSG_EOR) != 4)
			fail("record of %u bytes", length);
		bytes = recvmsg(fd, &message, 0);
		if (bytes != length || !(message.msg_flags & MSG_EOR) ||
		    memcmp(sent, got, length))
			fail("record of %u bytes came with %zd, flags %#x", length, bytes,
			     message.msg_flags);
		if (recv(fd, got, sizeof(got), 0) != 4 || memcmp(got, "next", 4))
			fail("the record behind that of %u bytes", length);
		records++;
	}
	shutdown(fd, SHUT_WR);
	must_end(fd);
	printf("%u records there and back\n", records);
	return 0;
}

/* Many connections at once, each with its own bytes. */
static int case_many(unsigned int cid)
{
	static unsigned char buffer[3000];
	unsigned int i, round;
	int fds[100];

	for (i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = connect_to(SOCK_STREAM, cid, PORT_ECHO);
	for (round = 0; round < 5; round++) {
		for (i = 0; i < ARRAY_SIZE(fds); i++) {
			fill(buffer, sizeof(buffer), round * sizeof(buffer), i);
			must_write(fds[i], buffer, sizeof(buffer));
		}
		for (i = ARRAY_SIZE(fds); i-- > 0;) {
			must_read(fds[i], buffer, sizeof(buffer));
			if (count_wrong(buffer, sizeof(buffer), round * sizeof(buffer), i))
				fail("connection %u has others' bytes", i);
		}
	}
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	printf("%u connections\n", i);
	return 0;
}

/* Sends and takes back @bytes at the same time. */
static int both_ways(unsigned int cid, uint64_t bytes, unsigned int seed)
{
	static unsigned char out[65536], in[65536];
	uint64_t sent = 0, got = 0, wrong = 0;
	int fd = connect_to(SOCK_STREAM, cid, PORT_ECHO);

	while (got < bytes) {
		struct pollfd poller = {
			.fd = fd,
			.events = POLLIN | (sent < bytes ? POLLOUT : 0),
		};
		ssize_t some;

		if (poll(&poller, 1, DEADLINE_S * 1000) != 1)
			fail("nothing goes after %llu and %llu bytes",
			     (unsigned long long)sent, (unsigned long long)got);
		if (poller.revents & POLLIN) {
			some = recv(fd, in, sizeof(in), MSG_DONTWAIT);
			if (some <= 0)
				fail("recv: %zd", some);
			wrong += count_wrong(in, some, got, seed);
			got += some;
		} else if (poller.revents & POLLOUT) {
			size_t length = bytes - sent < sizeof(out) ? bytes - sent : sizeof(out);

			fill(out, length, sent, seed);
			some = send(fd, out, length, MSG_DONTWAIT);
			if (some < 0 && errno != EAGAIN)
				fail("send");
			sent += some > 0 ? some : 0;
		} else {
			fail("poll said %#x", poller.revents);
		}
	}
	if (wrong)
		fail("%llu bytes are others", (unsigned long long)wrong);
	shutdown(fd, SHUT_WR);
	must_end(fd);
	close(fd);
	return 0;
}

/*
 * Megabytes both ways on several connections, while a reader at the other end
 * sleeps, who holds up his own writer only.
 */
static int case_load(unsigned int cid)
{
	static unsigned char buffer[65536];
	int held = connect_to(SOCK_STREAM, cid, PORT_HOLD), other, status = 0, i;
	struct tally tally;
	uint64_t sent = 0;
	pid_t pids[3];
	ssize_t some;

	/* As much as goes. */
	do {
		fill(buffer, sizeof(buffer), sent, 1);
		some = send(held, buffer, sizeof(buffer), MSG_DONTWAIT);
		sent += some > 0 ? some : 0;
	} while (some > 0 && sent < 64 * MEGABYTE);
	if (some > 0 || errno != EAGAIN)
		fail("%llu bytes to who does not read", (unsigned long long)sent);
	for (i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			fail("fork");
		if (!pids[i])
			exit(both_ways(cid, 2 * MEGABYTE, i + 10));
	}
	for (i = 0; i < ARRAY_SIZE(pids); i++) {
		int result;

		if (waitpid(pids[i], &result, 0) != pids[i] || result)
			status = 1;
	}
	/* He still sleeps. */
	if (send(held, "", 1, MSG_DONTWAIT) != -1 || errno != EAGAIN)
		fail("there is credit for who does not read");
	other = connect_to(SOCK_STREAM, cid, PORT_HOLD);
	shutdown(held, SHUT_WR);
	must_read(other, &tally, sizeof(tally));
	printf("%llu of %llu bytes came late, %llu wrong; beside them %d times 2 MB both ways\n",
	       (unsigned long long)tally.bytes, (unsigned long long)sent,
	       (unsigned long long)tally.wrong, i);
	return status || tally.bytes != sent || tally.wrong;
}

/* One direction ends, the other goes on. */
static int case_half(unsigned int cid)
{
	int fd = connect_to(SOCK_STREAM, cid, PORT_TALLY);
	struct tally tally;

	send_pattern(fd, 300000, 2);
	shutdown(fd, SHUT_WR);
	if (send(fd, "", 1, MSG_NOSIGNAL) != -1 || errno != EPIPE)
		fail("send after the end");
	must_read(fd, &tally, sizeof(tally));
	must_end(fd);
	printf("%llu bytes, %llu wrong\n", (unsigned long long)tally.bytes,
	       (unsigned long long)tally.wrong);
	return tally.bytes != 300000 || tally.wrong;
}

static int must_fail(unsigned int cid, unsigned int port, int error)
{
	int fd = new_socket(SOCK_STREAM);
	double begin = now();

	if (!try_connect(fd, cid, port) || errno != error)
		fail("connect to %u:%u, expected errno %d", cid, port, error);
	if (now() - begin > DEADLINE_S / 2)
		fail("it took its time");
	close(fd);
	printf("connect to %u:%u failed: %s\n", cid, port, strerror(error));
	return 0;
}

/* Nobody listens. */
static int case_refused(unsigned int cid)
{
	return must_fail(cid, PORT_NOBODY, ECONNRESET);
}

/* There is no such kernel. */
static int case_nobody(unsigned int cid)
{
	return must_fail(cid, PORT_ECHO, ENODEV);
}

static void must_be_reset(ssize_t result, const char *what)
{
	if (result != -1 || errno != ECONNRESET)
		fail("%s: %zd", what, result);
	printf("%s: %s\n", what, strerror(errno));
}

/* The other kernel ends: who reads and who writes is told. */
static int case_end(unsigned int cid)
{
	static char buffer[65536];
	int reader = connect_to(SOCK_STREAM, cid, PORT_ECHO);
	int writer = connect_to(SOCK_STREAM, cid, PORT_HOLD);
	int idle = connect_to(SOCK_STREAM, cid, PORT_ECHO);
	int records = connect_to(SOCK_SEQPACKET, cid, PORT_RECORDS);
	int i, result, status = 0;
	socklen_t length = sizeof(result);
	pid_t pids[2];

	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Some data is there to be read even after the end. */
	must_write(reader, "last words", 10);
	if (recv(reader, buffer, 10, MSG_PEEK | MSG_WAITALL) != 10)
		fail("nothing to peek at");
	for (i = 0; i < 2; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			fail("fork");
		if (pids[i])
			continue;
		if (i == 0) {
			must_read(reader, buffer, 10);
			printf("waiting for the end\n");
			must_be_reset(read(reader, buffer, 1), "who reads");
		} else {
			ssize_t wrote;

			do {
				wrote = write(writer, buffer, sizeof(buffer));
			} while (wrote > 0);
			must_be_reset(wrote, "who writes");
		}
		exit(0);
	}
	for (i = 0; i < 2; i++) {
		if (waitpid(pids[i], &result, 0) != pids[i] || result)
			status = 1;
	}
	must_be_reset(recv(idle, buffer, 1, 0), "who reads later");
	must_be_reset(send(writer, buffer, 1, 0), "who writes later");
	/* Who reads records finds the end, and why when he asks. */
	if (recv(records, buffer, sizeof(buffer), 0) ||
	    getsockopt(records, SOL_SOCKET, SO_ERROR, &result, &length) || result != ECONNRESET)
		fail("who reads records later");
	return status;
}

/* How many MB/s. */
static int case_rate(unsigned int cid)
{
	const uint64_t bytes = 8 * MEGABYTE;
	struct tally tally;
	double begin = now();
	int fd = connect_to(SOCK_STREAM, cid, PORT_TALLY), i;
	unsigned char byte = 0;

	send_pattern(fd, bytes, 2);
	shutdown(fd, SHUT_WR);
	must_read(fd, &tally, sizeof(tally));
	if (tally.bytes != bytes || tally.wrong)
		fail("%llu bytes came", (unsigned long long)tally.bytes);
	printf("CID %u: there %.2f MB/s", cid, bytes / 1e6 / (now() - begin));
	close(fd);

	begin = now();
	fd = connect_to(SOCK_STREAM, cid, PORT_SOURCE);
	must_write(fd, &bytes, sizeof(bytes));
	tally = take_all(fd, 3);
	if (tally.bytes != bytes || tally.wrong)
		fail("%llu bytes came", (unsigned long long)tally.bytes);
	printf(", back %.2f MB/s", bytes / 1e6 / (now() - begin));
	close(fd);

	fd = connect_to(SOCK_STREAM, cid, PORT_ECHO);
	begin = now();
	for (i = 0; i < 500; i++) {
		must_write(fd, &byte, 1);
		must_read(fd, &byte, 1);
	}
	printf(", a byte there and back %.0f us\n", (now() - begin) / i * 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(unsigned int cid);
	} cases[] = {
		{ "echo", case_echo }, { "records", case_records }, { "many", case_many },
		{ "load", case_load }, { "half", case_half }, { "refused", case_refused },
		{ "nobody", case_nobody }, { "end", case_end }, { "rate", case_rate },
	};
	unsigned int i;

	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	for (i = 0; argc == 3 && i < ARRAY_SIZE(cases); i++)
		if (!strcmp(argv[1], cases[i].name))
			return cases[i].run(atoi(argv[2]));
	fprintf(stderr, "usage: vsock_test serve | CASE CID\n");
	return 2;
}
