// SPDX-License-Identifier: GPL-2.0

//! Prints the crash matrix: see `multikernel_model::matrix`.

fn main() {
    print!("{}", multikernel_model::matrix::text());
}
