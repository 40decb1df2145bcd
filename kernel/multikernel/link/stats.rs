// SPDX-License-Identifier: GPL-2.0

//! What a link has carried, as `MULTIKERNEL_IOCTL_LINK_STATS` and debugfs tell it.
//!
//! Counters are where they are counted: those of a lane with its end, guarded by the lock that the
//! end has anyway, those of a CPU in its inbox. So two pairs of CPUs that talk write no cache line
//! in common. Here they are put together, one lock after another; [`Traffic`] is all that this file
//! owns, and its owners guard it.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed,
    uapi::{
        self,
        multikernel_link_cpu,
        multikernel_link_lane, //
    }, //
};

use super::{
    inbox,
    lane::{
        LaneMemory,
        SendError,
        Sender, //
    },
    outbox::Link,
    ports, //
};
use crate::{
    abi,
    event, //
};

/// What went through one end of a lane.
#[derive(Clone, Copy, Default)]
pub(crate) struct Traffic {
    messages: u64,
    bytes: u64,
    doorbells: u64,
    highest: u32,
    /// `messages` when it was last asked whether there were any.
    seen: u64,
}

impl Traffic {
    /// A message of so many bytes of payload.
    pub(crate) fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    /// Whether there were messages since this was last asked.
    pub(crate) fn moved(&mut self) -> bool {
        core::mem::replace(&mut self.seen, self.messages) != self.messages
    }

    /// A doorbell, if one has been rung.
    pub(crate) fn count_doorbell(&mut self, rung: bool) {
        self.doorbells += u64::from(rung);
    }

    /// Sends a message, and counts it. Now and then it looks at how many slots are in use: the
    /// receiver says that as often, so it costs one cache line for a quarter of the lane.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub(crate) fn send<M: LaneMemory>(
        &mut self,
        sender: &mut Sender<M>,
        kind: u8,
        port: u32,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let before = sender.tail();
        let result = sender.send(kind, port, payload);
        match result {
            Ok(()) => {
                self.count(payload.len());
                let quarter = sender.shape().slots() as u64 / 4;
                if (before ^ sender.tail()) & !(quarter - 1) != 0 {
                    self.look(sender);
                }
            }
            Err(SendError::Full) => {
                self.look(sender);
            }
            Err(_) => {}
        }
        result
    }

    /// Looks at how many slots are in use.
    fn look<M: LaneMemory>(&mut self, sender: &mut Sender<M>) -> u32 {
        let tail = sender.tail();
        let used = sender.taken().map_or(0, |head| tail.wrapping_sub(head));
        // CAST: At most the slots of a lane, or `taken()` fails.
        let used = used as u32;
        self.highest = self.highest.max(used);
        used
    }

    /// What is told of a lane in which this kernel sends.
    pub(crate) fn sent<M: LaneMemory>(
        &mut self,
        sender: &mut Sender<M>,
        lane: multikernel_link_lane,
    ) -> multikernel_link_lane {
        let used = self.look(sender);
        let broken = sender.taken().is_err();
        multikernel_link_lane {
            stalls: sender.stalls(),
            doorbells: self.doorbells,
            used,
            highest: self.highest,
            ..self.received(broken, lane)
        }
    }

    /// What is told of a lane in which a process sends that has it mapped: the kernel knows of
    /// doorbells alone, and sees how many slots are in use.
    pub(crate) fn rung<M: LaneMemory>(
        &self,
        sender: &Sender<M>,
        lane: multikernel_link_lane,
    ) -> multikernel_link_lane {
        multikernel_link_lane {
            doorbells: self.doorbells,
            // CAST: At most the slots of a lane.
            used: sender.finds_used() as u32,
            highest: self.highest,
            stalls: sender.stalls(),
            ..self.received(sender.is_broken(), lane)
        }
    }

    /// What is told of a lane in which the other kernel sends.
    pub(crate) fn received(
        &self,
        broken: bool,
        lane: multikernel_link_lane,
    ) -> multikernel_link_lane {
        let broken = if broken {
            uapi::MULTIKERNEL_LANE_BROKEN
        } else {
            0
        };
        multikernel_link_lane {
            flags: lane.flags | broken,
            messages: self.messages,
            bytes: self.bytes,
            ..lane
        }
    }
}

/// A lane of which nothing is told yet: its number, `MULTIKERNEL_LANE_*`, and its ends.
pub(crate) fn lane(lane: u32, flags: u32, from: u32, to: u32) -> multikernel_link_lane {
    multikernel_link_lane {
        lane,
        flags,
        from,
        to,
        ..Default::default()
    }
}

/// What is told of a link.
pub(crate) struct Stats {
    /// The other kernel's id.
    pub(crate) peer: u32,
    /// The link's epoch.
    pub(crate) epoch: u32,
    /// `MULTIKERNEL_PEER_*`.
    pub(crate) state: u32,
    /// Slots of each lane.
    pub(crate) lane_slots: u32,
    /// When it was, CLOCK_MONOTONIC in nanoseconds.
    pub(crate) time_ns: u64,
    /// Each lane in use.
    pub(crate) lanes: KVec<multikernel_link_lane>,
    /// Each CPU.
    pub(crate) cpus: KVec<multikernel_link_cpu>,
    /// Messages for a port that nobody has, or that are not of its type.
    pub(crate) undeliverable: u64,
    /// Ends of lanes that are not used any more.
    pub(crate) broken: u64,
}

impl Stats {
    /// The sum over the lanes in which this kernel sends, or over the others; without those of
    /// ports.
    pub(crate) fn sum(&self, receives: bool, of: impl Fn(&multikernel_link_lane) -> u64) -> u64 {
        let flag = if receives {
            uapi::MULTIKERNEL_LANE_RECEIVES
        } else {
            0
        };
        let kinds = uapi::MULTIKERNEL_LANE_RECEIVES | uapi::MULTIKERNEL_LANE_PORT;
        let lanes = self.lanes.iter().filter(|lane| lane.flags & kinds == flag);
        lanes.map(of).sum()
    }

    /// Doorbells that were rung.
    pub(crate) fn rung(&self) -> u64 {
        let peers = |cpu: &&multikernel_link_cpu| cpu.flags & uapi::MULTIKERNEL_LINK_CPU_PEER != 0;
        self.cpus
            .iter()
            .filter(peers)
            .map(|cpu| cpu.doorbells)
            .sum()
    }
}

/// Puts together what is told of a link. Not in atomic context.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn of(link: &Link) -> Result<Stats> {
    let layout = link.region.layout();
    let [mine, peers] = [link.side, link.peer()].map(|side| *layout.side(side));
    let mut stats = Stats {
        peer: link.peer_id(),
        epoch: layout.epoch(),
        state: match link.check_up() {
            Ok(()) => uapi::MULTIKERNEL_PEER_UP,
            Err(EPIPE) => uapi::MULTIKERNEL_PEER_GONE,
            Err(_) => uapi::MULTIKERNEL_PEER_DOWN,
        },
        lane_slots: layout.lane_slots(),
        time_ns: event::now(),
        // As many as there can be: nothing is allocated while a lock is held.
        lanes: KVec::with_capacity((mine.lanes + peers.lanes) as usize, GFP_KERNEL)?,
        cpus: KVec::with_capacity((mine.cpus + peers.cpus) as usize, GFP_KERNEL)?,
        undeliverable: link.faults.undeliverable.load(Relaxed),
        broken: link.faults.broken.load(Relaxed),
    };
    const { assert!(abi::LINK_LANES_MAX <= u32::MAX / 2 && abi::LINK_CPUS_MAX <= u32::MAX / 2) };

    let lanes = &mut stats.lanes;
    // There is room.
    let mut add = |lane| drop(lanes.push_within_capacity(lane));
    link.lanes_sent(&mut add);
    ports::lanes(link, &mut add);
    inbox::stats(link, &mut stats);
    for (cpu, doorbells) in (0..).zip(link.rung()) {
        let cpu = multikernel_link_cpu {
            cpu,
            flags: uapi::MULTIKERNEL_LINK_CPU_PEER,
            doorbells,
            ..Default::default()
        };
        let _ = stats.cpus.push_within_capacity(cpu);
    }
    Ok(stats)
}
