// SPDX-License-Identifier: GPL-2.0

//! Nothing: what is fuzzed is in `multikernel_pure::hostile` and `hostile_session`, the programs
//! are in `src/bin/`.
