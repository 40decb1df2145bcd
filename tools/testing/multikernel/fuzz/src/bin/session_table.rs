// SPDX-License-Identifier: GPL-2.0

//! A session's entries against an arena that another kernel writes to.

#![no_main]

use multikernel_pure::hostile_session;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile_session::arena_against_table(bytes));
