// SPDX-License-Identifier: GPL-2.0
/*
 * hog: takes memory until the kernel kills it, as the first of all processes.
 * hog MEBIBYTES: takes memory until only that much is free, and keeps it so.
 *
 * host_events.sh runs it.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define CHUNK	(2 * 1024 * 1024UL)

static unsigned long free_bytes(void)
{
	struct sysinfo info;

	return sysinfo(&info) ? 0 : info.freeram * info.mem_unit;
}

int main(int argc, char **argv)
{
	unsigned long leave = argc > 1 ? strtoul(argv[1], NULL, 10) * 1024 * 1024 : 0;
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);

	if (fd < 0 || write(fd, "1000", 4) != 4) {
		perror("oom_score_adj");
		return 1;
	}
	while (1) {
		/* Others give back as well as take: what became free is taken, too. */
		while (leave && free_bytes() < leave + CHUNK)
			usleep(1000);
		/* Filled with pages at once, whether anybody looks at them or not. */
		if (mmap(NULL, CHUNK, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED) {
			perror("mmap");
			return 1;
		}
	}
}
