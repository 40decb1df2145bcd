// SPDX-License-Identifier: GPL-2.0

//! Nothing: the models are the tests of this crate.
