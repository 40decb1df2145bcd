// SPDX-License-Identifier: GPL-2.0

//! A receiver against any sender.

#![no_main]

libfuzzer_sys::fuzz_target!(
    |bytes: &[u8]| multikernel_pure::hostile::sender_against_receiver(bytes)
);
