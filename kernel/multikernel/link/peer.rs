// SPDX-License-Identifier: GPL-2.0

//! Who is at the other end: how the host makes a link for a spawn that it starts, and how a spawn
//! takes part in it.
//!
//! A link lives as long as one life of the spawn, and its memory is that life's alone. It is made
//! before each start, while no spawn runs; see `run.rs`, which has the instance in hand then.

#[cfg(CONFIG_MULTIKERNEL_GUEST)]
use kernel::sync::SetOnce;
use kernel::{
    prelude::*,
    sync::Arc, //
};

#[cfg(CONFIG_MULTIKERNEL_VSOCK)]
use super::vsock;
use super::{
    call,
    inbox,
    layout::Layout,
    outbox::Link,
    ports,
    region::Region, //
};
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
use crate::abi::LINK_SIDE_SPAWN;
use crate::{
    abi::{
        self,
        LinkSide,
        LINK_SIDE_HOST, //
    },
    arch::{
        apic,
        doorbell, //
    },
    memory::{
        SharedPages,
        PAGE_SIZE, //
    },
    version::claim, //
};

/// Slots of a lane: 4 KiB.
const LANE_SLOTS: u32 = 64;
/// Lanes of a side.
const LANES: u32 = 24;
/// Bytes of data that a side has at least; what is left of the pages is shared out.
const DATA_BYTES: u64 = 16 << 10;

/// Id and number of CPUs of a side.
pub(crate) type Side = (u32, usize);

fn layout(sides: [Side; 2], data_bytes: u64, epoch: u32) -> Result<Layout> {
    let side = |(id, cpus): Side| LinkSide {
        id,
        cpus: u32::try_from(cpus)
            .unwrap_or(u32::MAX)
            .clamp(1, abi::LINK_CPUS_MAX),
        lanes: LANES,
        // CAST: Bounded by the size of the pages.
        data_bytes: data_bytes as u32,
    };
    Layout::new(sides.map(side), LANE_SLOTS, epoch).map_err(|_| EINVAL)
}

/// Makes the memory of a link: new memory each time, so that who still has something open of an
/// earlier one sees and changes that alone. Says also where it is, and how many bytes.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn make(sides: [Side; 2], epoch: u32) -> Result<(Arc<Region>, u64, u64)> {
    let least = layout(sides, DATA_BYTES, epoch)?;
    let appended = claim::appended();
    let pages = SharedPages::new((least.size() + appended).next_power_of_two())?;
    let spare = pages.size().saturating_sub(least.size() + appended) / 2;
    let data_bytes = DATA_BYTES + spare / PAGE_SIZE * PAGE_SIZE;
    let layout = layout(sides, data_bytes, epoch)?;
    let (base, size) = (pages.phys(), layout.size() + appended);
    let region = Arc::new(Region::in_pages(pages, layout)?, GFP_KERNEL)?;
    region.write_header();
    Ok((region, base, size))
}

/// Makes the host's side of the link to an instance that is about to be started, for this epoch, to
/// CPUs with these APIC ids, of which there will be `cpus_max` at most. Messages are taken from now
/// on. Returns also where its memory is, and how many bytes.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn open(
    id: u32,
    epoch: u32,
    apic_ids: KVec<u32>,
    cpus_max: usize,
) -> Result<(Arc<Link>, u64, u64)> {
    let cpus = kernel::cpu::nr_cpu_ids() as usize;
    let (region, base, size) = make([(0, cpus), (id, cpus_max)], epoch)?;
    let link = join(region, LINK_SIDE_HOST, Some(apic_ids))?;
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    vsock::open(&link);
    Ok((link, base, size))
}

/// Takes part in a link on one side, to ring CPUs of the other that have these APIC ids, or any.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn join(
    region: Arc<Region>,
    side: usize,
    allowed: Option<KVec<u32>>,
) -> Result<Arc<Link>> {
    let link = Arc::new(Link::new(region, side, allowed, ring)?, GFP_KERNEL)?;
    inbox::attach(&link)?;
    link.region
        .announce(side, abi::LINK_UP, doorbell::VECTOR.into());
    Ok(link)
}

fn ring(apic_id: u32, vector: u8) {
    if let Ok(id) = apic::ApicId::new(apic_id) {
        apic::send_interrupt(id, vector);
    }
}

/// Ends a link whose other side does not run any more, or is not to be talked to.
pub(crate) fn close(link: &Arc<Link>) {
    link.region.announce(link.side, abi::LINK_GONE, 0);
    part(link);
}

/// Has no part in a link any more, without a word in its memory.
pub(crate) fn part(link: &Arc<Link>) {
    link.take_down();
    inbox::detach(link);
    call::abandon(link);
    ports::abandon(link);
    #[cfg(CONFIG_MULTIKERNEL_VSOCK)]
    vsock::close(link);
}

/// The link of this kernel, a spawn, to its host.
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
static HOST: SetOnce<Arc<Link>> = SetOnce::new();

/// The link to the host, if this kernel is a spawn and has one.
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) fn host() -> Option<&'static Arc<Link>> {
    HOST.as_ref()
}

/// Takes part in the link to the host, in this life of the instance.
///
/// # Errors
///
/// `ESTALE` if it is another instance's link, or that of another life; `ENOMEM`.
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) fn join_host(region: Region, id: u32, epoch: u32) -> Result {
    let layout = region.layout();
    if layout.side(LINK_SIDE_SPAWN).id != id || layout.epoch() != epoch {
        return Err(ESTALE);
    }
    let region = Arc::new(region, GFP_KERNEL)?;
    // The host learns nothing new of its own CPUs by being rung where it says.
    let link = join(region, LINK_SIDE_SPAWN, None)?;
    HOST.populate(link);
    Ok(())
}

/// Has sockets use the link to the host, if there is one. Not before the device initcalls have run:
/// one of them sets up the kernel's table of sockets, and the host's processes may have begun to
/// connect by then.
#[cfg(all(CONFIG_MULTIKERNEL_GUEST, CONFIG_MULTIKERNEL_VSOCK))]
pub(crate) fn open_host_sockets() {
    if let Some(link) = host() {
        vsock::open(link);
    }
}

/// Says that this kernel, a spawn, takes no messages any more. In any context.
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
pub(crate) fn leave_host() {
    if let Some(link) = host() {
        link.region.announce(link.side, abi::LINK_GONE, 0);
    }
}
