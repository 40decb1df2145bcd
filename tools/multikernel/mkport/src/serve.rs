// SPDX-License-Identifier: GPL-2.0

//! What the spawn serves: a thread for each port.

use std::thread;
use std::time::Duration;

use multikernel::device::HostPeer;
use multikernel::port::{AsyncPort, MappedPort, OpenPort, Port, Received};

use crate::message::{self, Face};
use crate::{said, strict, Result};
use crate::{
    ECHO_ASYNC, ECHO_MAPPED, ECHO_PLAIN, ECHO_SLEEPER, ECHO_STRICT, REPORT, SCRIBBLED, SINK,
};

/// Serves a port for ever, or says why it does not any more.
type Server = fn() -> Result<()>;

/// For ever, as far as a test is concerned.
const ALWAYS: Duration = Duration::from_secs(100_000);

/// Nothing tells when the other end is opened again but another look.
fn wait_for_opener() {
    thread::sleep(Duration::from_millis(5));
}

fn open(number: u32) -> Result<Port> {
    HostPeer::open()
        .and_then(|host| host.open_port(number))
        .map_err(said)
}

fn open_mapped(number: u32, polling: Duration) -> Result<MappedPort> {
    let mut port = open(number)?.map().map_err(said)?;
    port.set_polling(polling);
    Ok(port)
}

fn echo(port: &mut dyn Face) -> Result<()> {
    let mut buffer = vec![0; Port::BYTES_MAX];
    loop {
        match port.recv(&mut buffer, ALWAYS).map_err(said)? {
            Received::Message(bytes) => {
                port.send(&buffer[..bytes], ALWAYS).map_err(said)?;
            }
            Received::Closed | Received::Nothing => wait_for_opener(),
        }
    }
}

fn echo_async() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let port = AsyncPort::new(open(ECHO_ASYNC)?).map_err(said)?;
        let mut buffer = vec![0; Port::BYTES_MAX];
        loop {
            match port.recv(&mut buffer).await.map_err(said)? {
                Received::Message(bytes) => port.send(&buffer[..bytes]).await.map_err(said)?,
                Received::Closed | Received::Nothing => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    })
}

/// Counts what comes, slowly at first, so that the sender has no credit for a while.
fn sink() -> Result<()> {
    let mut port = open_mapped(SINK, MappedPort::POLLING)?;
    let (mut count, mut wrong) = (0u32, 0u32);
    loop {
        match message::recv(&mut port) {
            Ok(Some(question)) if question == b"?" => {
                message::send(&mut port, format!("{count} {wrong}").as_bytes())?;
                (count, wrong) = (0, 0);
            }
            Ok(Some(got)) => {
                if count < 5 {
                    thread::sleep(Duration::from_millis(20));
                }
                wrong += u32::from(got != message::compose(count));
                count += 1;
            }
            Ok(None) => wait_for_opener(),
            // None in time; who sends comes later.
            Err(_) => {}
        }
    }
}

/// Says what becomes of a port of which the other end is not what it should be.
fn scribbled() -> Result<()> {
    let mut report = open(REPORT)?;
    let mut port = open_mapped(SCRIBBLED, Duration::ZERO)?;
    loop {
        let text = match message::recv(&mut port) {
            Ok(Some(message)) => {
                message::send(&mut port, &message)?;
                continue;
            }
            Ok(None) => {
                wait_for_opener();
                continue;
            }
            Err(why) if why == "no message" => continue,
            Err(why) => why,
        };
        message::send(&mut report, text.as_bytes())?;
        break;
    }
    // As long as both are open nobody gets this port's lanes anew.
    loop {
        thread::park();
    }
}

/// Serves for ever; an error of any port ends it.
pub fn serve() -> Result<()> {
    // Before there are threads.
    strict::serve_apart(|| open_mapped(ECHO_STRICT, Duration::ZERO))?;
    let ports: [(&str, Server); 6] = [
        ("mapped echo", || {
            echo(&mut open_mapped(ECHO_MAPPED, Duration::from_secs(1))?)
        }),
        ("plain echo", || echo(&mut open(ECHO_PLAIN)?)),
        ("sleeping echo", || {
            echo(&mut open_mapped(ECHO_SLEEPER, Duration::ZERO)?)
        }),
        ("asynchronous echo", echo_async),
        ("sink", sink),
        ("scribbled", scribbled),
    ];
    let mut threads = Vec::new();
    for (name, port) in ports {
        threads.push(thread::spawn(move || {
            if let Err(why) = port() {
                println!("mkport: {name}: {why}");
            }
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Err("nobody serves any more".to_owned())
}
