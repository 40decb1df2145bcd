// SPDX-License-Identifier: GPL-2.0

//! One link at work: sending.
//!
//! Each CPU of this kernel has an *outbox*: the lanes in which it sends, made when they are first
//! used, guarded by a spinlock with interrupts off that no other CPU takes most of the time. Where
//! the link has no lane left for a pair of CPUs, they share one more, the common lane. What went
//! through a lane is counted where the lane is, under the same lock.
//!
//! Lock order: an inbox (`inbox.rs`), the list of ports or an end of one (`channel.rs`) or that of
//! deferred answers, an outbox, the list of lanes.

use kernel::{
    cpu::CpuId,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLockIrq, //
    },
    uapi, //
};

use super::{
    call,
    inbox,
    lane::{
        SendError,
        Sender,
        Shape, //
    },
    ports::Ports,
    region::{
        LaneEnds,
        LaneWords,
        LastRung,
        Region, //
    },
    stats::{
        self,
        Traffic, //
    },
    wake, //
};
use crate::abi;

/// A lane in which this side sends.
struct Outgoing {
    number: u32,
    /// The other side's CPU to which it leads.
    to: u32,
    sender: Sender<LaneWords>,
    traffic: Traffic,
}

/// Lanes in which one CPU sends.
type Outbox = KVec<Outgoing>;

/// Lanes of this side.
struct Lanes {
    /// How many have been taken into use.
    used: u32,
    /// How many of them are of CPUs.
    of_cpus: u32,
    /// The common lane, if it is among them.
    common: Option<Outgoing>,
}

/// An answer that found no credit.
struct Deferred {
    to: u32,
    port: u32,
    payload: KVec<u8>,
}

/// How many answers may be deferred: a kernel that keeps to the rules has no more calls waiting
/// than [`call::PLACES`].
const DEFERRED_MAX: usize = call::PLACES;

/// Who is rung, apart from others on a cache line of its own.
#[repr(align(64))]
struct Target {
    last: LastRung,
    /// How often. Written by who rings, and so by who has just written `last`.
    rung: Atomic<u64>,
}

/// APIC ids of the other side's CPUs, which it may name to be rung. More may come, and none goes.
///
/// Whoever adds one holds the registry's mutex; it is read without a lock.
struct Allowed(KVec<Atomic<u32>>);

impl Allowed {
    /// The broadcast id of x2APIC mode: no CPU's, so a place that is free.
    const FREE: u32 = u32::MAX;

    /// These, and room for as many that there are `cpus`.
    fn new(ids: &[u32], cpus: usize) -> Result<Self> {
        let places = cpus.max(ids.len());
        let mut list = KVec::with_capacity(places, GFP_KERNEL)?;
        let free = core::iter::repeat(&Self::FREE);
        for &id in Iterator::chain(ids.iter(), free).take(places) {
            // There is room.
            let _ = list.push_within_capacity(Atomic::new(id));
        }
        Ok(Self(list))
    }

    fn contains(&self, apic_id: u32) -> bool {
        let same = |id: &Atomic<u32>| id.load(Relaxed) == apic_id;
        apic_id != Self::FREE && self.0.iter().any(same)
    }

    /// Adds all of them or none.
    fn add(&self, apic_ids: &[u32]) -> Result {
        let free = |id: &&Atomic<u32>| id.load(Relaxed) == Self::FREE;
        if self.0.iter().filter(free).count() < apic_ids.len() {
            return Err(ENOSPC);
        }
        for (place, &apic_id) in self.0.iter().filter(free).zip(apic_ids) {
            place.store(apic_id, Relaxed);
        }
        Ok(())
    }
}

/// How this kernel rings another's CPU: APIC id and vector.
pub(crate) type Ring = fn(u32, u8);

/// What has gone wrong on a link. Nobody writes to it as long as the other side does right.
pub(crate) struct Faults {
    /// Messages for a port that nobody has, or that are not of its type.
    pub(crate) undeliverable: Atomic<u64>,
    /// Ends of lanes that are not used any more, because the other side did what it must not.
    pub(crate) broken: Atomic<u64>,
}

/// A link, as one of its sides has it.
pub(crate) struct Link {
    pub(crate) region: Arc<Region>,
    shape: Shape,
    /// Which side this kernel is, 0 or 1.
    pub(crate) side: usize,
    /// What the other side may name to be rung; `None` if it is trusted with that.
    allowed: Option<Allowed>,
    ring: Ring,
    outboxes: KVec<Pin<KBox<SpinLockIrq<Outbox>>>>,
    lanes: Pin<KBox<SpinLockIrq<Lanes>>>,
    targets: KVec<Target>,
    down: Atomic<bool>,
    /// Whether the other side, a spawn, takes part in links to other spawns.
    pub(crate) takes_links: Atomic<bool>,
    /// Answers that found no credit.
    deferred: Pin<KBox<SpinLockIrq<KVec<Deferred>>>>,
    /// Whether there are any, for those who need not look then. Written with that lock.
    has_deferred: Atomic<bool>,
    /// What user space has opened, or had.
    pub(crate) ports: Pin<KBox<SpinLockIrq<Ports>>>,
    /// Whether there are any, for those who need not look then.
    pub(crate) has_ports: Atomic<bool>,
    /// How many calls wait for an answer over it.
    pub(crate) calls: Atomic<i32>,
    /// What has gone wrong; what went well is counted where the lanes are.
    pub(crate) faults: Faults,
}

impl Link {
    /// The side `side` of a link. The other one may name CPUs with these APIC ids to be rung, or
    /// any.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` if the link's lanes cannot be.
    pub(crate) fn new(
        region: Arc<Region>,
        side: usize,
        allowed: Option<KVec<u32>>,
        ring: Ring,
    ) -> Result<Self> {
        let layout = region.layout();
        let shape = Shape::new(layout.lane_slots(), layout.epoch()).ok_or(EINVAL)?;
        let (mine, peers) = (layout.side(side), layout.side(side ^ 1));
        let allowed = match allowed {
            Some(ids) => Some(Allowed::new(&ids, peers.cpus as usize)?),
            None => None,
        };
        let mut outboxes = KVec::with_capacity(mine.cpus as usize, GFP_KERNEL)?;
        for _ in 0..mine.cpus {
            let room = KVec::with_capacity(peers.cpus.min(mine.lanes) as usize, GFP_KERNEL)?;
            let outbox =
                KBox::pin_init(new_spinlock_irq!(room, "multikernel::outbox"), GFP_KERNEL)?;
            // There is room.
            let _ = outboxes.push_within_capacity(outbox);
        }
        let mut targets = KVec::with_capacity(peers.cpus as usize, GFP_KERNEL)?;
        for _ in 0..peers.cpus {
            let _ = targets.push_within_capacity(Target {
                last: LastRung(Atomic::new(0)),
                rung: Atomic::new(0),
            });
        }
        Ok(Self {
            shape,
            side,
            allowed,
            ring,
            outboxes,
            lanes: KBox::pin_init(
                new_spinlock_irq!(
                    Lanes {
                        used: 0,
                        of_cpus: 0,
                        common: None
                    },
                    "multikernel::lanes"
                ),
                GFP_KERNEL,
            )?,
            targets,
            down: Atomic::new(false),
            takes_links: Atomic::new(false),
            has_ports: Atomic::new(false),
            calls: Atomic::new(0),
            faults: Faults {
                undeliverable: Atomic::new(0),
                broken: Atomic::new(0),
            },
            has_deferred: Atomic::new(false),
            deferred: KBox::pin_init(
                new_spinlock_irq!(
                    KVec::with_capacity(DEFERRED_MAX, GFP_KERNEL)?,
                    "multikernel::deferred"
                ),
                GFP_KERNEL,
            )?,
            ports: KBox::pin_init(
                new_spinlock_irq!(Ports::new(mine.lanes as usize)?, "multikernel::ports"),
                GFP_KERNEL,
            )?,
            region,
        })
    }

    /// The other side did what it must not in a lane, which is not used any more. Called once for
    /// each end of a lane, so that the log has no more lines of a life than there are lanes.
    #[cold]
    pub(crate) fn note_broken(&self, which: &str, number: u32) {
        self.faults.broken.add(1, Relaxed);
        pr_warn!(
            "link to {}: the lane {} {} is broken and not used any more\n",
            self.peer_id(),
            which,
            number
        );
    }

    /// Whether a CPU of this APIC id may be rung: one that the other side has.
    pub(crate) fn may_ring(&self, apic_id: u32) -> bool {
        let allowed = self.allowed.as_ref();
        allowed.is_none_or(|allowed| allowed.contains(apic_id))
    }

    /// The other side is given more CPUs, none of which it has. The caller holds the registry's
    /// mutex.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if it then had more than there are in the link's layout; none is added.
    pub(crate) fn allow(&self, apic_ids: &[u32]) -> Result {
        self.allowed.as_ref().map_or(Ok(()), |it| it.add(apic_ids))
    }

    /// The other side's number.
    pub(crate) fn peer(&self) -> usize {
        self.side ^ 1
    }

    /// The other side's instance id, 0 for the host.
    pub(crate) fn peer_id(&self) -> u32 {
        self.region.layout().side(self.peer()).id
    }

    /// Bytes of the memory that the link takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.region.bytes()
    }

    /// What lanes look like.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The other side is gone. When this returns, nobody rings for messages any more; those who
    /// ring for ports are waited for by `ports::abandon()`.
    pub(crate) fn take_down(&self) {
        self.down.store(true, Release);
        for outbox in &self.outboxes {
            drop(outbox.lock());
        }
        drop(self.lanes.lock());
    }

    /// That messages can be sent.
    ///
    /// # Errors
    ///
    /// `EPIPE` if the other side is gone, `ENOTCONN` if it is not there yet, `EPROTONOSUPPORT` if
    /// it has another version of the ABI.
    pub(crate) fn check_up(&self) -> Result {
        match self.region.state(self.peer()) {
            _ if self.down.load(Relaxed) => Err(EPIPE),
            abi::LINK_UP if self.region.is_known(self.peer()) => Ok(()),
            abi::LINK_UP => Err(EPROTONOSUPPORT),
            abi::LINK_GONE => Err(EPIPE),
            _ => Err(ENOTCONN),
        }
    }

    /// Rings any CPU of the other side: what has been opened or closed is seen by each.
    pub(crate) fn ring_any(&self) {
        let _ = self.ring(self.any_target(CpuId::current().as_u32()));
    }

    /// The other side's CPU that messages go to which do not care: the one of the sending CPU's
    /// number, as far as there is one.
    fn any_target(&self, from: u32) -> u32 {
        let cpus = self.region.layout().side(self.peer()).cpus.max(1);
        let first = from % cpus;
        let online = |&cpu: &u32| {
            let bell = self.region.bell(self.peer(), cpu);
            bell.is_some_and(|bell| bell.is_online())
        };
        Iterator::chain(first..cpus, 0..first)
            .find(online)
            .unwrap_or(0)
    }

    /// Sends a message to a CPU of the other side, or to any. Never waits; may be called in any
    /// context but an NMI.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: no credit, for the moment.
    /// - `EMSGSIZE`: it is too long.
    /// - `EINVAL`: the other side has no such CPU.
    /// - `EPROTO`: the other side has broken the lane.
    /// - `EPIPE`, `ENOTCONN`, `EPROTONOSUPPORT`: as [`Self::check_up`].
    pub(crate) fn send(&self, to: Option<u32>, kind: u8, port: u32, payload: &[u8]) -> Result {
        self.check_up()?;
        // The task may move to another CPU from here on. It then uses this one's outbox, which is
        // as good as its own.
        let from = CpuId::current().as_u32() % (self.outboxes.len().max(1) as u32);
        let to = to.unwrap_or_else(|| self.any_target(from));
        let target = self.targets.get(to as usize).ok_or(EINVAL)?;
        let outbox = self.outboxes.get(from as usize).ok_or(EINVAL)?;

        let mut lanes = outbox.lock();
        let sent = match self.lane_to(&mut lanes, from, to) {
            // With the lock, so that nobody who was not rung for waits for who rings.
            Some(lane) => self.send_in(lane, target, kind, port, payload),
            None => {
                drop(lanes);
                self.send_common(kind, port, payload)?
            }
        };
        sent.map_err(|error| match error {
            SendError::Full => EAGAIN,
            SendError::TooLong => EMSGSIZE,
            SendError::Broken => EPROTO,
        })
    }

    /// Sends a message in a lane, whose lock the caller has, and rings; also for a full lane, if
    /// its receiver sleeps.
    fn send_in(
        &self,
        lane: &mut Outgoing,
        target: &Target,
        kind: u8,
        port: u32,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let sent = lane.traffic.send(&mut lane.sender, kind, port, payload);
        if sent == Err(SendError::Broken) && lane.sender.is_newly_broken() {
            self.note_broken("to CPU", lane.to);
        }
        let rung = self.ring_for(lane.to, target);
        lane.traffic.count_doorbell(rung);
        sent
    }

    /// Sends an answer, now or when there is credit. In any context but an NMI.
    ///
    /// It waits apart, so that what came behind the call is taken meanwhile: two kernels that
    /// answer each other could else both wait for credit for ever. An answer is lost only if the
    /// other side has more calls waiting than it can have, or if there is no memory; the caller's
    /// wait ends by its time then.
    ///
    /// # Errors
    ///
    /// As [`Self::send`], but `EAGAIN`; `ENOMEM`, `ENOBUFS`.
    pub(crate) fn answer(&self, to: u32, port: u32, payload: &[u8]) -> Result {
        match self.send(Some(to), abi::MESSAGE_REPLY, port, payload) {
            Err(EAGAIN) => {}
            result => return result,
        }
        let mut copy = KVec::with_capacity(payload.len(), GFP_ATOMIC)?;
        copy.extend_from_slice(payload, GFP_ATOMIC)?;
        let deferred = Deferred {
            to,
            port,
            payload: copy,
        };
        let mut list = self.deferred.lock();
        let added = list.push_within_capacity(deferred);
        self.has_deferred.store(true, Relaxed);
        drop(list);
        // Who answers from a work item has nobody else look again.
        inbox::answers_wait();
        added.map_err(|_| ENOBUFS)
    }

    /// Sends answers that were deferred, as far as there is credit, oldest first; whether there are
    /// any left.
    pub(crate) fn send_deferred(&self) -> bool {
        if !self.has_deferred.load(Relaxed) {
            return false;
        }
        let mut list = self.deferred.lock();
        while let Some(next) = list.first() {
            if self.send(Some(next.to), abi::MESSAGE_REPLY, next.port, &next.payload) == Err(EAGAIN)
            {
                return true;
            }
            // It has been sent, or cannot be any more.
            let _ = list.remove(0);
        }
        self.has_deferred.store(false, Relaxed);
        false
    }

    /// The lane to a CPU of the other side, made if there is none yet; `None` if there can be none.
    fn lane_to<'a>(&self, outbox: &'a mut Outbox, from: u32, to: u32) -> Option<&'a mut Outgoing> {
        let found = outbox.iter().position(|lane| lane.to == to);
        let at = match found {
            Some(at) => at,
            None => {
                let lane = self.open_lane(from, to)?;
                outbox.push_within_capacity(lane).ok()?;
                outbox.len() - 1
            }
        };
        outbox.get_mut(at)
    }

    /// Takes one more lane into use, for a pair of CPUs. Half of them are kept for ports.
    fn open_lane(&self, from: u32, to: u32) -> Option<Outgoing> {
        let mut lanes = self.lanes.lock();
        if lanes.of_cpus >= self.region.layout().side(self.side).lanes / 2 {
            return None;
        }
        let made = self.make_lane(&mut lanes, LaneEnds::of_cpus(from, to), 1)?;
        lanes.of_cpus += 1;
        Some(Outgoing::new(to, made))
    }

    /// Takes one more lane into use, for a port that `cpu` looks after: its number, and the lane.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is none left.
    pub(crate) fn open_port_lane(&self, port: u32, cpu: u32) -> Result<(u32, Sender<LaneWords>)> {
        let ends = LaneEnds {
            from: abi::LANE_OF_PORT,
            to: port,
            state: abi::LANE_OPEN,
            cpu,
        };
        self.make_lane(&mut self.lanes.lock(), ends, 1)
            .ok_or(ENOSPC)
    }

    /// Takes the next lane into use, if besides it so many are left: one is the common lane's.
    fn make_lane(
        &self,
        lanes: &mut Lanes,
        ends: LaneEnds,
        spare: u32,
    ) -> Option<(u32, Sender<LaneWords>)> {
        let number = lanes.used;
        let spare = if lanes.common.is_some() { 0 } else { spare };
        if number + spare >= self.region.layout().side(self.side).lanes {
            return None;
        }
        let memory = self.region.lane(self.side, number)?;
        self.region.open_lane(self.side, number, ends).ok()?;
        lanes.used = number + 1;
        Some((number, Sender::new(memory, self.shape)))
    }

    /// Sends in the common lane, which leads to the other side's first CPU.
    fn send_common(&self, kind: u8, port: u32, payload: &[u8]) -> Result<Result<(), SendError>> {
        let mut lanes = self.lanes.lock();
        if lanes.common.is_none() {
            let made = self.make_lane(&mut lanes, LaneEnds::of_cpus(0, 0), 0);
            lanes.common = Some(Outgoing::new(0, made.ok_or(ENOSPC)?));
        }
        let lane = lanes.common.as_mut().ok_or(ENOSPC)?;
        let target = self.targets.first().ok_or(ENOSPC)?;
        Ok(self.send_in(lane, target, kind, port, payload))
    }

    /// Tells of the lanes in which this side sends, those of ports aside.
    pub(crate) fn lanes_sent(&self, tell: &mut dyn FnMut(uapi::multikernel_link_lane)) {
        for (from, outbox) in (0..).zip(&self.outboxes) {
            for lane in outbox.lock().iter_mut() {
                tell(lane.stats(from, 0));
            }
        }
        if let Some(common) = &mut self.lanes.lock().common {
            tell(common.stats(0, uapi::MULTIKERNEL_LANE_COMMON));
        }
    }

    /// How often each CPU of the other side has been rung.
    pub(crate) fn rung(&self) -> impl Iterator<Item = u64> + '_ {
        self.targets.iter().map(|target| target.rung.load(Relaxed))
    }

    /// Rings a CPU of the other side if it sleeps; whether it did.
    fn ring_for(&self, to: u32, target: &Target) -> bool {
        let Some(bell) = self.region.bell(self.peer(), to) else {
            return false;
        };
        wake::must_ring(&bell, &target.last) && self.ring(to)
    }

    /// Rings a CPU of the other side, unless it has gone: then its CPUs may be somebody else's.
    /// Whether it has been rung.
    ///
    /// The caller has one of the locks that [`Self::take_down`] waits for: an outbox, the list of
    /// lanes or that of ports, or an end of a port.
    pub(crate) fn ring(&self, to: u32) -> bool {
        if self.down.load(Acquire) {
            return false;
        }
        let target = self.targets.get(to as usize);
        let bell = self.region.bell(self.peer(), to);
        let Some((bell, target)) = bell.zip(target) else {
            return false;
        };
        let vector = u8::try_from(self.region.vector(self.peer())).unwrap_or(0);
        let apic_id = bell.apic_id();
        // What the other side says is good only for its own CPUs, and for no exception's vector.
        if vector < 32 || !self.may_ring(apic_id) {
            return false;
        }
        target.rung.add(1, Relaxed);
        (self.ring)(apic_id, vector);
        true
    }
}

impl Outgoing {
    /// A lane to a CPU of the other side: its number, and its sending end.
    fn new(to: u32, (number, sender): (u32, Sender<LaneWords>)) -> Self {
        Self {
            number,
            to,
            sender,
            traffic: Traffic::default(),
        }
    }

    fn stats(&mut self, from: u32, flags: u32) -> uapi::multikernel_link_lane {
        let lane = stats::lane(self.number, flags, from, self.to);
        self.traffic.sent(&mut self.sender, lane)
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_link_outbox)]
mod tests {
    use super::*;

    #[test]
    fn apic_ids_are_added_all_or_none() -> Result {
        let allowed = Allowed::new(&[4], 3)?;
        assert!(allowed.contains(4) && !allowed.contains(5));
        // No CPU has that id, whatever is free.
        assert!(!allowed.contains(u32::MAX));
        assert_eq!(allowed.add(&[5, 6, 7]), Err(ENOSPC));
        assert!(!allowed.contains(5));
        allowed.add(&[5, 0])?;
        assert!(allowed.contains(5) && allowed.contains(0) && allowed.contains(4));
        assert_eq!(allowed.add(&[6]), Err(ENOSPC));
        // A layout with less room than there are ids does not lose one.
        assert!(Allowed::new(&[1, 2, 3], 1)?.contains(3));
        Ok(())
    }
}
