// SPDX-License-Identifier: GPL-2.0

//! `kexec_load(2)` into an instance.
//!
//! kernel/kexec.c makes the capability, LSM and lockdown checks and comes here. No `kimage` is
//! built: the spawn's memory is not the host's to protect from being overwritten, so that segments
//! go straight to their places. The instance's holdings are taken out of it while that is done.

use kernel::{
    ffi::{c_long, c_ulong},
    prelude::*,
    uapi, //
};

use crate::{
    image::{self, Segment},
    instance::{Holdings, Image, Reason, State},
    ledger::InstanceId,
    memory,
    registry::{Purpose, Subsystem},
    user, //
};

/// Loads an image into an instance, or unloads what is loaded.
///
/// # Safety
///
/// To be called by `kexec_load(2)` only, in process context.
#[no_mangle]
unsafe extern "C" fn multikernel_kexec_load(
    entry: c_ulong,
    nr_segments: c_ulong,
    segments: *const u8,
    flags: c_ulong,
) -> c_long {
    let id = (flags as u32 & uapi::KEXEC_MULTIKERNEL_ID_MASK) >> uapi::KEXEC_MULTIKERNEL_ID_SHIFT;
    match load(id, entry as u64, nr_segments as u64, segments.addr() as u64) {
        Ok(()) => 0,
        // Found by its id, and destroyed before it was taken: there is none of this id.
        Err(ESTALE) => ENOENT.to_errno() as c_long,
        Err(error) => error.to_errno() as c_long,
    }
}

/// # Errors
///
/// `EINVAL` for id 0 or a malformed list, `ENOENT`, `EBUSY`, `EADDRNOTAVAIL`, `EFAULT`, `ENOMEM`.
/// What was loaded before stays loaded, unless the source became unreadable while it was copied.
fn load(id: u32, entry: u64, nr_segments: u64, segments: u64) -> Result {
    let subsystem = Subsystem::get()?;
    let id = InstanceId::new(id).ok_or(EINVAL)?;
    let handle = subsystem.lock().find_id(id)?.handle();

    if nr_segments == 0 {
        let holdings =
            subsystem.take_holdings(handle, Purpose::Work, |instance| instance.check_idle())?;
        subsystem.put_back(handle, holdings, |instance| {
            instance.image = None;
            instance.change(subsystem, State::Ready, Reason::None);
        });
        return Ok(());
    }

    let count = u32::try_from(nr_segments).map_err(|_| EINVAL)?;
    let list: KVec<Segment> = user::read_array(segments, count, image::SEGMENTS_MAX as u32)?;
    let holdings =
        subsystem.take_holdings(handle, Purpose::Work, |instance| instance.check_idle())?;
    let checked = image::check(&list, entry, &holdings.room()).and_then(|bytes| {
        for segment in &list {
            memory::check_readable(segment.buf, segment.bufsz)?;
        }
        Ok(bytes)
    });
    let bytes = match checked {
        Ok(bytes) => bytes,
        Err(error) => {
            subsystem.put_back(handle, holdings, |_| ());
            return Err(error);
        }
    };
    let copied = copy(&list, &holdings);
    subsystem.put_back(handle, holdings, |instance| {
        instance.image = copied.is_ok().then_some(Image { entry, bytes });
        let state = if copied.is_ok() {
            State::Loaded
        } else {
            State::Ready
        };
        instance.change(subsystem, state, Reason::None);
    });
    copied
}

fn copy(list: &[Segment], holdings: &Holdings) -> Result {
    for segment in list {
        let region = holdings
            .region(segment.mem, segment.memsz)
            .ok_or(EADDRNOTAVAIL)?;
        region.copy_from_user(segment.mem, segment.buf, segment.bufsz)?;
        region.zero(segment.mem + segment.bufsz, segment.memsz - segment.bufsz)?;
    }
    Ok(())
}
