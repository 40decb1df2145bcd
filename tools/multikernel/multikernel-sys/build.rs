// SPDX-License-Identifier: GPL-2.0

//! Generates the bindings from the header, so that the two cannot drift apart.

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let header = here.join("../../../include/uapi/linux/multikernel.h");
    let header = header
        .to_str()
        .ok_or("the path to the header is not UTF-8")?;

    println!("cargo::rerun-if-changed={header}");
    // <linux/types.h> and <linux/ioctl.h> come from the system's kernel headers: the ones in the
    // kernel tree are not meant for user space before `make headers_install`.
    bindgen::Builder::default()
        .header(header)
        .allowlist_type("multikernel_.*")
        .allowlist_var("MULTIKERNEL_.*")
        .allowlist_var("KEXEC_MULTIKERNEL.*")
        .derive_default(true)
        .derive_debug(true)
        .explicit_padding(true)
        .generate_comments(false)
        .prepend_enum_name(false)
        .layout_tests(true)
        .generate()?
        .write_to_file(PathBuf::from(env::var("OUT_DIR")?).join("bindings.rs"))?;
    Ok(())
}
