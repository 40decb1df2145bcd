// SPDX-License-Identifier: GPL-2.0

//! Which ports of a link have lanes here, and what a doorbell and the link's end mean for them.
//!
//! Owns the list of ports, with the ends of those that nobody has open at the moment; of the others
//! `channel.rs` has them. It is guarded by a spinlock with interrupts off, see there.

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    uapi, //
};

use super::{
    channel::{
        Channel,
        Reader,
        Writer, //
    },
    outbox::Link, //
};

/// The ends of a port that nobody has open at the moment.
pub(super) struct Ends {
    pub(super) writer: Writer,
    pub(super) reader: Option<Reader>,
}

/// A port that is or was open here.
pub(super) struct Port {
    pub(super) number: u32,
    /// If nobody has it.
    pub(super) ends: Option<Ends>,
    /// If somebody has it.
    pub(super) channel: Option<Arc<Channel>>,
}

/// The ports of a link.
pub(crate) struct Ports {
    pub(super) list: KVec<Port>,
    /// `LinkState::changes` of the other side as last seen.
    changes: u32,
}

impl Ports {
    /// Room for as many ports as there are lanes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(lanes: usize) -> Result<Self> {
        Ok(Self {
            list: KVec::with_capacity(lanes, GFP_KERNEL)?,
            changes: 0,
        })
    }
}

/// A doorbell rang on a CPU: wakes those who wait for what it may be about; whether there was one.
pub(crate) fn doorbell(link: &Arc<Link>, cpu: u32) -> bool {
    if !link.has_ports.load(Relaxed) {
        return false;
    }
    let mut any = false;
    let mut ports = link.ports.lock();
    let changes = link.region.changes(link.peer());
    let anew = changes != ports.changes;
    ports.changes = changes;
    for port in &ports.list {
        if let Some(channel) = &port.channel {
            if anew || channel.cpu == cpu || link.check_up().is_err() {
                any |= channel.wake(anew);
            }
        }
    }
    any
}

/// The other side of a link has gone: nobody waits for it any longer, or rings for a port.
pub(crate) fn abandon(link: &Arc<Link>) {
    for port in &link.ports.lock().list {
        if let Some(channel) = &port.channel {
            // Who has seen the link up with one of these locks waits by now, or has rung.
            drop(channel.reader.lock());
            drop(channel.writer.lock());
            channel.changed.notify_all();
        }
    }
}

/// Tells of the lanes of ports.
pub(crate) fn lanes(link: &Link, tell: &mut dyn FnMut(uapi::multikernel_link_lane)) {
    for port in link.ports.lock().list.iter_mut() {
        let number = port.number;
        if let Some(channel) = &port.channel {
            if let Some(writer) = &mut *channel.writer.lock() {
                tell(writer.stats(number, channel.is_mapped()));
            }
            if let Some(reader) = &*channel.reader.lock() {
                tell(reader.stats(number, channel.is_mapped()));
            }
        } else if let Some(ends) = &mut port.ends {
            tell(ends.writer.stats(number, false));
            if let Some(reader) = &ends.reader {
                tell(reader.stats(number, false));
            }
        }
    }
}
