// SPDX-License-Identifier: GPL-2.0

//! Stands in for the kernel's `macros` crate, as far as pure modules use it.

use proc_macro::TokenStream;

/// Makes a module of KUnit tests one of cargo tests: its functions carry `#[test]` already, and may
/// return `Result`, so all that is left is to leave the module out of other builds.
#[proc_macro_attribute]
pub fn kunit_tests(_suite: TokenStream, module: TokenStream) -> TokenStream {
    let mut gated: TokenStream = "#[cfg(test)]".parse().expect("a well-formed attribute");
    gated.extend(module);
    gated
}
