// SPDX-License-Identifier: GPL-2.0
/*
 * What modules may call of c_api.rs and handover/c_api.rs: Rust has no EXPORT_SYMBOL().
 */
#include <linux/build_bug.h>
#include <linux/export.h>
#include <linux/multikernel.h>
#include <linux/stddef.h>

/* These files assert the same of their own. */
static_assert(sizeof(struct multikernel_message) == 48);
static_assert(offsetof(struct multikernel_message, answer) == 16);
static_assert(offsetof(struct multikernel_message, instance) == 32);
static_assert(offsetof(struct multikernel_message, port) == 40);
static_assert(sizeof(struct multikernel_pages) == 32);
static_assert(offsetof(struct multikernel_pages, length) == 8);
static_assert(offsetof(struct multikernel_pages, writable) == 16);
static_assert(offsetof(struct multikernel_pages, keeper) == 24);

EXPORT_SYMBOL_GPL(multikernel_register_port);
EXPORT_SYMBOL_GPL(multikernel_unregister_port);
EXPORT_SYMBOL_GPL(multikernel_send);
EXPORT_SYMBOL_GPL(multikernel_call);
EXPORT_SYMBOL_GPL(multikernel_session_create);
EXPORT_SYMBOL_GPL(multikernel_session_open);
EXPORT_SYMBOL_GPL(multikernel_session_accept);
EXPORT_SYMBOL_GPL(multikernel_session_close);
EXPORT_SYMBOL_GPL(multikernel_session_remove);
EXPORT_SYMBOL_GPL(multikernel_session_put);
EXPORT_SYMBOL_GPL(multikernel_session_put_pages);
EXPORT_SYMBOL_GPL(multikernel_session_get);
EXPORT_SYMBOL_GPL(multikernel_session_map);
EXPORT_SYMBOL_GPL(multikernel_arena_map);
EXPORT_SYMBOL_GPL(multikernel_unmap);
EXPORT_SYMBOL_GPL(multikernel_session_delete);
EXPORT_SYMBOL_GPL(multikernel_session_offer);
EXPORT_SYMBOL_GPL(multikernel_session_commit);
EXPORT_SYMBOL_GPL(multikernel_session_abort);
EXPORT_SYMBOL_GPL(multikernel_session_wait);
