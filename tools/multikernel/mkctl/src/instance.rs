// SPDX-License-Identifier: GPL-2.0

//! Verbs that change one instance.

use std::time::Duration;

use multikernel::device::{CreateRequest, Host, Instance, State};
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
    })
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

pub fn start(name: &str) -> Result<()> {
    let host = Host::open()?;
    let instance = host.instance(name)?;
    let info = instance.info()?;
    let record = Store::default().get(name, info.id);
    let asked = || format!("cannot start instance \"{name}\"");

    let argument = match (info.state, record) {
        // The same image is still there and has not been started.
        (State::Loaded, Some(record)) if record.loaded.entry == info.entry => {
            record.loaded.argument
        }
        (State::Loaded, _) => {
            return Err(Error::new(asked(), "its image was not loaded by mkctl")
                .advice(format!("Load one with 'mkctl load {name}'")))
        }
        // An image can be started once: what ran before is loaded again.
        (State::Ready | State::Stopped | State::Crashed, Some(record)) => {
            load_with(&host, &instance, name, record.spec)?
                .loaded
                .argument
        }
        (State::Failed, _) => {
            return Err(
                Error::new(asked(), "one of its CPUs is not confirmed parked")
                    .advice(format!("Try 'mkctl kill {name}' first")),
            )
        }
        // What is wrong with the other states, the kernel says best.
        (_, record) => record.map_or(info.shared_base, |record| record.loaded.argument),
    };
    instance.start(argument)?;
    println!("started instance \"{name}\"");
    Ok(())
}

pub fn stop(name: &str, timeout: u64) -> Result<()> {
    let instance = Host::open()?.instance(name)?;
    let reason = match instance.stop(Duration::from_secs(timeout)) {
        Ok(reason) => reason,
        Err(error) => {
            match error.errno() {
                Some(libc::EOPNOTSUPP) => {
                    println!("its kernel has no guest support: stopping it by force");
                }
                Some(libc::ETIMEDOUT) => {
                    println!("it did not end within {timeout} s: stopping it by force");
                }
                _ => return Err(error),
            }
            match instance.kill() {
                // It ended by itself between the two calls.
                Err(error) if error.errno() == Some(libc::EALREADY) => instance.state()?.1,
                other => other?,
            }
        }
    };
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
