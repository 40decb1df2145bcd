// SPDX-License-Identifier: GPL-2.0

//! Queues that users of Rust can install.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use disruptor::{
    BusySpin, EventPoller, Producer as _, SingleConsumerBarrier, SingleProducer,
    SingleProducerBarrier,
};
use ringbuf::traits::{Consumer as _, Producer as _, Split as _};

use crate::pair::{wait, Sink, Source};

/// Single messages go in or come out, one after another.
pub struct Single<T>(pub T);
/// As many messages as there are go in or come out together.
pub struct Batch<T>(pub T);

impl<const N: usize> Source<N> for Single<rtrb::Producer<[u8; N]>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for message in messages {
            wait(|| self.0.push(*message).ok());
        }
    }
}

impl<const N: usize> Sink<N> for Single<rtrb::Consumer<[u8; N]>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        for message in &mut *messages {
            *message = wait(|| self.0.pop().ok());
        }
        messages.len()
    }
}

impl<const N: usize> Source<N> for Batch<rtrb::Producer<[u8; N]>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        let mut left = messages;
        wait(|| {
            left = self.0.push_partial_slice(left).1;
            left.is_empty().then_some(())
        });
    }
}

impl<const N: usize> Sink<N> for Batch<rtrb::Consumer<[u8; N]>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        wait(|| {
            let taken = self.0.pop_partial_slice(messages).0.len();
            (taken != 0).then_some(taken)
        })
    }
}

/// The two ends of rtrb's ring.
pub fn rtrb<const N: usize>(capacity: usize) -> (rtrb::Producer<[u8; N]>, rtrb::Consumer<[u8; N]>) {
    rtrb::RingBuffer::new(capacity)
}

impl<const N: usize> Source<N> for Single<ringbuf::HeapProd<[u8; N]>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for message in messages {
            wait(|| self.0.try_push(*message).ok());
        }
    }
}

impl<const N: usize> Sink<N> for Single<ringbuf::HeapCons<[u8; N]>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        for message in &mut *messages {
            *message = wait(|| self.0.try_pop());
        }
        messages.len()
    }
}

impl<const N: usize> Source<N> for Batch<ringbuf::HeapProd<[u8; N]>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        let mut left = messages;
        wait(|| {
            left = &left[self.0.push_slice(left)..];
            left.is_empty().then_some(())
        });
    }
}

impl<const N: usize> Sink<N> for Batch<ringbuf::HeapCons<[u8; N]>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        wait(|| {
            let taken = self.0.pop_slice(messages);
            (taken != 0).then_some(taken)
        })
    }
}

/// The two ends of ringbuf's ring.
pub fn ringbuf<const N: usize>(
    capacity: usize,
) -> (ringbuf::HeapProd<[u8; N]>, ringbuf::HeapCons<[u8; N]>) {
    ringbuf::HeapRb::new(capacity).split()
}

impl<const N: usize> Source<N> for Single<crossbeam_channel::Sender<[u8; N]>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for message in messages {
            wait(|| self.0.try_send(*message).ok());
        }
    }
}

impl<const N: usize> Sink<N> for Single<crossbeam_channel::Receiver<[u8; N]>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        for message in &mut *messages {
            *message = wait(|| self.0.try_recv().ok());
        }
        messages.len()
    }
}

impl<const N: usize> Source<N> for Single<Arc<ArrayQueue<[u8; N]>>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for message in messages {
            wait(|| self.0.push(*message).ok());
        }
    }
}

impl<const N: usize> Sink<N> for Single<Arc<ArrayQueue<[u8; N]>>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        for message in &mut *messages {
            *message = wait(|| self.0.pop());
        }
        messages.len()
    }
}

impl<const N: usize> Source<N> for Single<heapless::spsc::Producer<'_, [u8; N]>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for message in messages {
            wait(|| self.0.enqueue(*message).ok());
        }
    }
}

impl<const N: usize> Sink<N> for Single<heapless::spsc::Consumer<'_, [u8; N]>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        for message in &mut *messages {
            *message = wait(|| self.0.dequeue());
        }
        messages.len()
    }
}

/// The end of a disruptor where messages go in.
pub type DisruptorSource<const N: usize> = SingleProducer<[u8; N], SingleConsumerBarrier>;
/// The end where they come out.
pub type DisruptorSink<const N: usize> = EventPoller<[u8; N], SingleProducerBarrier>;

/// The two ends of a disruptor.
pub fn disruptor<const N: usize>(capacity: usize) -> (DisruptorSource<N>, DisruptorSink<N>) {
    let builder = disruptor::build_single_producer(capacity, || [0; N], BusySpin);
    let (sink, builder) = builder.new_event_poller();
    (builder.build(), sink)
}

impl<const N: usize> Source<N> for Single<DisruptorSource<N>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        for message in messages {
            self.0.publish(|slot| *slot = *message);
        }
    }
}

impl<const N: usize> Source<N> for Batch<DisruptorSource<N>> {
    fn send(&mut self, messages: &[[u8; N]]) {
        self.0.batch_publish(messages.len(), |slots| {
            for (slot, message) in slots.zip(messages) {
                *slot = *message;
            }
        });
    }
}

// There is no way to take a single one that is not also a batch.
impl<const N: usize> Sink<N> for Batch<DisruptorSink<N>> {
    fn receive(&mut self, messages: &mut [[u8; N]]) -> usize {
        wait(|| {
            let mut slots = self.0.take(messages.len() as u64).ok()?;
            let mut taken = 0;
            for (message, slot) in messages.iter_mut().zip(&mut slots) {
                *message = *slot;
                taken += 1;
            }
            (taken != 0).then_some(taken)
        })
    }
}
