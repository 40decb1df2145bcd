// SPDX-License-Identifier: GPL-2.0

//! The command line of mkctl.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand};
use multikernel::cmdline::Uart;
use multikernel::device::{Call, HangTimeout};
use multikernel::port::Port;
use multikernel::restart::Policy;
use multikernel::spec::{self, CpuList, MemoryRequest};

/// Run several Linux kernels side by side on one machine, without a hypervisor.
///
/// An instance holds CPUs and memory that the host lent to it, and runs a Linux kernel of its own
/// on them. 'mkctl doctor' tells whether this machine can do that; 'mkctl run' does all of it in
/// one.
///
/// Exit status: 0 if all went well, 1 if it failed, 2 if the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "mkctl", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Tell whether this machine and its kernel can run instances
    Doctor {
        #[command(flatten)]
        json: Json,
    },
    /// Show, enlarge or reduce the memory that is set aside for instances
    Pool {
        #[command(subcommand)]
        verb: Option<PoolVerb>,
        #[command(flatten)]
        json: Json,
    },
    /// Create an instance: take CPUs from the host and memory from the pool
    Create {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        #[command(flatten)]
        resources: Resources,
        #[command(flatten)]
        json: Json,
    },
    /// Load a kernel into an instance
    Load {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Unload the kernel of an instance that is not running
    Unload {
        #[arg(value_parser = spec::parse_name)]
        name: String,
    },
    /// Start an instance, loading its last kernel again if need be
    Start {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// How long one of its CPUs may take no interrupt before it counts as hung, in seconds, or
        /// "never"; what was given last if not given
        #[arg(long, value_name = "SECONDS")]
        hang_timeout: Option<HangTimeout>,
    },
    /// Ask an instance to power off; stop it by force when it has not after the timeout
    ///
    /// A kernel without guest support cannot be asked, and is stopped by force at once.
    Stop {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// How long to wait, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 10,
              value_parser = clap::value_parser!(u64).range(1..=3600))]
        timeout: u64,
        /// Leave it running if it has not ended by then
        #[arg(long)]
        no_force: bool,
    },
    /// Stop an instance by force, at once
    Kill {
        #[arg(value_parser = spec::parse_name)]
        name: String,
    },
    /// Remove an instance: its CPUs go back to the host, its memory to the pool
    Rm {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// Stop it by force first if it is running
        #[arg(long)]
        force: bool,
    },
    /// Let the kernels of two instances talk to each other, whenever both run
    ///
    /// It stays so, however often they end and are started again, until 'mkctl unlink' or one of
    /// them is removed. In a spawn, 'mkctl ping NAME' asks the other one.
    Link {
        #[arg(value_parser = spec::parse_name)]
        one: String,
        #[arg(value_parser = spec::parse_name)]
        other: String,
    },
    /// Let the kernels of two instances talk to each other no longer
    Unlink {
        #[arg(value_parser = spec::parse_name)]
        one: String,
        #[arg(value_parser = spec::parse_name)]
        other: String,
    },
    /// List all instances
    Ps {
        #[command(flatten)]
        json: Json,
    },
    /// Show everything about an instance
    Inspect {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Show each change of an instance's state as it happens, of all instances or of one
    ///
    /// Status 0 when the named instance is removed, and after --count changes; 1 if there were
    /// fewer by then or by the timeout.
    Events(EventsArgs),
    /// Write the memory of an instance to an ELF core that gdb and crash open
    ///
    /// Of an instance that crashed or was stopped, as its kernel left it; one that runs goes on and
    /// changes its memory meanwhile.
    Dump {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// The file; one of that name is replaced when the dump is complete
        file: PathBuf,
    },
    /// Show what an instance wrote to its console
    ///
    /// Only kernels with guest support write to it; others use the UART that is lent to them.
    Logs(LogsArgs),
    /// Connect the terminal to the console of an instance; Ctrl-] disconnects
    ///
    /// With an input that is not a terminal, sends that, and ends when it is used up and the
    /// instance has been silent for a while.
    Console {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// After the end of the input, how long a silence ends it, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 500)]
        linger: u64,
    },
    /// Send messages to an instance's kernel, or in a spawn to its host's or a linked instance's,
    /// and time the answers
    ///
    /// The kernel itself answers, in an interrupt. Status 0 if every message was answered.
    Ping(PingArgs),
    /// Show what the links to instances carry, or in a spawn the link to its host
    ///
    /// A table that is drawn anew each interval; where the output is no terminal, one below the
    /// other. 'q' ends it, arrows scroll.
    Top(TopArgs),
    /// Send messages to a program in an instance, or in the host from inside a spawn
    ///
    /// That is whoever opens the same port there: each argument is a message, or each line of
    /// standard input. What is sent before it is opened waits there for it, as far as there is
    /// room.
    Send(SendArgs),
    /// Print messages from a program in an instance, or in the host from inside a spawn
    ///
    /// Ends when that program closes the port. Status 0 if a message has come, with --count so
    /// many; else 1.
    Recv(RecvArgs),
    /// Give an instance more CPUs, also while it runs
    Cpu {
        #[command(subcommand)]
        verb: CpuVerb,
    },
    /// Replace the kernel of a running instance by a new one that is booted beside it
    ///
    /// The new kernel boots on a spare CPU, in memory of its own, as instance NAME.next. When it is
    /// up it takes over the name, the arenas, the links and the CPUs, and the old one is removed.
    /// Until then an error, or a signal, leaves the old one running as if nothing had been.
    ///
    /// Should mkctl be killed: the same command again removes what was left and begins anew, or
    /// goes on where the new one had taken over already.
    Upgrade(UpgradeArgs),
    /// Memory with a name that outlives the kernels that use it
    Arena {
        #[command(subcommand)]
        verb: ArenaVerb,
    },
    /// State that one kernel hands to another: sessions, in arenas
    Handover {
        #[command(subcommand)]
        verb: crate::handover::HandoverVerb,
    },
    /// Create an instance, load a kernel into it and start it; undo all if a part fails
    Run(RunArgs),
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum PoolVerb {
    /// Show who has which memory and CPUs
    Show {
        #[command(flatten)]
        json: Json,
    },
    /// Move memory from the host to the pool, in one piece
    Grow {
        /// How much, a multiple of 2M
        #[arg(value_parser = spec::parse_memory_size)]
        size: u64,
        /// From this NUMA node
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        node: Option<i32>,
        /// Below 4 GiB
        #[arg(long, conflicts_with = "above_4g")]
        below_4g: bool,
        /// At or above 4 GiB
        #[arg(long)]
        above_4g: bool,
    },
    /// Move free memory of the pool back to the host
    Shrink {
        /// How much, a multiple of 2M
        #[arg(value_parser = spec::parse_memory_size)]
        size: u64,
        /// From this address on
        #[arg(long, value_name = "ADDRESS", value_parser = spec::parse_size)]
        base: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum CpuVerb {
    /// Give it CPUs of the host, or of another instance that does not run
    ///
    /// Its kernel must have been loaded with --later-cpus if it runs. One with guest support brings
    /// them online by itself.
    Add {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// Which, such as 2-3,5
        #[arg(value_name = "LIST")]
        cpus: CpuList,
        /// From this instance
        #[arg(long, value_name = "NAME", value_parser = spec::parse_name)]
        from: Option<String>,
    },
}

#[derive(Args, Debug)]
pub struct UpgradeArgs {
    #[arg(value_parser = spec::parse_name)]
    pub name: String,
    /// The new kernel: an x86-64 bzImage (vmlinuz) or ELF vmlinux
    #[arg(long, value_name = "FILE", required_unless_present = "abort")]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk; that of the old kernel if not given
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Words to add to the kernel's command line; those of the old kernel if not given
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// The host's CPU on which it boots, and which it keeps; any that the host can spare if not
    /// given. One of the old kernel's CPUs goes to the host in its place
    #[arg(long, value_name = "N")]
    pub spare_cpu: Option<u32>,
    /// A range of memory, as for 'mkctl create'; as the old kernel's if not given
    #[arg(long, value_name = "MEMORY")]
    pub memory: Vec<MemoryRequest>,
    /// It is up when a line with this text has come from its console; without this and the next,
    /// when it has answered for two seconds
    #[arg(long, value_name = "TEXT")]
    pub ready: Option<String>,
    /// It is up when this command, run by sh again and again with MKCTL_INSTANCE set to its name,
    /// ends with status 0
    #[arg(long, value_name = "COMMAND")]
    pub ready_command: Option<String>,
    /// Have the sessions of the old kernel accepted by the new one: run by sh when that is up, with
    /// MKCTL_INSTANCE and MKCTL_OLD set to their names. When it ends with status 0 all sessions
    /// become the new one's, with the name; they stay the old one's if it fails
    #[arg(long, value_name = "COMMAND")]
    pub handover_command: Option<String>,
    /// How long it has to come up, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// How long the old kernel has to power off when the new one has taken over, before it is
    /// stopped by force, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub stop_timeout: u64,
    /// Remove what an upgrade has left that was interrupted before the new kernel had taken over
    #[arg(long, conflicts_with_all = ["kernel", "initrd", "append", "spare_cpu", "memory"])]
    pub abort: bool,
    #[command(flatten)]
    pub json: Json,
}

#[derive(Debug, Subcommand)]
pub enum ArenaVerb {
    /// Make an arena of free memory of the pool; what is in it is zero
    Create {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// How much, a multiple of 2M
        #[arg(value_parser = spec::parse_memory_size)]
        size: u64,
        /// On this NUMA node
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        node: Option<i32>,
        /// At this address
        #[arg(long, value_name = "ADDRESS", value_parser = spec::parse_size)]
        base: Option<u64>,
    },
    /// List all arenas, and who may have them
    Ls {
        #[command(flatten)]
        json: Json,
    },
    /// Let an instance open an arena, in this and all further lives
    Grant {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        #[arg(value_parser = spec::parse_name)]
        instance: String,
        /// Only to be read
        #[arg(long)]
        read_only: bool,
    },
    /// Take that back, of an instance that does not run
    Revoke {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        #[arg(value_parser = spec::parse_name)]
        instance: String,
    },
    /// Make an arena longer or shorter that nobody uses
    Resize {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// How long it is to be, a multiple of 2M
        #[arg(value_parser = spec::parse_memory_size)]
        size: u64,
    },
    /// Remove an arena that nobody uses: its memory goes back to the pool, zeroed
    Rm {
        #[arg(value_parser = spec::parse_name)]
        name: String,
    },
    /// Write what is in an arena to standard output, on the host or in a spawn
    Read {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// From this byte on
        #[arg(long, value_name = "BYTES", default_value = "0", value_parser = spec::parse_size)]
        offset: u64,
        /// So many bytes; to the end if not given
        #[arg(long, value_name = "BYTES", value_parser = spec::parse_size)]
        length: Option<u64>,
    },
    /// Store standard input in an arena, on the host or in a spawn
    Write {
        #[arg(value_parser = spec::parse_name)]
        name: String,
        /// From this byte on
        #[arg(long, value_name = "BYTES", default_value = "0", value_parser = spec::parse_size)]
        offset: u64,
    },
}

#[derive(Args, Debug)]
pub struct Resources {
    /// The CPUs to lend, such as 2-3,5; the first becomes the boot CPU
    #[arg(long, value_name = "LIST")]
    pub cpus: CpuList,
    /// A range of memory: SIZE[,node=N][,base=ADDRESS][,below-4g|,above-4g]; repeat for more
    #[arg(long, value_name = "MEMORY", required = true)]
    pub memory: Vec<MemoryRequest>,
    /// Memory below 1 MiB, a multiple of 4K, at most 512K
    #[arg(long, value_name = "SIZE", value_parser = low_size)]
    pub low: Option<u32>,
}

#[derive(Args, Debug)]
pub struct ImageArgs {
    /// The kernel: an x86-64 bzImage (vmlinuz) or ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Words to add to the kernel's command line
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub append: String,
    /// Unpack the kernel here and enter it directly, without its decompressor (and its KASLR)
    #[arg(long)]
    pub fast: bool,
    /// Lend this UART, ttyS0 to ttyS3 or its I/O port, which the host must not use; the first is
    /// the console
    #[arg(long, value_name = "UART")]
    pub uart: Vec<Uart>,
    /// CPUs that it may be given while it runs, by 'mkctl cpu add': its kernel is told of them, and
    /// must not start them before. Safe with guest support; see hazards.rst for other kernels
    #[arg(long, value_name = "LIST")]
    pub later_cpus: Option<CpuList>,
    /// Have the kernel find this arena as persistent memory, /dev/pmem0 the first; repeat for more.
    /// It is granted to the instance
    #[arg(long, value_name = "ARENA", value_parser = spec::parse_name)]
    pub pmem: Vec<String>,
    /// Have the kernel run as it would on a machine of its own, even if it has guest support
    #[arg(long)]
    pub no_guest: bool,
}

#[derive(Args, Debug)]
pub struct LogsArgs {
    #[arg(value_parser = spec::parse_name)]
    pub name: String,
    /// Go on as more is written, until the instance ends
    #[arg(long, short)]
    pub follow: bool,
    /// Show what is left of earlier lives too
    #[arg(long)]
    pub all: bool,
    /// Go on until a line with this text has come: status 0 then, 1 when it does not come
    #[arg(long, value_name = "TEXT")]
    pub until: Option<String>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Of this instance only
    #[arg(value_parser = spec::parse_name)]
    pub name: Option<String>,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    #[command(flatten)]
    pub json: Json,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("peer").required(true).args(["name", "host"]))]
pub struct PingArgs {
    #[arg(value_parser = spec::parse_name)]
    pub name: Option<String>,
    /// The host's kernel, from inside a spawn
    #[arg(long)]
    pub host: bool,
    /// How many; 4 if not given, with --flood 1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub count: Option<u64>,
    /// From one to the next, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    pub interval: Interval,
    /// One after another, as fast as they are answered
    #[arg(long, conflicts_with = "interval")]
    pub flood: bool,
    /// Bytes of each, 0 to 1024
    #[arg(long, value_name = "N", default_value = "56", value_parser = payload_size)]
    pub bytes: usize,
    /// To this CPU of the other kernel, as it numbers them; any if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..512))]
    pub cpu: Option<u32>,
    /// When one counts as lost, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    pub timeout: u32,
    /// Print the summary only
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub json: Json,
}

#[derive(Args, Debug)]
pub struct TopArgs {
    /// The link to this instance only
    #[arg(value_parser = spec::parse_name)]
    pub name: Option<String>,
    /// The link to the host, from inside a spawn
    #[arg(long, conflicts_with = "name")]
    pub host: bool,
    /// From one look to the next, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    pub interval: Interval,
    /// End after so many tables
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    #[command(flatten)]
    pub json: Json,
}

/// How messages are told from each other on standard input or output.
#[derive(Args, Debug)]
pub struct Framing {
    /// Each message is a line, without its line feed (the default)
    #[arg(long)]
    pub lines: bool,
    /// Each message is a line with {"text": "..."}, or {"hex": "..."} if it is not UTF-8
    #[arg(long, conflicts_with = "lines")]
    pub json: bool,
    /// Each message comes behind its length in bytes, 32 bits, little-endian
    #[arg(long, conflicts_with_all = ["lines", "json"])]
    pub framed: bool,
}

/// Which port of which link.
#[derive(Debug, Eq, PartialEq)]
pub struct Target {
    /// The instance; `None` for the host, from inside a spawn.
    pub name: Option<String>,
    pub port: u32,
}

impl Target {
    /// From the words of the command line, of which the others are returned.
    fn parse(host: bool, words: &[String]) -> Result<(Self, &[String]), String> {
        let (name, words) = match (host, words) {
            (true, words) => (None, words),
            (false, [name, words @ ..]) => (Some(spec::parse_name(name)?), words),
            (false, []) => return Err("NAME is missing".to_owned()),
        };
        let [port, words @ ..] = words else {
            return Err("PORT is missing".to_owned());
        };
        let port = port_number(port)?;
        Ok((Self { name, port }, words))
    }

    /// The same; what is wrong ends mkctl as clap does.
    fn parse_or_exit(host: bool, words: &[String]) -> (Self, &[String]) {
        Self::parse(host, words).unwrap_or_else(|why| {
            let kind = clap::error::ErrorKind::ValueValidation;
            Cli::command().error(kind, why).exit()
        })
    }
}

#[derive(Args, Debug)]
#[command(override_usage = "mkctl send [OPTIONS] <NAME|--host> <PORT> [MESSAGE]...")]
pub struct SendArgs {
    /// To a program in the host's kernel, from inside a spawn: then there is no NAME
    #[arg(long)]
    pub host: bool,
    /// The instance, the port from 0x10000 on, and messages; "-" or none for standard input, "--"
    /// before one that begins with "-"
    #[arg(value_name = "WORDS", required = true)]
    words: Vec<String>,
    /// Give up when there is no room for a message for so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<Interval>,
    #[command(flatten)]
    pub framing: Framing,
}

impl SendArgs {
    pub fn target_or_exit(&self) -> (Target, &[String]) {
        Target::parse_or_exit(self.host, &self.words)
    }
}

#[derive(Args, Debug)]
#[command(override_usage = "mkctl recv [OPTIONS] <NAME|--host> <PORT>")]
pub struct RecvArgs {
    /// From a program in the host's kernel, from inside a spawn: then there is no NAME
    #[arg(long)]
    pub host: bool,
    /// The instance, and the port from 0x10000 on
    #[arg(value_name = "WORDS", required = true, num_args = 1..=2)]
    words: Vec<String>,
    /// End after so many messages, and not when the other end closes the port
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Go on when the other end closes the port: it may be opened again
    #[arg(long)]
    pub follow: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<Interval>,
    #[command(flatten)]
    pub framing: Framing,
}

impl RecvArgs {
    pub fn target_or_exit(&self) -> Target {
        let (target, more) = Target::parse_or_exit(self.host, &self.words);
        if let Some(word) = more.first() {
            let kind = clap::error::ErrorKind::UnknownArgument;
            let why = format!("\"{word}\" is too much");
            Cli::command().error(kind, why).exit()
        }
        target
    }
}

fn port_number(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match number {
        Ok(number) if number >= Port::FIRST => Ok(number),
        _ => Err(format!(
            "{text} is not a port from {:#x} to 0xffffffff",
            Port::FIRST
        )),
    }
}

/// A number of seconds, with a fraction if need be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interval(pub Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MAX: Duration = Duration::from_secs(3600);
        match text.parse().map(Duration::try_from_secs_f64) {
            Ok(Ok(time)) if time <= MAX => Ok(Self(time)),
            _ => Err(format!(
                "\"{text}\" is not a number of seconds from 0 to 3600"
            )),
        }
    }
}

#[derive(Args, Debug)]
pub struct RunArgs {
    /// Its name
    #[arg(long, value_parser = spec::parse_name)]
    pub name: String,
    #[command(flatten)]
    pub resources: Resources,
    #[command(flatten)]
    pub image: ImageArgs,
    /// Connect the terminal to its console
    #[arg(long)]
    pub attach: bool,
    /// Wait for its end, then remove it, and what the pool was enlarged by
    #[arg(long)]
    pub rm: bool,
    /// Stay, and start it again when it ends: never, on-failure (a panic, a hang, a reboot) or
    /// always (a power-off too); what others stop or remove stays so
    #[arg(long, value_name = "POLICY", default_value = "never")]
    pub restart: Policy,
    /// Start it again so many times at most
    #[arg(long, value_name = "N")]
    pub restart_limit: Option<u32>,
    /// How long one of its CPUs may take no interrupt before it counts as hung, in seconds, or
    /// "never"
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub hang_timeout: HangTimeout,
    /// When a signal ends this command while it stays: how long the instance has to power off
    /// before it is stopped by force, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub stop_timeout: u64,
    #[command(flatten)]
    pub json: Json,
}

fn low_size(text: &str) -> Result<u32, String> {
    match u32::try_from(spec::parse_size(text)?) {
        Ok(bytes) if bytes != 0 && bytes % 4096 == 0 && bytes <= 512 << 10 => Ok(bytes),
        _ => Err(format!("{text} is not a multiple of 4K from 4K to 512K")),
    }
}

fn payload_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if bytes <= Call::BYTES_MAX => Ok(bytes),
        _ => Err(format!(
            "{text} is not a number of bytes from 0 to {}",
            Call::BYTES_MAX
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ports_and_messages() {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        let web = words(&["web", "0x10007", "a", "-b"]);
        let (target, more) = Target::parse(false, &web).unwrap();
        assert_eq!(
            (target.name.as_deref(), target.port),
            (Some("web"), 0x10007)
        );
        assert_eq!(more, ["a", "-b"]);
        let host = words(&["65536"]);
        let (target, more) = Target::parse(true, &host).unwrap();
        assert_eq!((target.name, target.port, more.len()), (None, 65536, 0));
        for (host, bad) in [
            (false, &["web"][..]),
            (false, &[]),
            (true, &[]),
            (true, &["web", "65536"]),
            (false, &["web", "65535"]),
            (false, &["web", "0x100000000"]),
            (false, &["we b", "65536"]),
        ] {
            assert!(Target::parse(host, &words(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn intervals() {
        assert_eq!("0.25".parse(), Ok(Interval(Duration::from_millis(250))));
        assert_eq!("0".parse(), Ok(Interval(Duration::ZERO)));
        for bad in ["", "-1", "3601", "nan", "inf", "1s"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }

    #[test]
    fn payload_sizes() {
        assert_eq!(payload_size("0"), Ok(0));
        assert_eq!(payload_size("1024"), Ok(1024));
        for bad in ["", "-1", "1025", "1K"] {
            assert!(payload_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn low_memory() {
        assert_eq!(low_size("64K"), Ok(65536));
        for bad in ["0", "1K", "516K", "4G", "x"] {
            assert!(low_size(bad).is_err(), "{bad}");
        }
    }
}
