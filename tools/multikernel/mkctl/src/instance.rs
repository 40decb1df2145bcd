// SPDX-License-Identifier: GPL-2.0

//! Verbs that change one instance.

use std::time::Duration;

use multikernel::device::{CreateRequest, HangTimeout, Host, Instance, Reason, State};
use multikernel::load::{self, LoadSpec};
use multikernel::state::{self, Record, Store};
use multikernel::{Error, Result};
use serde_json::json;

use crate::args::{ImageArgs, Resources};

/// What the arguments ask to load.
pub fn load_spec(image: &ImageArgs) -> Result<LoadSpec> {
    Ok(LoadSpec {
        kernel: state::absolute(&image.kernel)?,
        initrd: image.initrd.as_deref().map(state::absolute).transpose()?,
        append: image.append.clone(),
        fast: image.fast,
        uarts: image.uart.clone(),
        guest: !image.no_guest,
        later_cpus: image
            .later_cpus
            .as_ref()
            .map_or(Vec::new(), |it| it.0.clone()),
        pmem: image.pmem.clone(),
    })
}

/// Grants the arenas that the kernel is to find as persistent memory.
pub fn grant_pmem(host: &Host, instance: &Instance, spec: &LoadSpec) -> Result<()> {
    let id = instance.id();
    let mut names = spec.pmem.iter();
    names.try_for_each(|name| host.grant_arena(name, id, false))
}

/// Creates an instance and forgets what was known of another by its name.
pub fn create_with(host: &Host, name: &str, resources: &Resources) -> Result<Instance> {
    let instance = host.create(&CreateRequest {
        name,
        cpus: &resources.cpus,
        memory: &resources.memory,
        low_bytes: resources.low.unwrap_or(0),
    })?;
    Store::default().forget(name);
    Ok(instance)
}

pub fn create(name: &str, resources: &Resources, json: bool) -> Result<()> {
    let host = Host::open()?;
    let instance = create_with(&host, name, resources)?;
    match json {
        true => println!("{}", json!({ "id": instance.id(), "name": name })),
        false => println!("created instance \"{name}\", id {}", instance.id()),
    }
    Ok(())
}

/// Loads, and remembers what.
pub fn load_with(host: &Host, instance: &Instance, name: &str, spec: LoadSpec) -> Result<Record> {
    let loaded = load::load(host, instance, &spec)?;
    let record = Record::new(instance.id(), spec, loaded);
    Store::default().save(name, &record)?;
    Ok(record)
}

pub fn load(name: &str, image: &ImageArgs) -> Result<()> {
    let spec = load_spec(image)?;
    let host = Host::open()?;
    let instance = host.instance(name)?;
    grant_pmem(&host, &instance, &spec)?;
    let record = load_with(&host, &instance, name, spec)?;
    println!(
        "loaded {} ({}) into instance \"{name}\"",
        record.spec.kernel.display(),
        record.loaded.format
    );
    Ok(())
}

pub fn unload(name: &str) -> Result<()> {
    Host::open()?.instance(name)?.unload()?;
    Store::default().forget(name);
    println!("unloaded the image of instance \"{name}\"");
    Ok(())
}

pub fn start(name: &str, hang: Option<HangTimeout>) -> Result<()> {
    let host = Host::open()?;
    let instance = host.instance(name)?;
    let info = instance.info()?;
    let record = Store::default().get(name, info.id);
    let asked = || format!("cannot start instance \"{name}\"");

    let hang = hang.or(info.hang_timeout).unwrap_or_default();
    let record = match (info.state, record) {
        // The same image is still there and has not been started.
        (State::Loaded, Some(record)) if record.loaded.entry == info.entry => record,
        (State::Loaded, _) => {
            return Err(Error::new(asked(), "its image was not loaded by mkctl")
                .advice(format!("Load one with 'mkctl load {name}'")))
        }
        // An image can be started once: what ran before is loaded again.
        (State::Ready | State::Stopped | State::Crashed, Some(record)) => {
            load_with(&host, &instance, name, record.spec)?
        }
        (State::Failed, _) => {
            return Err(
                Error::new(asked(), "one of its CPUs is not confirmed parked")
                    .advice(format!("Try 'mkctl kill {name}' first")),
            )
        }
        // What is wrong with the other states, the kernel says best.
        (_, record) => {
            let argument = record.map_or(info.shared_base, |record| record.loaded.argument);
            instance.start_with(argument, hang, 0)?;
            println!("started instance \"{name}\"");
            return Ok(());
        }
    };
    load::start(&host, &instance, &record.spec, &record.loaded, hang)?;
    println!("started instance \"{name}\"");
    Ok(())
}

/// Asks it to power off and waits; then, if so wanted, stops it by force. Says which it was.
pub fn stop_with(instance: &Instance, timeout: Duration, force: bool) -> Result<Reason> {
    let error = match instance.stop(timeout) {
        Ok(reason) => return Ok(reason),
        Err(error) => error,
    };
    let seconds = timeout.as_secs();
    let why = match error.errno() {
        Some(libc::EOPNOTSUPP) => "its kernel has no guest support".to_owned(),
        Some(libc::ETIMEDOUT) => format!("it did not end within {seconds} s"),
        Some(libc::EINTR) => "a signal ended the wait".to_owned(),
        _ => return Err(error),
    };
    if !force {
        return Err(error);
    }
    say!("{why}: stopping it by force");
    match instance.kill() {
        // It ended by itself between the two calls.
        Err(error) if error.errno() == Some(libc::EALREADY) => Ok(instance.state()?.1),
        other => other,
    }
}

pub fn stop(name: &str, timeout: u64, force: bool) -> Result<()> {
    let instance = Host::open()?.instance(name)?;
    let reason = stop_with(&instance, Duration::from_secs(timeout), force)?;
    println!("stopped instance \"{name}\" ({reason})");
    Ok(())
}

pub fn kill(name: &str) -> Result<()> {
    let reason = Host::open()?.instance(name)?.kill()?;
    println!("stopped instance \"{name}\" ({reason})");
    Ok(())
}

/// Stops an instance by force if it runs, and removes it.
pub fn remove(instance: &Instance, force: bool) -> Result<()> {
    if force {
        match instance.kill() {
            Err(error) if error.errno() != Some(libc::EALREADY) => return Err(error),
            _ => {}
        }
    }
    instance.destroy()
}

pub fn rm(name: &str, force: bool) -> Result<()> {
    let instance = Host::open()?.instance(name)?;
    remove(&instance, force)?;
    Store::default().forget(name);
    println!("removed instance \"{name}\"");
    Ok(())
}
