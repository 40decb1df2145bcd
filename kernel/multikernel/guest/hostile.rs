// SPDX-License-Identifier: GPL-2.0

//! A spawn that means harm to the link, so that a test can see what the others make of it.
//!
//! A spawn with `CONFIG_MULTIKERNEL_GUEST_CRASH_TEST` has the file
//! `/sys/kernel/debug/multikernel/scribble`. Writing "AREA SEED ROUNDS" into it has the CPU that
//! this runs on write to the link's memory, see [`AREAS`], and ring the host's doorbells, as the
//! seed says, for so many rounds with a pause after each. Several tasks on several CPUs may do so
//! at a time. Half of what is written makes some sense: garbage alone would not come past the
//! first check.
//!
//! Nothing outside of the link's memory is written. Who touches the host's side of it has this
//! kernel leave the link first: what it rings, and with which vector, it believes its host.
//! No lock.

use kernel::{
    debugfs::Reader,
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta, //
    },
    uaccess::UserSliceReader, //
};

use super::{
    crash_test::{
        parse,
        Random, //
    },
    initcall,
    x86, //
};
use crate::{
    abi,
    link::{
        outbox::Link,
        peer,
        region::Region, //
    }, //
};

/// The longest text that the file takes: a word, a number of 64 bits, and one of rounds.
const LONGEST: usize = 64;
/// The most rounds of one request.
const ROUNDS_MAX: u64 = 1 << 20;
/// Words that are written in a round.
const WRITES: usize = 16;
/// Microseconds between two rounds, at least.
const PAUSE_US: i64 = 200;
/// One in so many rounds ends with a doorbell.
const RING_EVERY: usize = 4;

/// What is written to: of this side, but for the last three.
static AREAS: [(&[u8], &[Scribble]); 10] = [
    (b"slots", &[Scribbler::slots]),
    (b"heads", &[Scribbler::heads]),
    (b"directory", &[Scribbler::directory]),
    (b"bells", &[Scribbler::bells]),
    (b"state", &[Scribbler::state]),
    (b"data", &[Scribbler::data]),
    (b"mine", MINE),
    (b"host", &[Scribbler::host]),
    (b"header", &[Scribbler::header]),
    (
        b"all",
        &[Scribbler::mine, Scribbler::host, Scribbler::header],
    ),
];

/// All of this side.
static MINE: &[Scribble] = &[
    Scribbler::slots,
    Scribbler::heads,
    Scribbler::directory,
    Scribbler::bells,
    Scribbler::state,
    Scribbler::data,
];

/// The first of [`AREAS`] that is not of this side alone.
const FIRST_OF_HOST: usize = 7;

/// Writes a little.
type Scribble = fn(&mut Scribbler);

initcall::initcall!(".initcall7.init", "multikernel_guest_hostile", setup);

/// Makes the file, in a spawn with a link only.
#[link_section = ".init.text"]
fn setup() -> Result {
    let Some(link) = peer::host() else {
        return Ok(());
    };
    // As long as the host's bells say it.
    let mut doorbells = KVec::new();
    for cpu in 0..link.region.layout().side(link.peer()).cpus {
        if let Some(bell) = link.region.bell(link.peer(), cpu) {
            if bell.is_online() {
                doorbells.push(bell.apic_id(), GFP_KERNEL)?;
            }
        }
    }
    let request = Request {
        link: link.clone(),
        doorbells,
        vector: link.region.vector(link.peer()),
        own_vector: link.region.vector(link.side),
    };
    let directory = crate::view::directory();
    let file = KBox::pin_init(directory.write_only_file(c"scribble", request), GFP_KERNEL)?;
    // It is there for as long as the kernel is.
    core::mem::forget(file);
    Ok(())
}

/// The file: what is written to it is done, before write(2) returns.
struct Request {
    link: Arc<Link>,
    /// APIC ids of the host's CPUs.
    doorbells: KVec<u32>,
    /// Vector of their doorbells.
    vector: u32,
    /// Vector of this kernel's.
    own_vector: u32,
}

impl Reader for Request {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut buffer = [0; LONGEST];
        let length = reader.len();
        let text = buffer.get_mut(..length).ok_or(EINVAL)?;
        reader.read_slice(text)?;
        let mut words = text
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let name = words.next().ok_or(EINVAL)?;
        let mut number = || words.next().and_then(parse).ok_or(EINVAL);
        let (seed, rounds) = (number()?, number()?.min(ROUNDS_MAX));
        let at = AREAS
            .iter()
            .position(|(known, _)| *known == name)
            .ok_or(EINVAL)?;
        let (_, scribbles) = AREAS.get(at).ok_or(EINVAL)?;

        pr_info!(
            "scribble: {}, seed {}, {} rounds\n",
            core::str::from_utf8(name).unwrap_or_default(),
            seed,
            rounds
        );
        if at >= FIRST_OF_HOST {
            peer::part(&self.link);
        }
        let mut scribbler = Scribbler {
            region: self.link.region.clone(),
            mine: self.link.side,
            host: self.link.peer(),
            vector: self.own_vector,
            random: Random(seed),
        };
        for _ in 0..rounds {
            for _ in 0..WRITES {
                let which = scribbler.random.below(scribbles.len());
                if let Some(scribble) = scribbles.get(which) {
                    scribble(&mut scribbler);
                }
            }
            if scribbler.random.below(RING_EVERY) == 0 && !self.doorbells.is_empty() {
                let which = scribbler.random.below(self.doorbells.len());
                let apic_id = self.doorbells.get(which).copied().unwrap_or_default();
                x86::ring(apic_id, self.vector);
            }
            fsleep(Delta::from_micros(PAUSE_US));
        }
        Ok(())
    }
}

struct Scribbler {
    region: Arc<Region>,
    /// The side that is this kernel's.
    mine: usize,
    /// The other side.
    host: usize,
    /// Vector of this kernel's doorbell.
    vector: u32,
    random: Random,
}

impl Scribbler {
    /// A number: a small one, one at an end of its range, or any.
    fn number(&mut self) -> u64 {
        match self.random.below(8) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => u64::from(u32::MAX),
            4 | 5 => self.random.below(64) as u64,
            _ => self.random.next(),
        }
    }

    /// As [`Self::number`], of 32 bits.
    fn short(&mut self) -> u32 {
        // CAST: The lower half.
        self.number() as u32
    }

    /// Writes any number.
    fn any(&mut self, at: u64) {
        let value = self.number();
        self.region.scribble(at, value);
    }

    /// Writes any number of 32 bits.
    fn any_short(&mut self, at: u64) {
        let value = self.short();
        self.region.scribble_short(at, value);
    }

    /// A lane of a side, most often one of the first.
    fn lane(&mut self, side: usize) -> u32 {
        let lanes = self.region.layout().side(side).lanes.max(1) as usize;
        let below = if self.random.below(4) == 0 { lanes } else { 6 };
        // CAST: Below 6 or the number of lanes.
        self.random.below(below.min(lanes)) as u32
    }

    /// Writes into slots of this side.
    fn slots(&mut self) {
        self.slots_of(self.mine);
    }

    fn slots_of(&mut self, side: usize) {
        let lane = self.lane(side);
        let Some(at) = self.region.layout().lane(side, lane) else {
            return;
        };
        let slots = u64::from(self.region.layout().lane_slots());
        let epoch = u64::from(self.region.layout().epoch() & 0xffff);
        // Where the receiver is, or will be before long.
        let position = self.region.peek(at).unwrap_or(0) + self.random.below(8) as u64;
        let slot = at + abi::LANE_HEAD_BYTES as u64 + position % slots * 64;
        if self.random.below(4) == 0 {
            let (word, value) = (self.random.below(8) as u64, self.number());
            self.region.scribble(slot + word * 8, value);
            return;
        }
        // A call, a call with an answer's token, or something like it.
        let kind = match self.random.below(4) {
            0 => self.number() & 0xff,
            kind => u64::from(abi::LANE_FIRST) | (kind as u64 - 1),
        };
        let port = match self.random.below(4) {
            0 => self.number() & 0xffff_ffff,
            port => port as u64,
        };
        let length = match self.random.below(4) {
            0 => self.number() & 0xffff_ffff,
            1 => self.random.below(2048) as u64,
            _ => self.random.below(49) as u64,
        };
        let stamp = (position.wrapping_add(1) & 0xffff_ffff) | epoch << 32 | kind << 48;
        let payload = [
            port << 32 | length,
            // A token, of any of the places for calls.
            self.number(),
            // The port for the answer, and a status.
            u64::from(self.short() % 4) | u64::from(self.short()) << 32,
            self.number(),
        ];
        for (word, value) in (1..).zip(payload) {
            self.region.scribble(slot + word * 8, value);
        }
        self.region.scribble(slot, stamp);
    }

    /// Writes how far this side has taken what came, and who is to be woken for more.
    fn heads(&mut self) {
        self.heads_of(self.host);
    }

    fn heads_of(&mut self, side: usize) {
        let lane = self.lane(side);
        let Some(at) = self.region.layout().lane(side, lane) else {
            return;
        };
        let head = self.region.peek(at).unwrap_or(0);
        match self.random.below(4) {
            0 => self.region.scribble(at, self.random.next()),
            1 => {
                let ahead = self.random.below(80) as u64;
                self.region.scribble(at, head.wrapping_add(ahead));
            }
            2 => self.region.scribble(at + 64, self.random.next() | 1),
            _ => self.any_short(at + 72),
        }
    }

    /// Writes where lanes of this side lead.
    fn directory(&mut self) {
        self.directory_of(self.mine);
    }

    fn directory_of(&mut self, side: usize) {
        let lane = self.lane(side);
        let Some(at) = self.region.layout().directory(side, lane) else {
            return;
        };
        match self.random.below(5) {
            4 => self.region.scribble(at + 16, self.random.next() | 1),
            field => {
                let value = match self.random.below(3) {
                    0 => abi::LANE_OF_PORT,
                    1 => abi::PORT_USER + self.random.below(6) as u32,
                    _ => self.short(),
                };
                self.region.scribble_short(at + field as u64 * 4, value);
            }
        }
    }

    /// Writes how CPUs of this side are woken.
    fn bells(&mut self) {
        self.bells_of(self.mine);
    }

    fn bells_of(&mut self, side: usize) {
        let cpus = self.region.layout().side(side).cpus.max(1) as usize;
        // CAST: Below the number of CPUs.
        let cpu = self.random.below(cpus.min(16)) as u32;
        let Some(at) = self.region.layout().bell(side, cpu) else {
            return;
        };
        match self.random.below(3) {
            0 => self.region.scribble(at, self.random.next() | 1),
            1 => self.any_short(at + 8),
            _ => self.any_short(at + 12),
        }
    }

    /// Writes what this side says of itself.
    fn state(&mut self) {
        self.state_of(self.mine);
    }

    fn state_of(&mut self, side: usize) {
        let at = self.region.layout().state(side);
        match self.random.below(8) {
            0 => self.any_short(at),
            // Else nobody would look at the rest.
            1 | 2 => self.region.scribble_short(at, abi::LINK_UP),
            3 => {
                // Those of exceptions, and what is no vector. This kernel would not survive all
                // of the others.
                let vector = match self.random.below(4) {
                    0 => self.random.below(32) as u32,
                    1 => 256 + self.short() % 512,
                    _ => self.vector,
                };
                self.region.scribble_short(at + 4, vector);
            }
            4 => self.any_short(at + 8),
            5 => self.any_short(at + 12),
            6 => self.region.scribble(at + 16, self.random.next()),
            _ => self.any_short(at + 24),
        }
    }

    /// Writes into the data area of this side.
    fn data(&mut self) {
        self.data_of(self.mine);
    }

    fn data_of(&mut self, side: usize) {
        let words = self.region.layout().side(side).data_bytes as usize / 8;
        if words != 0 {
            let at = self.region.layout().data(side) + self.random.below(words) as u64 * 8;
            self.any(at);
        }
    }

    /// Writes anywhere into this side.
    fn mine(&mut self) {
        let which = self.random.below(MINE.len());
        if let Some(scribble) = MINE.get(which) {
            scribble(self);
        }
    }

    /// Writes to what is the host's alone to write.
    fn host(&mut self) {
        match self.random.below(6) {
            0 => self.slots_of(self.host),
            1 => self.heads_of(self.mine),
            2 => self.directory_of(self.host),
            3 => self.bells_of(self.host),
            4 => self.state_of(self.host),
            _ => self.data_of(self.host),
        }
    }

    /// Writes into the link's header.
    fn header(&mut self) {
        let words = size_of::<abi::LinkHeader>() / 8;
        let at = self.random.below(words) as u64 * 8;
        self.any(at);
    }
}
