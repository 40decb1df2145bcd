// SPDX-License-Identifier: GPL-2.0

//! That something has become of a session, for those in this kernel who wait for it.
//!
//! A counter, raised by the host's arbiter or by the host's message to a spawn, and the condition
//! variable that goes with it. Its spinlock has interrupts off, as messages come in a softirq, and
//! nests inside an inbox's. Who waits looks before and after: what is lost is only time.

use kernel::{
    new_condvar,
    new_spinlock_irq,
    prelude::*,
    sync::{
        CondVar,
        CondVarTimeoutResult,
        SetOnce,
        SpinLockIrq, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    }, //
};

#[pin_data]
struct News {
    #[pin]
    count: SpinLockIrq<u64>,
    #[pin]
    changed: CondVar,
}

static NEWS: SetOnce<Pin<KBox<News>>> = SetOnce::new();

/// After so long who waits looks again without having heard anything.
const LOOK_AGAIN_MS: u32 = 1000;

/// To be called once, at boot.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn set_up() -> Result {
    NEWS.populate(KBox::pin_init(
        pin_init!(News {
            count <- new_spinlock_irq!(0, "multikernel::session_news"),
            changed <- new_condvar!("multikernel::session_changed"),
        }),
        GFP_KERNEL,
    )?);
    Ok(())
}

/// Something has become of a session. In any context but an NMI.
pub(super) fn tell() {
    if let Some(news) = NEWS.as_ref() {
        *news.count.lock() += 1;
        news.changed.notify_all();
    }
}

/// Calls `look` until it returns something, after each piece of news, for at most so long.
///
/// # Errors
///
/// `ETIMEDOUT`, `EINTR`, and what `look` fails with.
pub(super) fn wait_for<T>(
    timeout_ms: u32,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let news = NEWS.as_ref().ok_or(EOPNOTSUPP)?;
    let mut left = msecs_to_jiffies(timeout_ms);
    loop {
        let seen = *news.count.lock();
        if let Some(found) = look()? {
            return Ok(found);
        }
        if left == 0 {
            return Err(ETIMEDOUT);
        }
        left = wait(news, seen, left)?;
    }
}

/// Waits until the counter is not `seen` any more, or it is time to look again. Returns how much
/// of `left` is left then.
fn wait(news: &News, seen: u64, left: Jiffies) -> Result<Jiffies> {
    let turn = left.min(msecs_to_jiffies(LOOK_AGAIN_MS));
    let rest = left - turn;
    let mut turn = turn;
    let mut count = news.count.lock();
    while *count == seen {
        match news.changed.wait_interruptible_timeout(&mut count, turn) {
            CondVarTimeoutResult::Woken { jiffies } => turn = jiffies,
            CondVarTimeoutResult::Timeout => return Ok(rest),
            CondVarTimeoutResult::Signal { .. } => return Err(EINTR),
        }
    }
    Ok(rest + turn)
}
