// SPDX-License-Identifier: GPL-2.0

//! One link in the inbox of one CPU: the lanes that lead there, and what is taken from them.
//!
//! What went through a lane is counted where the lane is. All of it is guarded by the inbox's lock.

use kernel::{
    prelude::*,
    processor::cpu_relax,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    uapi, //
};

use super::{
    super::{
        call,
        lane::{
            LaneMemory,
            Receiver, //
        },
        limit::{
            self,
            Budget, //
        },
        outbox::Link,
        region::{
            Bell,
            LaneWords, //
        },
        stats::{
            self,
            Stats,
            Traffic, //
        },
        wake::Sleeper, //
    },
    is_due,
    Incoming,
    Left,
    Port,
    Rest, //
};
use crate::abi;

/// Messages that are taken from one lane before it is the next one's turn.
pub(super) const LANE_BUDGET: usize = 16;

/// A lane that leads to a CPU of this side.
struct Arrival {
    number: u32,
    /// The other side's CPU that sends in it, as it says.
    from: u32,
    receiver: Receiver<LaneWords>,
    traffic: Traffic,
}

/// A link in an inbox.
pub(super) struct Attached {
    pub(super) link: Arc<Link>,
    lanes: KVec<Arrival>,
    /// How many of the other side's lanes have been looked at.
    seen: u32,
    sleeper: Sleeper,
    /// Whether a caller looks at the lanes, so that no doorbell is needed.
    pub(super) polled: bool,
    /// In which lane there was a message last.
    last: usize,
    /// Whether there was one since a doorbell was last looked at.
    pub(super) came: bool,
    budget: Budget,
    /// When it was last reported that it is used up; 0 if never.
    reported_ns: u64,
    /// How often it was.
    delayed: u64,
    /// For one message.
    buffer: KVec<u8>,
}

impl Attached {
    /// A link of which nothing has come yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(link: &Arc<Link>) -> Result<Self> {
        let lanes = link.region.layout().side(link.peer()).lanes as usize;
        let mut buffer = KVec::new();
        buffer.resize(link.shape().longest(), 0, GFP_KERNEL)?;
        Ok(Self {
            link: link.clone(),
            lanes: KVec::with_capacity(lanes, GFP_KERNEL)?,
            seen: 0,
            sleeper: Sleeper::new(),
            polled: false,
            last: 0,
            came: false,
            budget: Budget::new(),
            reported_ns: 0,
            delayed: 0,
            buffer,
        })
    }

    /// Whether what the link brings has to wait, because it had its share of this CPU, or all
    /// `links` links had theirs in `total`.
    pub(super) fn has_had_its_share(
        &mut self,
        total: &mut Budget,
        links: usize,
        cpu: u32,
        now: u64,
        percent: u32,
    ) -> bool {
        match self.budget.left_beside(total, links, now, percent) {
            limit::Left::Some => return false,
            limit::Left::Spent => return true,
            limit::Left::SpentNow => {}
        }
        self.delayed += 1;
        if is_due(&mut self.reported_ns, now) {
            pr_notice!(
                "link to {}: its share of {} percent of CPU {} is used up, what it brings waits\n",
                self.link.peer_id(),
                percent,
                cpu
            );
        }
        true
    }

    /// The link has had so much of this CPU.
    pub(super) fn use_up(&mut self, total: &mut Budget, ns: u64) {
        self.budget.use_up(ns);
        total.use_up(ns);
    }

    /// Takes note of lanes that the other side has taken into use since.
    fn discover(&mut self, cpu: u32) {
        let region = &self.link.region;
        let peer = self.link.peer();
        // At most as many as the layout has.
        let used = region.lanes(peer);
        while self.seen < used {
            let number = self.seen;
            self.seen += 1;
            match region.lane_ends(peer, number) {
                Some((from, to)) if to == cpu && from != abi::LANE_OF_PORT => {
                    if let Some(memory) = region.lane(peer, number) {
                        // There is room for as many as the layout has.
                        let _ = self.lanes.push_within_capacity(Arrival {
                            number,
                            from,
                            receiver: Receiver::new(memory, self.link.shape()),
                            traffic: Traffic::default(),
                        });
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether there is a message.
    pub(super) fn has_message(&mut self, cpu: u32) -> bool {
        self.discover(cpu);
        self.lanes.iter().any(|lane| lane.receiver.has_message())
    }

    /// Takes at most `budget` messages, and says whether there was one; if there are none left, the
    /// other side has to ring again, unless a caller goes on looking, or `rest` is not for it.
    pub(super) fn take(
        &mut self,
        cpu: u32,
        ports: &[Port],
        budget: usize,
        rest: Rest,
    ) -> (Left, bool) {
        let mut left = budget;
        loop {
            // Also of a sleep in which nothing came: whoever rang for it does not ring again.
            self.wake(cpu);
            while left > 0 && self.has_message(cpu) {
                let before = left;
                self.deliver(ports, &mut left);
                if left == before {
                    // What was there is gone: no honest sender takes a message back.
                    break;
                }
            }
            if left == 0 {
                return (Left::Messages, true);
            }
            let any = left != budget;
            match rest {
                _ if self.polled => return (Left::None, any),
                Rest::IfNothingCame if any => return (Left::Messages, true),
                Rest::Never => return (Left::None, any),
                _ => {}
            }
            self.with_bell(cpu, |sleeper, bell| sleeper.sleep(bell));
            if !self.has_message(cpu) {
                return (Left::None, any);
            }
            // A round costs something even if what was there is gone by now: the other side must
            // not keep this CPU busy.
            left -= 1;
        }
    }

    /// Says that no doorbell is needed.
    pub(super) fn wake(&mut self, cpu: u32) {
        self.with_bell(cpu, |sleeper, bell| sleeper.wake(bell));
    }

    /// Has the sleeper say something in this CPU's bell.
    fn with_bell(&mut self, cpu: u32, say: impl FnOnce(&mut Sleeper, &Bell<'_>)) {
        if let Some(bell) = self.link.region.bell(self.link.side, cpu) {
            say(&mut self.sleeper, &bell);
        }
    }

    /// Takes some messages from each lane.
    pub(super) fn deliver(&mut self, ports: &[Port], budget: &mut usize) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let end = budget.saturating_sub(LANE_BUDGET);
            while *budget > end && !lane.receiver.is_broken() {
                let header = match lane.receiver.receive(&mut self.buffer) {
                    Ok(Some(header)) => header,
                    Ok(None) => break,
                    Err(_) => {
                        self.link.note_broken("from CPU", lane.from);
                        break;
                    }
                };
                *budget -= 1;
                self.last = at;
                self.came = true;
                lane.traffic.count(header.length as usize);
                let port = ports.iter().find(|(number, _)| *number == header.port);
                let message = Incoming {
                    link: &self.link,
                    from: lane.from,
                    header,
                    // It has room for the longest.
                    payload: self
                        .buffer
                        .get(..header.length as usize)
                        .unwrap_or_default(),
                };
                match port {
                    Some((_, handler)) => handler.receive(&message),
                    None => {
                        self.link.faults.undeliverable.add(1, Relaxed);
                        call::refuse(&message);
                    }
                }
            }
        }
    }

    /// Waits for the next message, a microsecond at most.
    pub(super) fn wait(&self) {
        match self.lanes.get(self.last) {
            Some(lane) => {
                let memory = lane.receiver.memory();
                // CAST: The memory masks it.
                let slot = lane.receiver.head() as usize;
                let stamp = memory.load_stamp(slot);
                if !lane.receiver.has_message() {
                    memory.wait_for_write(slot, stamp);
                }
            }
            None => cpu_relax(),
        }
    }

    /// Tells of the lanes that lead to this CPU, for which there is room. Returns how often the
    /// link had its share of it.
    pub(super) fn stats(&self, cpu: u32, stats: &mut Stats) -> u64 {
        for lane in &self.lanes {
            let ends = stats::lane(lane.number, uapi::MULTIKERNEL_LANE_RECEIVES, lane.from, cpu);
            let told = lane.traffic.received(lane.receiver.is_broken(), ends);
            let _ = stats.lanes.push_within_capacity(told);
        }
        self.delayed
    }
}
