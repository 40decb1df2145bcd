// SPDX-License-Identifier: GPL-2.0

//! What a link has carried, and how much that is a second.
//!
//! The kernel counts from the beginning of a link; [`LinkStats::since`] makes rates of two looks at
//! the same link. A link lives as long as one life of the spawn: with another epoch all counters
//! began at 0.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use multikernel_sys as sys;
use serde::Serialize;

use super::syscall;

/// Lanes for which there is room at the first try.
const LANES: usize = 64;
/// CPUs likewise.
const CPUS: usize = 64;
/// Lists that go on growing while they are read are given up after so many tries.
const TRIES: usize = 8;

/// Whether messages can be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// The other kernel is not there yet.
    Down,
    /// They can.
    Up,
    /// The other kernel takes none any more.
    Gone,
    /// Something that this library does not know.
    Unknown,
}

/// Where a lane leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum LaneEnds {
    /// From one CPU to one of the other kernel.
    Cpus {
        /// The one that sends.
        from: u32,
        /// The one that receives.
        to: u32,
    },
    /// It is for all pairs of CPUs that have none of their own.
    Common,
    /// It is a port's.
    Port {
        /// The port.
        port: u32,
    },
}

/// Which lane of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Lane {
    /// Its number among those of the kernel that sends in it.
    pub number: u32,
    /// The other kernel sends in it.
    pub receives: bool,
    /// Where it leads.
    #[serde(flatten)]
    pub ends: LaneEnds,
}

/// What went through a lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct LaneStats {
    /// Which one.
    #[serde(flatten)]
    pub lane: Lane,
    /// The other kernel broke the rules: it is not used any more.
    pub broken: bool,
    /// A process has it mapped: its messages are not counted.
    pub mapped: bool,
    /// Messages sent, or received.
    pub messages: u64,
    /// Bytes of their payload.
    pub bytes: u64,
    /// How often there was no room; 0 where the other kernel sends.
    pub stalls: u64,
    /// Doorbells rung; 0 where the other kernel sends.
    pub doorbells: u64,
    /// Slots in use; 0 where the other kernel sends.
    pub used: u32,
    /// The most slots that were seen in use; likewise.
    pub highest: u32,
}

/// Doorbells of a CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct CpuStats {
    /// Its number, as its kernel counts.
    pub cpu: u32,
    /// It is the other kernel's: all but `doorbells` is 0.
    pub peer: bool,
    /// Doorbells: of the other kernel's CPU those rung over this link, of this kernel's all.
    pub doorbells: u64,
    /// Those that were for nothing.
    pub idle: u64,
    /// Those that had to wait to be looked at.
    pub held: u64,
    /// How often the link had used up its share of the CPU.
    pub delayed: u64,
    /// How often messages were looked for before it slept.
    pub polls: u64,
    /// How often that was of use.
    pub polled: u64,
}

/// What a link has carried since it began.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LinkStats {
    /// Id of the other kernel's instance, 0 for the host.
    pub peer: u32,
    /// Counts the lives of the spawn.
    pub epoch: u32,
    /// Whether messages can be sent.
    pub state: PeerState,
    /// Slots of each lane.
    pub lane_slots: u32,
    /// When it was looked at: CLOCK_MONOTONIC, in nanoseconds.
    pub time_ns: u64,
    /// Messages for a port that nobody has, or that are not of its type.
    pub undeliverable: u64,
    /// Ends of lanes that are not used any more, as the other kernel broke the rules.
    pub broken: u64,
    /// Lanes in use.
    pub lanes: Vec<LaneStats>,
    /// CPUs of both kernels.
    pub cpus: Vec<CpuStats>,
}

impl LaneStats {
    fn of(lane: &sys::multikernel_link_lane) -> Self {
        let has = |flag| lane.flags & flag != 0;
        let ends = if has(sys::MULTIKERNEL_LANE_PORT) {
            LaneEnds::Port { port: lane.to }
        } else if has(sys::MULTIKERNEL_LANE_COMMON) {
            LaneEnds::Common
        } else {
            LaneEnds::Cpus {
                from: lane.from,
                to: lane.to,
            }
        };
        Self {
            lane: Lane {
                number: lane.lane,
                receives: has(sys::MULTIKERNEL_LANE_RECEIVES),
                ends,
            },
            broken: has(sys::MULTIKERNEL_LANE_BROKEN),
            mapped: has(sys::MULTIKERNEL_LANE_MAPPED),
            messages: lane.messages,
            bytes: lane.bytes,
            stalls: lane.stalls,
            doorbells: lane.doorbells,
            used: lane.used,
            highest: lane.highest,
        }
    }
}

impl CpuStats {
    fn of(cpu: &sys::multikernel_link_cpu) -> Self {
        Self {
            cpu: cpu.cpu,
            peer: cpu.flags & sys::MULTIKERNEL_LINK_CPU_PEER != 0,
            doorbells: cpu.doorbells,
            idle: cpu.idle,
            held: cpu.held,
            delayed: cpu.delayed,
            polls: cpu.polls,
            polled: cpu.polled,
        }
    }
}

impl LinkStats {
    pub(super) fn read(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let mut lanes = vec![Default::default(); LANES];
        let mut cpus = vec![Default::default(); CPUS];
        for _ in 0..TRIES {
            let told = syscall::link_stats(fd, &mut lanes, &mut cpus)?;
            let (nr_lanes, nr_cpus) = (told.nr_lanes as usize, told.nr_cpus as usize);
            if nr_lanes <= lanes.len() && nr_cpus <= cpus.len() {
                lanes.truncate(nr_lanes);
                cpus.truncate(nr_cpus);
                return Ok(Self::of(&told, &lanes, &cpus));
            }
            lanes.resize(nr_lanes.max(lanes.len()), Default::default());
            cpus.resize(nr_cpus.max(cpus.len()), Default::default());
        }
        Err(io::Error::other("the list of lanes does not stop growing"))
    }

    fn of(
        told: &sys::multikernel_ioctl_link_stats,
        lanes: &[sys::multikernel_link_lane],
        cpus: &[sys::multikernel_link_cpu],
    ) -> Self {
        Self {
            peer: told.peer,
            epoch: told.epoch,
            state: match told.state {
                sys::MULTIKERNEL_PEER_DOWN => PeerState::Down,
                sys::MULTIKERNEL_PEER_UP => PeerState::Up,
                sys::MULTIKERNEL_PEER_GONE => PeerState::Gone,
                _ => PeerState::Unknown,
            },
            lane_slots: told.lane_slots,
            time_ns: told.time_ns,
            undeliverable: told.undeliverable,
            broken: told.broken,
            lanes: lanes.iter().map(LaneStats::of).collect(),
            cpus: cpus.iter().map(CpuStats::of).collect(),
        }
    }
}

/// How much a second, of a lane or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Messages.
    pub messages: f64,
    /// Bytes of their payload.
    pub bytes: f64,
    /// Doorbells that were rung for them.
    pub doorbells: f64,
    /// How often there was no room.
    pub stalls: f64,
}

impl Rate {
    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.doorbells += other.doorbells;
        self.stalls += other.stalls;
    }
}

/// What a link carried between two looks, a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkRates {
    /// Seconds between the two; 0 if there was only one, and all rates are.
    pub seconds: f64,
    /// What was sent.
    pub sent: Rate,
    /// What was received.
    pub received: Rate,
    /// Each lane, in the order of [`LinkStats::lanes`].
    pub lanes: Vec<Rate>,
    /// Doorbells that CPUs of this kernel got, over all links.
    pub doorbells: f64,
    /// Those that had to wait to be looked at.
    pub held: f64,
    /// How often the link had used up its share of a CPU.
    pub delayed: f64,
    /// How often messages were looked for before it slept.
    pub polls: f64,
    /// How often that was of use.
    pub polled: f64,
}

impl LinkStats {
    /// How much it was a second since an earlier look, if there was one.
    ///
    /// Of a link with another epoch nothing was there at the earlier look, nor of a lane that was
    /// not in use then. A counter that has gone back counts as not having moved.
    pub fn since(&self, before: Option<&Self>) -> LinkRates {
        let seconds = before.map_or(0.0, |before| {
            Duration::from_nanos(self.time_ns.saturating_sub(before.time_ns)).as_secs_f64()
        });
        let per_second = |now: u64, before: u64| match seconds > 0.0 {
            true => now.saturating_sub(before) as f64 / seconds,
            false => 0.0,
        };
        let same = before.filter(|before| (before.peer, before.epoch) == (self.peer, self.epoch));
        let lane_before = |lane: &Lane| {
            let lanes = same.map_or(&[][..], |before| &before.lanes);
            lanes.iter().find(|other| other.lane == *lane)
        };
        let mut rates = LinkRates {
            seconds,
            sent: Rate::default(),
            received: Rate::default(),
            lanes: Vec::with_capacity(self.lanes.len()),
            doorbells: 0.0,
            held: 0.0,
            delayed: 0.0,
            polls: 0.0,
            polled: 0.0,
        };
        for lane in &self.lanes {
            let before = lane_before(&lane.lane);
            let of = |counter: fn(&LaneStats) -> u64| {
                per_second(counter(lane), before.map_or(0, counter))
            };
            let rate = Rate {
                messages: of(|lane| lane.messages),
                bytes: of(|lane| lane.bytes),
                doorbells: of(|lane| lane.doorbells),
                stalls: of(|lane| lane.stalls),
            };
            match lane.lane.receives {
                true => rates.received.add(&rate),
                false => rates.sent.add(&rate),
            }
            rates.lanes.push(rate);
        }
        for cpu in self.cpus.iter().filter(|cpu| !cpu.peer) {
            // Those of all links go on when one begins anew; that of this link does not.
            let find = |stats: &Self| {
                let found = stats
                    .cpus
                    .iter()
                    .find(|other| !other.peer && other.cpu == cpu.cpu);
                found.copied()
            };
            let (ever, here) = (before.and_then(find), same.and_then(find));
            let of = |counter: fn(&CpuStats) -> u64| {
                per_second(counter(cpu), ever.as_ref().map_or(0, counter))
            };
            rates.doorbells += of(|cpu| cpu.doorbells);
            rates.held += of(|cpu| cpu.held);
            rates.polls += of(|cpu| cpu.polls);
            rates.polled += of(|cpu| cpu.polled);
            rates.delayed += per_second(cpu.delayed, here.map_or(0, |cpu| cpu.delayed));
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(number: u32, flags: u32, messages: u64) -> sys::multikernel_link_lane {
        sys::multikernel_link_lane {
            lane: number,
            flags,
            from: 1,
            to: 2,
            messages,
            bytes: messages * 10,
            stalls: messages / 10,
            doorbells: messages / 2,
            used: 3,
            highest: 9,
        }
    }

    fn cpu(cpu: u32, flags: u32, count: u64) -> sys::multikernel_link_cpu {
        sys::multikernel_link_cpu {
            cpu,
            flags,
            doorbells: count,
            idle: count / 2,
            held: count / 4,
            delayed: count / 8,
            polls: count / 2,
            polled: count / 4,
        }
    }

    fn stats(
        epoch: u32,
        seconds: u64,
        lanes: &[sys::multikernel_link_lane],
        cpus: &[sys::multikernel_link_cpu],
    ) -> LinkStats {
        let told = sys::multikernel_ioctl_link_stats {
            peer: 7,
            epoch,
            state: sys::MULTIKERNEL_PEER_UP,
            lane_slots: 64,
            time_ns: seconds * 1_000_000_000,
            ..Default::default()
        };
        LinkStats::of(&told, lanes, cpus)
    }

    #[test]
    fn lanes_and_cpus_are_told_apart() {
        let port = sys::MULTIKERNEL_LANE_PORT;
        let receives = sys::MULTIKERNEL_LANE_RECEIVES;
        let broken = sys::MULTIKERNEL_LANE_BROKEN;
        let common = sys::MULTIKERNEL_LANE_COMMON;
        let lanes = [
            lane(0, 0, 5),
            lane(1, port | receives | sys::MULTIKERNEL_LANE_MAPPED, 5),
            lane(2, common, 5),
            lane(0, receives | broken, 5),
        ];
        let stats = stats(1, 0, &lanes, &[cpu(0, 0, 4), cpu(0, 1, 4)]);
        let ends = stats.lanes.iter().map(|lane| lane.lane.ends);
        let pair = LaneEnds::Cpus { from: 1, to: 2 };
        let expected = [pair, LaneEnds::Port { port: 2 }, LaneEnds::Common, pair];
        assert!(ends.eq(expected));
        let receives: Vec<bool> = stats.lanes.iter().map(|lane| lane.lane.receives).collect();
        assert_eq!(receives, [false, true, false, true]);
        assert!(stats.lanes[3].broken && !stats.lanes[0].broken);
        assert!(stats.lanes[1].mapped && !stats.lanes[2].mapped);
        assert!(stats.cpus[1].peer && !stats.cpus[0].peer);
        let json = serde_json::to_value(&stats).unwrap();
        assert_eq!(json["state"], "up");
        assert_eq!(json["lanes"][0]["kind"], "cpus");
        assert_eq!(json["lanes"][0]["to"], 2);
        assert_eq!(json["lanes"][1]["port"], 2);
    }

    #[test]
    fn rates_are_differences_by_time() {
        let before = stats(1, 10, &[lane(0, 0, 100), lane(0, 1, 50)], &[cpu(0, 0, 80)]);
        let now = stats(1, 12, &[lane(0, 0, 300), lane(0, 1, 70)], &[cpu(0, 0, 160)]);
        let rates = now.since(Some(&before));
        assert_eq!(rates.seconds, 2.0);
        assert_eq!(rates.sent.messages, 100.0);
        assert_eq!(rates.sent.bytes, 1000.0);
        assert_eq!(rates.sent.stalls, 10.0);
        assert_eq!(rates.sent.doorbells, 50.0);
        assert_eq!(rates.received.messages, 10.0);
        assert_eq!(rates.lanes.len(), 2);
        assert_eq!(rates.lanes[1].messages, 10.0);
        assert_eq!((rates.doorbells, rates.held), (40.0, 10.0));
        assert_eq!((rates.polls, rates.polled), (20.0, 10.0));
        assert_eq!(rates.delayed, 5.0);
    }

    #[test]
    fn the_first_look_has_no_rates() {
        let now = stats(1, 12, &[lane(0, 0, 300)], &[cpu(0, 0, 160)]);
        let rates = now.since(None);
        assert_eq!(
            (rates.seconds, rates.sent, rates.doorbells),
            (0.0, Rate::default(), 0.0)
        );
        // Nor have two at the same moment.
        assert_eq!(now.since(Some(&now)).sent, Rate::default());
    }

    #[test]
    fn another_life_begins_at_nothing() {
        let before = stats(1, 10, &[lane(0, 0, 1000)], &[cpu(0, 0, 80)]);
        let now = stats(2, 11, &[lane(0, 0, 1010)], &[cpu(0, 0, 88)]);
        let rates = now.since(Some(&before));
        assert_eq!(rates.sent.messages, 1010.0);
        // What a CPU counts for all links goes on; what it counts for this one does not.
        assert_eq!(rates.doorbells, 8.0);
        assert_eq!(rates.delayed, 11.0);
    }

    #[test]
    fn new_lanes_and_counters_that_went_back() {
        let before = stats(1, 10, &[lane(0, 0, 1000)], &[]);
        let now = stats(1, 11, &[lane(0, 0, 10), lane(1, 0, 20)], &[cpu(0, 0, 8)]);
        let rates = now.since(Some(&before));
        assert_eq!(rates.lanes[0].messages, 0.0);
        assert_eq!(rates.lanes[1].messages, 20.0);
        assert_eq!(rates.sent.messages, 20.0);
    }
}
