// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fault.h"

int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

int write_number(const char *path, long number)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", number);
	return write_text(path, text);
}

int miss_confirmations(unsigned int times)
{
	return write_number(DEBUGFS "multikernel/fail_confirm", times);
}

int miss_roll_calls(unsigned int times)
{
	return write_number(DEBUGFS "multikernel/fail_roll_call", times);
}

static int count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	if (!folder)
		return -1;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

void snapshot_take(int device, const struct instance *instance, struct snapshot *snapshot)
{
	memset(snapshot, 0, sizeof(*snapshot));
	ledger_read(device, &snapshot->ledger);
	snapshot->host.size = sizeof(snapshot->host);
	mk_ioctl(device, MULTIKERNEL_IOCTL_HOST_INFO, &snapshot->host);
	if (instance->id) {
		get_info(instance->fd, &snapshot->info);
		/* Where this process wanted the lists. */
		snapshot->info.get.cpus = 0;
		snapshot->info.get.ranges = 0;
	}
	snapshot->fds = count_fds();
}

bool snapshot_same(const struct snapshot *before, const struct snapshot *after)
{
	const struct multikernel_ioctl_get_info *was = &before->info.get, *is = &after->info.get;
	bool same = ledger_same(&before->ledger, &after->ledger);

	if (before->fds != after->fds) {
		printf("# %d file descriptors became %d\n", before->fds, after->fds);
		same = false;
	}
	if (memcmp(&before->host, &after->host, sizeof(before->host))) {
		printf("# CPUs %u, lent %u, features %#llx, bytes %llu became %u %u %#llx %llu\n",
		       before->host.cpus_online, before->host.cpus_lent, before->host.features,
		       before->host.kernel_bytes, after->host.cpus_online, after->host.cpus_lent,
		       after->host.features, after->host.kernel_bytes);
		same = false;
	}
	if (memcmp(was, is, sizeof(*was)) ||
	    memcmp(before->info.cpus, after->info.cpus, sizeof(before->info.cpus))) {
		printf("# state %u reason %u epoch %u entry %#llx became %u, %u, %u, %#llx\n",
		       was->state, was->reason, was->epoch, was->entry,
		       is->state, is->reason, is->epoch, is->entry);
		same = false;
	}
	return same;
}
