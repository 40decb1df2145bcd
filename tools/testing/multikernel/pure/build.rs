// SPDX-License-Identifier: GPL-2.0

//! Sets what Kconfig sets in the kernel.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=CONFIG_MULTIKERNEL_KUNIT_TEST");
}
