// SPDX-License-Identifier: GPL-2.0

//! `mkport figures`: round trips by each face, in one run.

use std::time::{Duration, Instant};

use multikernel::port::Port;

use crate::case::{open, open_mapped};
use crate::message::{recv, send, there_and_back, Face};
use crate::{said, Result, ECHO_MAPPED, ECHO_PLAIN, ECHO_SLEEPER};

/// Round trips of each kind, after some that do not count.
const COUNT: usize = 1000;
const WARM_UP: usize = 100;
/// Bytes of each message.
const BYTES: usize = 48;

fn round_trips(mut once: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(COUNT);
    for number in 0..WARM_UP + COUNT {
        let begin = Instant::now();
        once()?;
        if number >= WARM_UP {
            times.push(begin.elapsed());
        }
    }
    times.sort_unstable();
    Ok(times)
}

fn print(what: &str, times: &[Duration]) {
    let us = |at: usize| times[at].as_secs_f64() * 1e6;
    println!(
        "{what:<28} median {:>8.1} us   p99 {:>8.1} us",
        us(times.len() / 2),
        us(times.len() * 99 / 100)
    );
}

fn by_face(port: &mut dyn Face) -> Result<Vec<Duration>> {
    let message = [0x5a; BYTES];
    round_trips(|| {
        send(port, &message)?;
        match recv(port)?.as_deref() {
            Some(got) if got == message => Ok(()),
            _ => Err("another message came back".to_owned()),
        }
    })
}

/// Prints a line for each kind of round trip.
pub fn figures(name: &str) -> Result<()> {
    println!("round trips of {BYTES} bytes, {COUNT} of each kind");
    let mut port = open_mapped(name, ECHO_MAPPED, Duration::from_secs(1))?;
    there_and_back(&mut port, 0..50)?;
    let mut buffer = vec![0; Port::BYTES_MAX];
    let polled = round_trips(|| {
        while !port.try_send(&[0x5a; BYTES]).map_err(said)? {}
        while port.try_recv(&mut buffer).map_err(said)?.is_none() {
            std::hint::spin_loop();
        }
        Ok(())
    })?;
    print("mapped, both ends poll", &polled);
    drop(port);
    let mut port = open_mapped(name, ECHO_SLEEPER, Duration::ZERO)?;
    there_and_back(&mut port, 0..50)?;
    print("mapped, both ends sleep", &by_face(&mut port)?);
    drop(port);
    let mut port = open(name, ECHO_PLAIN)?;
    there_and_back(&mut port, 0..50)?;
    print("read(2) and write(2)", &by_face(&mut port)?);
    Ok(())
}
