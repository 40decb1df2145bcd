// SPDX-License-Identifier: GPL-2.0

//! The pure part of what a spawn kernel adds: for their own tests only, as they are private there.

// Their callers are in the kernel.
#![allow(dead_code)]

#[path = "../../../../../kernel/multikernel/guest/clock.rs"]
mod clock;
#[path = "../../../../../kernel/multikernel/guest/header.rs"]
mod header;
