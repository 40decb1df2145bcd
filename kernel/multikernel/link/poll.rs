// SPDX-License-Identifier: GPL-2.0

//! How long a caller looks for its answer before it sleeps, and an idle CPU for more messages. The
//! pure part.
//!
//! As `halt_poll_ns` of KVM (Documentation/virt/kvm/halt-polling.rst): the window grows where the
//! answer would have come within what is allowed, and shrinks where it comes later, so that who
//! waits long does not burn a CPU first. This file uses `core` alone and has no `unsafe`; a window
//! belongs to a CPU and is guarded by the lock beside it, see `inbox.rs`.

#![allow(unreachable_pub)]

/// The smallest window but none.
pub const START_NS: u64 = 10_000;

/// For how long is polled now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    ns: u64,
}

impl Window {
    /// No polling until it is known to be of use.
    pub const fn new() -> Self {
        Self { ns: 0 }
    }

    /// Nanoseconds for which is polled, of `max_ns` that are allowed.
    pub fn ns(&self, max_ns: u64) -> u64 {
        self.ns.min(max_ns)
    }

    /// A wait has ended, that much after it began, polling included.
    pub fn waited(&mut self, waited_ns: u64, max_ns: u64) {
        let ns = self.ns(max_ns);
        self.ns = if waited_ns > max_ns {
            match ns / 2 {
                less if less >= START_NS => less,
                _ => 0,
            }
        } else if waited_ns > ns {
            (ns * 2).max(START_NS).min(max_ns)
        } else {
            ns
        };
    }
}

#[cfg(any(test, CONFIG_MULTIKERNEL_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(multikernel_link_poll))]
mod tests {
    use super::*;

    const MAX: u64 = 200_000;

    #[test]
    fn grows_while_answers_come_soon() {
        let mut window = Window::new();
        assert_eq!(window.ns(MAX), 0);
        let mut sizes = [0; 6];
        for size in &mut sizes {
            window.waited(90_000, MAX);
            *size = window.ns(MAX);
        }
        // Until it is enough, and not further.
        assert_eq!(sizes, [10_000, 20_000, 40_000, 80_000, 160_000, 160_000]);
        window.waited(MAX, MAX);
        assert_eq!(window.ns(MAX), MAX);
        window.waited(MAX, MAX);
        assert_eq!(window.ns(MAX), MAX);
    }

    #[test]
    fn shrinks_to_nothing_while_they_do_not() {
        let mut window = Window { ns: MAX };
        let mut sizes = [0; 6];
        for size in &mut sizes {
            window.waited(MAX + 1, MAX);
            *size = window.ns(MAX);
        }
        assert_eq!(sizes, [100_000, 50_000, 25_000, 12_500, 0, 0]);
    }

    #[test]
    fn off_and_small() {
        let mut window = Window { ns: MAX };
        assert_eq!(window.ns(0), 0);
        window.waited(1, 0);
        assert_eq!(window.ns(MAX), 0);
        // Less than the smallest is what is allowed then.
        window.waited(1, 5_000);
        assert_eq!(window.ns(5_000), 5_000);
        window.waited(u64::MAX, u64::MAX);
        window.waited(u64::MAX, 1);
        assert_eq!(window.ns(MAX), 0);
    }
}
