// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_MULTIKERNEL_VSOCK

#include <linux/skbuff.h>
#include <linux/virtio_vsock.h>
#include <net/af_vsock.h>

__rust_helper struct sk_buff *
rust_helper_multikernel_vsock_alloc_skb(u32 payload)
{
	struct sk_buff *skb;

	skb = virtio_vsock_alloc_skb(VIRTIO_VSOCK_SKB_HEADROOM + payload,
				     GFP_KERNEL);
	if (skb && payload)
		virtio_vsock_skb_put(skb, payload);
	return skb;
}

__rust_helper void rust_helper_multikernel_vsock_free_skb(struct sk_buff *skb)
{
	kfree_skb(skb);
}

__rust_helper void
rust_helper_multikernel_vsock_queue_init(struct sk_buff_head *queue)
{
	skb_queue_head_init(queue);
}

__rust_helper void
rust_helper_multikernel_vsock_queue_tail(struct sk_buff_head *queue,
					 struct sk_buff *skb)
{
	virtio_vsock_skb_queue_tail(queue, skb);
}

__rust_helper struct sk_buff *
rust_helper_multikernel_vsock_dequeue(struct sk_buff_head *queue)
{
	return virtio_vsock_skb_dequeue(queue);
}

__rust_helper void
rust_helper_multikernel_vsock_queue_purge(struct sk_buff_head *queue)
{
	virtio_vsock_skb_queue_purge(queue);
}

__rust_helper u32
rust_helper_multikernel_vsock_queue_len(struct sk_buff_head *queue)
{
	return skb_queue_len_lockless(queue);
}

__rust_helper bool
rust_helper_multikernel_vsock_net_is_global(struct vsock_sock *vsk)
{
	return vsock_net_mode_global(vsk);
}

/*
 * Called under vsock_table_lock, where the socket lock cannot be taken; the
 * other transports do without as well. Who has ended in order, or is about to,
 * is left alone. What has come can still be read; then there is the error, and
 * when that has been taken the end. Writing gives the error, and then EPIPE.
 */
__rust_helper void rust_helper_multikernel_vsock_reset(struct vsock_sock *vsk)
{
	struct sock *sk = sk_vsock(vsk);

	if (vsk->close_work_scheduled || sock_flag(sk, SOCK_DONE))
		return;
	sock_set_flag(sk, SOCK_DONE);
	WRITE_ONCE(vsk->peer_shutdown, SHUTDOWN_MASK);
	sk->sk_err = ECONNRESET;
	sk_error_report(sk);
}

#endif /* CONFIG_MULTIKERNEL_VSOCK */
