// SPDX-License-Identifier: GPL-2.0

//! A spawn that passes for one of another version of the ABI, so that a test can see what the host
//! makes of it.
//!
//! With `CONFIG_MULTIKERNEL_GUEST_CRASH_TEST`, `multikernel_claim=VERSION.MINOR` on the command
//! line has this kernel say so of itself, and take from the host what such a kernel would take.
//! Read once, at boot, on one CPU.

use kernel::{
    bindings,
    prelude::*,
    sync::atomic::Relaxed, //
};

use crate::version::claim;

/// The parameter's name.
const NAME: &str = "multikernel_claim=";

/// Looks for the parameter, wherever on the command line it is: it has to be known before the
/// shared area is looked at, which another parameter begins.
#[link_section = ".init.text"]
pub(super) fn take_claim() {
    // SAFETY: Early parameters are parsed after `boot_command_line` has been filled in, with a
    // zero at its end, and nobody changes it meanwhile.
    let line = unsafe { CStr::from_char_ptr((&raw const bindings::boot_command_line).cast()) };
    let Some((version, minor)) = line.to_str().ok().and_then(parse) else {
        return;
    };
    pr_info!("passing for one of version {}.{}\n", version, minor);
    claim::VERSION.store(version, Relaxed);
    claim::LINK_VERSION.store(version, Relaxed);
    claim::MINOR.store(minor, Relaxed);
}

/// What a command line says, if it says anything.
fn parse(line: &str) -> Option<(u32, u32)> {
    let word = line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(NAME))?;
    let (version, minor) = word.split_once('.')?;
    Some((version.parse().ok()?, minor.parse().ok()?))
}
