// SPDX-License-Identifier: GPL-2.0

//! The layout of a link against any header.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| multikernel_pure::hostile::header_against_layout(bytes));
