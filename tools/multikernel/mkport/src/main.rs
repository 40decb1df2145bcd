// SPDX-License-Identifier: GPL-2.0

//! Programs that talk over mapped ports, for the selftest `ports_mapped.sh`, and figures.
//!
//! `mkport serve` in a spawn has the ports below, for ever. `mkport CASE NAME` on the host does one
//! thing with the server in the instance of that name, and says what it did; its status is 0 if all
//! was as it should be. Cases are in `case`, what is served is in `serve`, and `strict` has what
//! both do without system calls.

mod case;
mod figures;
mod message;
mod refuse;
mod serve;
mod strict;

use std::process::ExitCode;

/// Returns each message as it was, by a mapped port that polls for long.
const ECHO_MAPPED: u32 = 0x10100;
/// The same by read(2) and write(2).
const ECHO_PLAIN: u32 = 0x10101;
/// The same by a mapped port that sleeps at once.
const ECHO_SLEEPER: u32 = 0x10102;
/// The same on tokio.
const ECHO_ASYNC: u32 = 0x10103;
/// Echoes in a process that can make no system call but read(2), write(2) and exit(2).
const ECHO_STRICT: u32 = 0x10104;
/// Takes messages, slowly at first; the message `?` is answered with what came.
const SINK: u32 = 0x10105;
/// The host writes garbage into its mapping: the server tells on [`REPORT`] what it makes of it.
const SCRIBBLED: u32 = 0x10106;
/// What came of [`SCRIBBLED`].
const REPORT: u32 = 0x10107;
/// The server is never there.
const ALONE: u32 = 0x10108;

/// An error, in words.
type Result<T, E = String> = std::result::Result<T, E>;

/// An error of the library, in words.
fn said(error: multikernel::Error) -> String {
    error.to_string()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve"] => serve::serve(),
        ["figures", name] => figures::figures(name),
        [case, name] => case::run(case, name),
        _ => Err("mkport serve | mkport figures NAME | mkport CASE NAME".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("mkport: {why}");
            ExitCode::FAILURE
        }
    }
}
