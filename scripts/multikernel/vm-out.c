// SPDX-License-Identifier: GPL-2.0
/*
 * vm-out FILE: gives a file to the build machine, much faster than a serial
 * line does. The machine has an ivshmem-plain device, whose memory is a file
 * out there (see check_dump in scripts/multikernel/check); this copies FILE to
 * its start.
 */
#include <err.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Device id of ivshmem, as /sys has it; the memory is its BAR 2. */
#define IVSHMEM "0x1110\n"

static int open_memory(void)
{
	char id[sizeof(IVSHMEM)], path[256];
	glob_t devices;
	size_t i;

	if (glob("/sys/bus/pci/devices/*", 0, NULL, &devices))
		return -1;
	for (i = 0; i < devices.gl_pathc; i++) {
		FILE *file;
		int ours;

		snprintf(path, sizeof(path), "%s/device", devices.gl_pathv[i]);
		file = fopen(path, "r");
		if (!file)
			continue;
		ours = fgets(id, sizeof(id), file) && !strcmp(id, IVSHMEM);
		fclose(file);
		if (ours) {
			snprintf(path, sizeof(path), "%s/resource2", devices.gl_pathv[i]);
			return open(path, O_RDWR);
		}
	}
	return -1;
}

int main(int argc, char **argv)
{
	struct stat from, to;
	char *memory;
	ssize_t got;
	off_t done;
	int in, out;

	if (argc != 2)
		errx(2, "usage: vm-out FILE");
	in = open(argv[1], O_RDONLY);
	if (in < 0 || fstat(in, &from))
		err(1, "%s", argv[1]);
	out = open_memory();
	if (out < 0 || fstat(out, &to))
		err(1, "the memory of an ivshmem device");
	if (from.st_size > to.st_size)
		errx(1, "%s has %lld bytes, the device %lld", argv[1],
		     (long long)from.st_size, (long long)to.st_size);
	memory = mmap(NULL, from.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	for (done = 0; done < from.st_size; done += got) {
		got = read(in, memory + done, from.st_size - done);
		if (got <= 0)
			err(1, "read");
	}
	return 0;
}
