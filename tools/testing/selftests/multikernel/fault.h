/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For tests that make the host fail: what must be the same before and after a
 * call that did, and the switches.
 */
#ifndef SELFTEST_MULTIKERNEL_FAULT_H
#define SELFTEST_MULTIKERNEL_FAULT_H

#include "host.h"

#define DEBUGFS		"/sys/kernel/debug/"

struct snapshot {
	struct ledger ledger;
	struct multikernel_ioctl_host_info host;
	struct info info;
	int fds;
};

/* @instance may be one that is not there: then its id is 0. */
void snapshot_take(int device, const struct instance *instance, struct snapshot *snapshot);
/* Says on standard output what differs. */
bool snapshot_same(const struct snapshot *before, const struct snapshot *after);

int write_text(const char *path, const char *text);
int write_number(const char *path, long number);

/* How many of the next answers of CPUs, and of those to a roll call, are missed. */
int miss_confirmations(unsigned int times);
int miss_roll_calls(unsigned int times);

#endif
