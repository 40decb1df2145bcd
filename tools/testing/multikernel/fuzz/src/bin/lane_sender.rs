// SPDX-License-Identifier: GPL-2.0

//! A sender against any receiver.

#![no_main]

libfuzzer_sys::fuzz_target!(
    |bytes: &[u8]| multikernel_pure::hostile::receiver_against_sender(bytes)
);
