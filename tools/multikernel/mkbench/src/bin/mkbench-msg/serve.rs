// SPDX-License-Identifier: GPL-2.0

//! The program as the first process of a spawn: does at its end what the host asks for.
//!
//! Each facility has a thread, which takes jobs one after another, for ever. One that this kernel
//! does not have is not served; the host finds out when it opens its end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;

use crate::channel::{serve, Channel, Job};
use crate::machine::mount_devices;
use crate::{local, remote};

/// What serves, for ever or until it fails.
type Facility = fn() -> io::Result<()>;

const FACILITIES: [(&str, Facility); 2] = [("port", port), ("vsock", vsock)];

/// The CPU of the spawn on which all of it runs, so that there is one at either end.
const CPU: usize = 0;

/// Takes jobs and does them, until the channel fails.
fn jobs(mut channel: Box<dyn Channel>) -> io::Result<()> {
    loop {
        let mut job = [0; Job::SIZE];
        channel.receive(&mut job)?;
        let job = Job::from_bytes(job).ok_or(io::ErrorKind::InvalidData)?;
        serve(&mut *channel, job)?;
    }
}

fn port() -> io::Result<()> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/multikernel")?;
    jobs(remote::open_port(device.as_fd(), remote::PORT)?)
}

fn vsock() -> io::Result<()> {
    let listener = local::vsock_listen(remote::VSOCK_PORT)?;
    loop {
        jobs(Box::new(local::accept(&listener)?))?;
    }
}

/// Serves for ever.
pub fn first_process() -> ExitCode {
    if let Err(error) = mount_devices() {
        println!("mkbench-msg: /dev: {error}");
    }
    for (name, facility) in FACILITIES {
        thread::spawn(move || {
            let ended = local::pin(CPU).and_then(|()| facility());
            // Of use to who looks at the spawn's log.
            if let Err(error) = ended {
                println!("mkbench-msg: {name} is not served: {error}");
            }
        });
    }
    loop {
        thread::park();
    }
}
