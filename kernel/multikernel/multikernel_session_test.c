// SPDX-License-Identifier: GPL-2.0
/*
 * A module that hands a session to another kernel, for c_api.sh.
 *
 * Writing to its parameters has it make the steps of a hand-over; the writer gets
 * the errno of what failed:
 *
 *   give	"NAME TO": makes a session in that arena, with entries, and offers
 *		it to that instance, "-" for the host
 *   given	"MS": waits for its end, and closes it: 0 if it was committed
 *   look	"NAME MS": accepts it, looks at the entries, and leaves it
 *   take	"NAME MS": accepts it, looks at them, commits, and changes them
 *   arena	"NAME": writes to an arena as records, and reads them again
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/multikernel.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>

#define BYTES		"state"
#define BYTES_LENGTH	70000
#define PAGES		"records"
#define PAGES_LENGTH	(64 << 10)
#define GONE		"gone"

/* What the pages are full of. */
struct record {
	u64 number;
	u64 inverted;
	u8 padding[48];
};

/* Guards the session that is offered. */
static DEFINE_MUTEX(lock);
static struct multikernel_open_session *offered;

static void fill_bytes(u8 *bytes, u8 seed)
{
	size_t i;

	for (i = 0; i < BYTES_LENGTH; i++)
		bytes[i] = seed + i * 13 + (i >> 8);
}

static int put_bytes(struct multikernel_open_session *session, u8 seed)
{
	u8 *bytes = kvmalloc(BYTES_LENGTH, GFP_KERNEL);
	int ret;

	if (!bytes)
		return -ENOMEM;
	fill_bytes(bytes, seed);
	ret = multikernel_session_put(session, BYTES, bytes, BYTES_LENGTH);
	kvfree(bytes);
	return ret;
}

static int check_bytes(struct multikernel_open_session *session, u8 seed)
{
	u8 *got = kvzalloc(BYTES_LENGTH, GFP_KERNEL);
	u8 *bytes = kvmalloc(BYTES_LENGTH, GFP_KERNEL);
	ssize_t length = -ENOMEM;

	if (got && bytes) {
		fill_bytes(bytes, seed);
		/* First with too little room, of which the rest stays as it is. */
		length = multikernel_session_get(session, BYTES, got, 100);
		if (length == BYTES_LENGTH && (memcmp(got, bytes, 100) || got[100]))
			length = -EBADMSG;
		else if (length == BYTES_LENGTH)
			length = multikernel_session_get(session, BYTES, got, BYTES_LENGTH);
		if (length == BYTES_LENGTH && memcmp(got, bytes, BYTES_LENGTH))
			length = -EBADMSG;
	}
	kvfree(bytes);
	kvfree(got);
	if (length < 0)
		return length;
	return length == BYTES_LENGTH ? 0 : -EBADMSG;
}

static void fill_records(const struct multikernel_pages *pages, u64 first)
{
	struct record *record;
	size_t i;

	for (i = 0; (record = multikernel_pages_as(pages, struct record, i)); i++) {
		record->number = first + i;
		record->inverted = ~(first + i);
	}
}

static int check_records(const struct multikernel_pages *pages, u64 first)
{
	struct record *record;
	size_t i;

	for (i = 0; (record = multikernel_pages_as(pages, struct record, i)); i++)
		if (record->number != first + i || record->inverted != ~(first + i))
			return -EBADMSG;
	return i == pages->length / sizeof(struct record) ? 0 : -EBADMSG;
}

static int expect(int expected, long got, const char *what)
{
	if (got == expected)
		return 0;
	pr_err("%s: %ld, and not %d\n", what, got, expected);
	return -EIO;
}

/* Puts the entries into a new session, and has it refuse what it must. */
static int fill(struct multikernel_open_session *session)
{
	struct multikernel_pages pages;
	char key[65] = "";
	u8 byte = 0;
	int ret;

	/* A byte more than keys may have. */
	memset(key, 'k', sizeof(key) - 1);
	ret = put_bytes(session, 1);
	if (!ret)
		ret = multikernel_session_put(session, GONE, &byte, 1);
	if (!ret)
		ret = multikernel_session_delete(session, GONE);
	if (!ret)
		ret = multikernel_session_put_pages(session, PAGES, PAGES_LENGTH);
	if (!ret)
		ret = multikernel_session_map(session, PAGES, &pages);
	if (ret)
		return ret;
	if (!pages.writable || pages.length != PAGES_LENGTH)
		ret = -EBADMSG;
	else
		fill_records(&pages, 1000);
	ret |= expect(-EBUSY, multikernel_session_offer(session, NULL), "offer of mapped pages");
	ret |= expect(-EBUSY, multikernel_session_delete(session, PAGES), "delete of mapped pages");
	multikernel_unmap(&pages);
	multikernel_unmap(&pages);
	ret |= expect(-ENOENT, multikernel_session_delete(session, GONE), "delete twice");
	ret |= expect(-ENOENT, multikernel_session_get(session, GONE, &byte, 1), "get nothing");
	ret |= expect(-ENOENT, multikernel_session_map(session, GONE, &pages), "map nothing");
	ret |= expect(-EINVAL, multikernel_session_get(session, PAGES, &byte, 1), "get of pages");
	ret |= expect(-EINVAL, multikernel_session_map(session, BYTES, &pages), "map of bytes");
	ret |= expect(-EINVAL, multikernel_session_put(session, "", &byte, 1), "no key");
	ret |= expect(-EINVAL, multikernel_session_put(session, NULL, &byte, 1), "key at NULL");
	ret |= expect(-EINVAL, multikernel_session_put(session, GONE, &byte,
						       MULTIKERNEL_ENTRY_BYTES_MAX + 1),
		      "too many bytes");
	ret |= expect(-ENAMETOOLONG, multikernel_session_put(session, key, &byte, 1),
		      "a long key");
	ret |= expect(-EINVAL, multikernel_session_put_pages(session, GONE, 100),
		      "a part of a page");
	ret |= expect(-EINVAL, multikernel_session_wait(session, 1), "wait for no offer");
	ret |= expect(-EINVAL, multikernel_session_offer(session, ""), "offer to nobody");
	ret |= expect(-ENOENT, multikernel_session_offer(session, "there-is-none"),
		      "offer to no instance");
	return ret;
}

static int set_give(const char *value, const struct kernel_param *param)
{
	struct multikernel_open_session *session;
	char name[64], to[64];
	u8 byte = 0;
	int ret;

	if (sscanf(value, "%63s %63s", name, to) != 2)
		return -EINVAL;
	guard(mutex)(&lock);
	if (offered)
		return -EBUSY;
	session = multikernel_session_create(name);
	if (IS_ERR(session))
		return PTR_ERR(session);
	ret = expect(-EBUSY, PTR_ERR_OR_ZERO(multikernel_session_open(name)), "open twice");
	ret |= expect(-EBUSY, multikernel_session_remove(name), "remove what is open");
	if (!ret)
		ret = fill(session);
	if (!ret)
		ret = multikernel_session_offer(session, strcmp(to, "-") ? to : NULL);
	if (!ret)
		ret = expect(-EBUSY, multikernel_session_put(session, GONE, &byte, 1),
			     "put into what is offered");
	if (ret)
		multikernel_session_close(session);
	else
		offered = session;
	return ret;
}

static int set_given(const char *value, const struct kernel_param *param)
{
	unsigned int ms;
	u8 byte = 0;
	int ret;

	if (kstrtouint(value, 0, &ms))
		return -EINVAL;
	guard(mutex)(&lock);
	if (!offered)
		return -ENOENT;
	ret = multikernel_session_wait(offered, ms);
	if (ret < 0)
		return ret;
	if (ret)
		ret = expect(-ESTALE, multikernel_session_put(offered, GONE, &byte, 1),
			     "put into what is another's");
	else
		ret = -ECANCELED;
	multikernel_session_close(offered);
	offered = NULL;
	return ret;
}

/* Looks at all entries of an accepted session. */
static int check(struct multikernel_open_session *session)
{
	struct multikernel_pages pages;
	u8 byte = 0;
	int ret;

	ret = check_bytes(session, 1);
	if (!ret)
		ret = multikernel_session_map(session, PAGES, &pages);
	if (ret)
		return ret;
	if (pages.writable || pages.length != PAGES_LENGTH)
		ret = -EBADMSG;
	if (!ret)
		ret = check_records(&pages, 1000);
	multikernel_unmap(&pages);
	ret |= expect(-EBUSY, multikernel_session_put(session, GONE, &byte, 1),
		      "put before the commit");
	ret |= expect(-EACCES, multikernel_session_offer(session, NULL), "offer before the commit");
	return ret;
}

/* Changes all entries of a session that is this kernel's now. */
static int change(struct multikernel_open_session *session)
{
	struct multikernel_pages pages;
	int ret;

	ret = put_bytes(session, 2);
	if (!ret)
		ret = check_bytes(session, 2);
	if (!ret)
		ret = multikernel_session_map(session, PAGES, &pages);
	if (ret)
		return ret;
	if (!pages.writable)
		ret = -EBADMSG;
	fill_records(&pages, 5000);
	if (!ret)
		ret = check_records(&pages, 5000);
	multikernel_unmap(&pages);
	return ret;
}

static int accepted(const char *value, bool commit)
{
	struct multikernel_open_session *session;
	unsigned int ms;
	char name[64];
	int ret;

	if (sscanf(value, "%63s %u", name, &ms) != 2)
		return -EINVAL;
	session = multikernel_session_accept(name, ms);
	if (IS_ERR(session))
		return PTR_ERR(session);
	ret = check(session);
	if (!ret && commit) {
		ret = multikernel_session_commit(session);
		/* Once more it is the same. */
		if (!ret)
			ret = multikernel_session_commit(session);
		if (!ret)
			ret = change(session);
	} else if (!ret) {
		ret = multikernel_session_abort(session);
	}
	multikernel_session_close(session);
	if (!ret && commit)
		ret = multikernel_session_remove(name);
	return ret;
}

static int set_look(const char *value, const struct kernel_param *param)
{
	return accepted(value, false);
}

static int set_take(const char *value, const struct kernel_param *param)
{
	return accepted(value, true);
}

static int set_arena(const char *value, const struct kernel_param *param)
{
	struct multikernel_pages pages, again;
	char name[64];
	int ret;

	if (sscanf(value, "%63s", name) != 1)
		return -EINVAL;
	ret = multikernel_arena_map(name, true, &pages);
	if (ret)
		return ret;
	fill_records(&pages, 77);
	ret = multikernel_arena_map(name, false, &again);
	if (!ret) {
		if (again.writable || again.length != pages.length)
			ret = -EBADMSG;
		else
			ret = check_records(&again, 77);
		multikernel_unmap(&again);
	}
	ret |= expect(-EBUSY, PTR_ERR_OR_ZERO(multikernel_session_create(name)),
		      "a session in a mapped arena");
	multikernel_unmap(&pages);
	return ret;
}

static const struct kernel_param_ops give_ops = { .set = set_give };
static const struct kernel_param_ops given_ops = { .set = set_given };
static const struct kernel_param_ops look_ops = { .set = set_look };
static const struct kernel_param_ops take_ops = { .set = set_take };
static const struct kernel_param_ops arena_ops = { .set = set_arena };

module_param_cb(give, &give_ops, NULL, 0200);
module_param_cb(given, &given_ops, NULL, 0200);
module_param_cb(look, &look_ops, NULL, 0200);
module_param_cb(take, &take_ops, NULL, 0200);
module_param_cb(arena, &arena_ops, NULL, 0200);

static int __init multikernel_session_test_init(void)
{
	return 0;
}

static void __exit multikernel_session_test_exit(void)
{
	if (offered)
		multikernel_session_close(offered);
}

module_init(multikernel_session_test_init);
module_exit(multikernel_session_test_exit);

MODULE_DESCRIPTION("Test of sessions that go from kernel to kernel");
MODULE_LICENSE("GPL");
