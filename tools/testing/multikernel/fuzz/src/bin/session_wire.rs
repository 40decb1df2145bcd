// SPDX-License-Identifier: GPL-2.0

//! Requests and answers about arenas and sessions against any bytes.

#![no_main]

use multikernel_pure::hostile_session;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile_session::bytes_against_wire(bytes));
