// SPDX-License-Identifier: GPL-2.0
/*
 * Takes memory until the kernel kills it, as the first of all processes.
 *
 * host_events.sh runs it.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHUNK	(16 * 1024 * 1024UL)

int main(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);

	if (fd < 0 || write(fd, "1000", 4) != 4) {
		perror("oom_score_adj");
		return 1;
	}
	while (1) {
		/* Filled with pages at once, whether anybody looks at them or not. */
		if (mmap(NULL, CHUNK, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED) {
			perror("mmap");
			return 1;
		}
	}
}
