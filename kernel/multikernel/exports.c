// SPDX-License-Identifier: GPL-2.0
/*
 * What modules may call of c_api.rs: Rust has no EXPORT_SYMBOL().
 */
#include <linux/build_bug.h>
#include <linux/export.h>
#include <linux/multikernel.h>
#include <linux/stddef.h>

/* c_api.rs asserts the same of its own. */
static_assert(sizeof(struct multikernel_message) == 48);
static_assert(offsetof(struct multikernel_message, answer) == 16);
static_assert(offsetof(struct multikernel_message, instance) == 32);
static_assert(offsetof(struct multikernel_message, port) == 40);

EXPORT_SYMBOL_GPL(multikernel_register_port);
EXPORT_SYMBOL_GPL(multikernel_unregister_port);
EXPORT_SYMBOL_GPL(multikernel_send);
EXPORT_SYMBOL_GPL(multikernel_call);
