// SPDX-License-Identifier: GPL-2.0

//! What is tried on the host.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use multikernel::abi;
use multikernel::device::{Host, SharedMap};
use multikernel::port::{AsyncPort, MappedPort, OpenPort, Port, Received};

use crate::message::{self, compose, recv, send, there_and_back};
use crate::refuse::Raw;
use crate::{refuse, said, strict, Result};
use crate::{
    ALONE, ECHO_ASYNC, ECHO_MAPPED, ECHO_PLAIN, ECHO_SLEEPER, ECHO_STRICT, REPORT, SCRIBBLED, SINK,
};

/// Does one thing.
pub fn run(case: &str, name: &str) -> Result<()> {
    match case {
        "strict" => strict(name),
        "faces" => faces(name),
        "sleep" => sleep(name),
        "pressure" => pressure(name),
        "batch" => batch(name),
        "reopen" => reopen(name),
        "killed" => killed(name),
        "scribble" => scribble(name),
        "refused" => refuse::refused(name),
        "end" => end(name),
        _ => Err(format!("there is no case {case}")),
    }
}

/// Opens a port to an instance.
pub fn open(name: &str, number: u32) -> Result<Port> {
    Host::open()
        .and_then(|host| host.instance(name))
        .and_then(|instance| instance.open_port(number))
        .map_err(said)
}

/// The same, mapped, to poll for that long.
pub fn open_mapped(name: &str, number: u32, polling: Duration) -> Result<MappedPort> {
    let mut port = open(name, number)?.map().map_err(said)?;
    port.set_polling(polling);
    Ok(port)
}

/// Neither end makes a system call.
fn strict(name: &str) -> Result<()> {
    const COUNT: u32 = 500;
    for _ in 0..2 {
        strict::ping(
            || open_mapped(name, ECHO_STRICT, MappedPort::POLLING),
            COUNT,
        )?;
    }
    println!("2 times {COUNT} messages there and back");
    Ok(())
}

/// Mapped, not mapped and asynchronous ends, each with each.
fn faces(name: &str) -> Result<()> {
    const COUNT: u32 = 200;
    for number in [ECHO_MAPPED, ECHO_PLAIN, ECHO_SLEEPER, ECHO_ASYNC] {
        let about = |why| format!("port {number:#x}: {why}");
        there_and_back(&mut open(name, number)?, 0..COUNT).map_err(about)?;
        let mut mapped = open_mapped(name, number, MappedPort::POLLING)?;
        there_and_back(&mut mapped, COUNT..2 * COUNT).map_err(about)?;
        drop(mapped);
        asynchronous(name, number, COUNT).map_err(about)?;
    }
    println!("{COUNT} messages there and back, 12 times");
    Ok(())
}

fn asynchronous(name: &str, number: u32, count: u32) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let port = AsyncPort::new(open(name, number)?).map_err(said)?;
        let mut buffer = vec![0; Port::BYTES_MAX];
        for number in 0..count {
            let sent = compose(number);
            port.send(&sent).await.map_err(said)?;
            match port.recv(&mut buffer).await.map_err(said)? {
                Received::Message(bytes) if buffer[..bytes] == sent => {}
                other => return Err(format!("message {number}: {other:?}")),
            }
        }
        Ok(())
    })
}

/// Both ends sleep, and ring each other for each message.
fn sleep(name: &str) -> Result<()> {
    let mut port = open_mapped(name, ECHO_SLEEPER, Duration::ZERO)?;
    there_and_back(&mut port, 0..200)?;
    drop(port);
    // One end polls.
    let mut port = open_mapped(name, ECHO_SLEEPER, Duration::from_secs(1))?;
    there_and_back(&mut port, 200..400)?;
    println!("400 messages there and back");
    Ok(())
}

/// To a slow receiver; and from a sender that has no credit, as nobody receives for a while.
fn pressure(name: &str) -> Result<()> {
    const COUNT: u32 = 2000;
    for mapped in [true, false] {
        let mut port: Box<dyn message::Face> = match mapped {
            true => Box::new(open_mapped(name, SINK, Duration::ZERO)?),
            false => Box::new(open(name, SINK)?),
        };
        let mut waits = 0;
        for number in 0..COUNT {
            let message = compose(number);
            if !port.send(&message, Duration::ZERO).map_err(said)? {
                waits += 1;
                send(&mut *port, &message)?;
            }
        }
        send(&mut *port, b"?")?;
        let tally = loop {
            if let Some(tally) = recv(&mut *port)? {
                break String::from_utf8_lossy(&tally).into_owned();
            }
        };
        println!("{COUNT} sent, {tally} came and were wrong, {waits} waits for credit");
        if tally != format!("{COUNT} 0") || waits == 0 {
            return Err("that is not all".to_owned());
        }
    }
    for number in [ECHO_MAPPED, ECHO_PLAIN] {
        let mut port = open_mapped(name, number, Duration::ZERO)?;
        let mut sent = 0;
        // Until the echo has no room for its answers, and then there is none for more.
        let waits = Duration::from_millis(300);
        while port.send_timeout(&compose(sent), waits).map_err(said)? {
            sent += 1;
        }
        for number in 0..sent {
            if recv(&mut port)? != Some(compose(number)) {
                return Err(format!("message {number} of {sent} is another"));
            }
        }
        println!("{sent} messages until there was no room, and all came back");
        there_and_back(&mut port, 0..10)?;
    }
    Ok(())
}

/// Many at a time.
fn batch(name: &str) -> Result<()> {
    let mut port = open_mapped(name, ECHO_MAPPED, MappedPort::POLLING)?;
    there_and_back(&mut port, 0..1)?;
    let (mut sent, mut came) = (0u32, 0u32);
    let mut buffer = vec![0; port.longest()];
    while came < 3000 {
        let messages: Vec<Vec<u8>> = (sent..(sent + 20).min(3000)).map(compose).collect();
        let batch = messages.iter().map(Vec::as_slice);
        sent += port.try_send_batch(batch).map_err(said)? as u32;
        let mut wrong = None;
        port.try_recv_batch(64, &mut buffer, |got| {
            if got != compose(came) {
                wrong.get_or_insert(came);
            }
            came += 1;
        })
        .map_err(said)?;
        if let Some(number) = wrong {
            return Err(format!("message {number} is another"));
        }
        thread::yield_now();
    }
    println!("{sent} sent, {came} came");
    Ok(())
}

/// Who opens a port again goes on in its lanes, however it was left.
fn reopen(name: &str) -> Result<()> {
    for number in [ECHO_MAPPED, ECHO_PLAIN, ALONE] {
        for round in 0..6 {
            let mut port = open_mapped(name, number, MappedPort::POLLING)?;
            if number == ALONE {
                // Nobody takes it: it is there still when the port is opened again.
                if round < 2 {
                    send(&mut port, &compose(round))?;
                }
                continue;
            }
            there_and_back(&mut port, 0..round * 13)?;
            if round % 2 == 0 {
                // Left behind: an answer that nobody waits for.
                send(&mut port, b"left")?;
            }
            drop(port);
            let mut port = open(name, number)?;
            settle(&mut port)?;
            there_and_back(&mut port, 0..17)?;
        }
    }
    println!("18 times");
    Ok(())
}

/// Has what was left of an earlier opener's come, until a message of its own comes back.
fn settle(port: &mut dyn message::Face) -> Result<()> {
    send(port, b"mine")?;
    loop {
        match recv(port)? {
            Some(got) if got == b"mine" => return Ok(()),
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A process is killed in the middle of it, with a part of a message in the lane.
fn killed(name: &str) -> Result<()> {
    for _ in 0..5 {
        // SAFETY: This process has one thread, so that the child finds no lock held.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let done = flood(name);
            println!("mkport: killed: {done:?}");
            std::process::exit(1);
        }
        // It ends by itself, by SIGKILL; or else with a status.
        let mut status = 0;
        // SAFETY: Writes the status to a place that is there.
        unsafe { libc::waitpid(child, &mut status, 0) };
        if status != libc::SIGKILL {
            return Err(format!("the child ended with status {status:#x}"));
        }
        let mut port = open(name, ECHO_MAPPED)?;
        settle(&mut port)?;
        there_and_back(&mut port, 0..50)?;
    }
    println!("5 times");
    Ok(())
}

/// Sends, begins a message, and is killed.
fn flood(name: &str) -> Result<()> {
    let port = open(name, ECHO_MAPPED)?;
    let raw = Raw::take(&port)?;
    let lane = raw.send_lane(&port)?;
    let slots = u64::from(raw.info.lane_slots);
    let mut mapped = port.map().map_err(said)?;
    let mut tail = raw.info.send_position;
    for number in 0..37 {
        let message = compose(number % 5);
        send(&mut mapped, &message)?;
        recv(&mut mapped)?;
        tail += 1 + (message.len().saturating_sub(48) as u64).div_ceil(56);
    }
    // The slots of a message but its first, which is written last.
    for position in tail + 1..tail + 9 {
        let slot = (position % slots) as usize;
        let stamp = (position + 1) & 0xffff_ffff | u64::from(raw.info.epoch & 0xffff) << 32;
        let at = abi::LANE_HEAD_BYTES / 8 + slot * 8;
        lane.words()[at].store(stamp, Ordering::Release);
    }
    // SAFETY: Ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    Ok(())
}

/// Fills both mappings with garbage: the other end hears of it, other ports and calls do not.
fn scribble(name: &str) -> Result<()> {
    let mut report = open(name, REPORT)?;
    let mut other = open(name, ECHO_PLAIN)?;
    let port = open(name, SCRIBBLED)?;
    let raw = Raw::take(&port)?;
    let lanes = [raw.send_lane(&port)?, raw.receive_lane(&port)?];
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed ^ seed >> 29
    };
    for round in 0..50 {
        for lane in &lanes {
            for word in lane.words() {
                word.store(random(), Ordering::Relaxed);
            }
        }
        let _ = raw.ring(&port);
        there_and_back(&mut other, round * 10..round * 10 + 10)?;
    }
    // Whatever position the other end looks at: a slot that is none of its own.
    let [send_lane, _] = &lanes;
    for slot in 0..u64::from(raw.info.lane_slots) {
        let stamp = (slot + 1) | u64::from(raw.info.epoch & 0xffff) << 32;
        let at = abi::LANE_HEAD_BYTES / 8 + slot as usize * 8;
        send_lane.words()[at].store(stamp, Ordering::Release);
    }
    // The other side may have rung for any sleep, or be told to sleep by its own kernel only.
    raw.ring(&port)?;
    let said = loop {
        match recv(&mut report) {
            Ok(Some(text)) => break String::from_utf8_lossy(&text).into_owned(),
            Ok(None) => thread::sleep(Duration::from_millis(5)),
            Err(why) => return Err(format!("no report: {why}")),
        }
    };
    println!("the other end: {said}");
    if !said.contains("broke the rules") {
        return Err("that is not it".to_owned());
    }
    drop(lanes);
    drop(port);
    // The lane cannot be told from garbage any more.
    let port = open(name, SCRIBBLED)?;
    for what in [port.try_send(b"x").err(), port.map().err()] {
        match what.as_ref().and_then(multikernel::Error::errno) {
            Some(libc::EPROTO) => {}
            _ => return Err(format!("opened again: {what:?}")),
        }
    }
    there_and_back(&mut other, 0..100)?;
    println!("other ports go on");
    Ok(())
}

/// Waits for the end of the spawn with a port mapped, and then uses the mapping on.
fn end(name: &str) -> Result<()> {
    let port = open(name, ECHO_SLEEPER)?;
    let raw = Raw::take(&port)?;
    let lanes = [raw.send_lane(&port)?, raw.receive_lane(&port)?];
    let mut mapped = port.map().map_err(said)?;
    there_and_back(&mut mapped, 0..20)?;
    println!("waiting");
    let _ = io::stdout().flush();
    let mut buffer = vec![0; Port::BYTES_MAX];
    if mapped.recv(&mut buffer).map_err(said)? != Received::Closed {
        return Err("no end".to_owned());
    }
    if !mapped.is_closed().map_err(said)? {
        return Err("it is not closed".to_owned());
    }
    // A mapped port hears of it when it waits, at the latest.
    let error = loop {
        match mapped.send_timeout(&buffer, message::DEADLINE) {
            Ok(true) => {}
            Ok(false) => return Err("it can still be sent".to_owned()),
            Err(error) => break error,
        }
    };
    if error.errno() != Some(libc::EPIPE) {
        return Err(said(error));
    }
    println!("ended");
    let _ = io::stdout().flush();
    // The next life has its own memory.
    wait_for_start(name)?;
    let scribbler = thread::spawn(move || scribble_for(&lanes, Duration::from_secs(2)));
    let mut next = open_mapped(name, ECHO_SLEEPER, MappedPort::POLLING)?;
    there_and_back(&mut next, 0..200)?;
    scribbler.join().map_err(|_| "the scribbler")?;
    println!("the next life goes on");
    Ok(())
}

fn scribble_for(lanes: &[SharedMap], time: Duration) {
    let begin = std::time::Instant::now();
    while begin.elapsed() < time {
        for word in lanes.iter().flat_map(SharedMap::words) {
            word.store(0x5a5a_5a5a_5a5a_5a5a, Ordering::Relaxed);
        }
        thread::yield_now();
    }
}

/// Until the server of the next life is there.
fn wait_for_start(name: &str) -> Result<()> {
    let begin = std::time::Instant::now();
    while begin.elapsed() < 3 * message::DEADLINE {
        if let Ok(mut port) = open(name, ECHO_PLAIN) {
            if there_and_back(&mut port, 0..1).is_ok() {
                return Ok(());
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
    Err("there is no next life".to_owned())
}
