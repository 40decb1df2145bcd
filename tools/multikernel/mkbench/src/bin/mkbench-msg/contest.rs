// SPDX-License-Identifier: GPL-2.0

//! Who takes part, and what each is held against.

use std::io;

use multikernel::device::Instance;

use crate::channel::{self, Channel, Job, What};
use crate::kernel;
use crate::local::{self, Ends};
use crate::pairs::{self, call};
use crate::remote::{self, Open};
use crate::row::{Figure, Row, Unit};
use crate::spawn::Spawn;

/// A row before there are figures: name, unit, what it is held against, and the aim.
struct Plan(String, Unit, Option<&'static str>, Option<f64>);

/// Runs once, and returns a figure for each row.
type Run<'a> = dyn FnMut() -> io::Result<Vec<Figure>> + 'a;

/// One that takes part.
pub struct Contest<'a> {
    plans: Vec<Plan>,
    run: Box<Run<'a>>,
}

fn full_name(name: &str) -> String {
    format!("msg/vm/{name}")
}

impl Contest<'_> {
    /// What its first row is called.
    pub fn name(&self) -> String {
        let first = self.plans.first();
        first.map_or_else(String::new, |Plan(name, ..)| full_name(name))
    }

    /// Its rows, without figures.
    pub fn rows(&self) -> Vec<Row> {
        let row = |Plan(name, unit, against, aim): &Plan| {
            Row::new(full_name(name), *unit, *against, *aim)
        };
        self.plans.iter().map(row).collect()
    }

    /// A figure for each of its rows.
    pub fn run(&mut self) -> io::Result<Vec<Figure>> {
        (self.run)()
    }
}

/// Sizes of messages that follow each other, what they are called, and the row of pipes.
const SIZES: [(usize, &str, &str); 3] = [
    (64, "64", "msg/vm/pipe-rate-64"),
    (256, "256", "msg/vm/pipe-rate-256"),
    (1024, "1k", "msg/vm/pipe-rate-1k"),
];

/// Bytes of a message that is answered.
const TRIP_BYTES: usize = 64;

struct Contests<'a> {
    spawn: &'a Spawn,
    trips: usize,
    all: Vec<Contest<'a>>,
    skipped: Vec<String>,
}

impl<'a> Contests<'a> {
    fn add(&mut self, plans: Vec<Plan>, run: impl FnMut() -> io::Result<Vec<Figure>> + 'a) {
        let run = Box::new(run);
        self.all.push(Contest { plans, run });
    }

    fn skip(&mut self, name: &str, why: &io::Error) {
        self.skipped.push(format!("{}: {why}", full_name(name)));
    }

    fn trip_job(&self, bytes: usize) -> Job {
        let what = What::Echo;
        // A quarter as many more, which do not count.
        let count = self.trips + self.trips / 4;
        Job { what, bytes, count }
    }

    fn stream_job(&self, bytes: usize) -> Job {
        let what = What::Sink;
        let count = self.trips * 10;
        Job { what, bytes, count }
    }

    /// Rows of round trips of `bytes` bytes, and of one way where there is room for the time.
    fn trip_plans(
        name: &str,
        bytes: usize,
        (against, aim): (Option<&'static str>, Option<f64>),
    ) -> Vec<Plan> {
        let mut plans = vec![Plan(format!("{name}-rtt-{bytes}"), Unit::Ns, against, aim)];
        if bytes >= TRIP_BYTES {
            let name = format!("{name}-one-way-{bytes}");
            plans.push(Plan(name, Unit::Ns, None, None));
        }
        plans
    }

    /// Two processes within this kernel.
    fn local(&mut self, name: &str, trip_bytes: usize, streams: bool, ends: Ends) {
        if let Err(error) = ends() {
            return self.skip(name, &error);
        }
        let ticks_per_ns = self.spawn.ticks_per_ns();
        let is_pipe = name == "pipe";
        let against = (!is_pipe).then_some("msg/vm/pipe-rtt-64");
        let job = self.trip_job(trip_bytes);
        let plans = Self::trip_plans(name, trip_bytes, (against, None));
        self.add(plans, move || {
            local::pin(local::CPUS[0])?;
            local::run(ends, job, |near| channel::trips(near, job, ticks_per_ns))
        });
        for (bytes, size, limit) in SIZES.into_iter().filter(|_| streams) {
            let job = self.stream_job(bytes);
            let against = (!is_pipe).then_some(limit);
            let plan = Plan(
                format!("{name}-rate-{size}"),
                Unit::Thousands,
                against,
                None,
            );
            self.add(vec![plan], move || {
                local::pin(local::CPUS[0])?;
                local::run(ends, job, |near| Ok(vec![channel::stream(near, job)?]))
            });
        }
    }

    /// A process here and one in the spawn. Of rates, also how many doorbells they took.
    fn remote(&mut self, name: &str, goal: (&'static str, Option<f64>), open: Open) {
        let spawn = self.spawn;
        let opened = open(spawn);
        let shared = match opened {
            Ok(channel) => std::rc::Rc::new(std::cell::RefCell::new(channel)),
            Err(error) => return self.skip(name, &error),
        };
        let ticks_per_ns = spawn.ticks_per_ns();
        let job = self.trip_job(TRIP_BYTES);
        let plans = Self::trip_plans(name, TRIP_BYTES, (Some(goal.0), goal.1));
        let channel = shared.clone();
        self.add(plans, move || {
            local::pin(local::CPUS[0])?;
            remote::run(&mut **channel.borrow_mut(), job, |near| {
                channel::trips(near, job, ticks_per_ns)
            })
        });
        for (bytes, size, limit) in SIZES {
            let job = self.stream_job(bytes);
            let channel = shared.clone();
            let plans = vec![
                Plan(
                    format!("{name}-rate-{size}"),
                    Unit::Thousands,
                    Some(limit),
                    None,
                ),
                Plan(
                    format!("{name}-doorbells-{size}"),
                    Unit::PerThousand,
                    None,
                    None,
                ),
            ];
            self.add(plans, move || {
                local::pin(local::CPUS[0])?;
                pairs::doorbells(spawn.instance(), job.count, || {
                    let stream = |near: &mut dyn Channel| channel::stream(near, job);
                    remote::run(&mut **channel.borrow_mut(), job, stream)
                })
            });
        }
    }

    /// What the kernel measures itself.
    fn kernel(&mut self, name: &str, goal: (Option<&'static str>, Option<f64>), request: String) {
        if let Err(error) = kernel::measure(&format!("{request} 1")) {
            return self.skip(name, &error);
        }
        let request = format!("{request} {}", self.trips);
        let plan = Plan(name.to_owned(), Unit::Ns, goal.0, goal.1);
        self.add(vec![plan], move || {
            local::pin(local::CPUS[0])?;
            Ok(vec![kernel::measure(&request)?])
        });
    }

    /// Calls of the echo port by a program.
    fn calls(&mut self, name: &str, cpu: Option<u32>) {
        let (instance, trips) = (self.spawn.instance(), self.trips);
        let against = Some("msg/vm/pipe-rtt-64");
        let plan = Plan(name.to_owned(), Unit::Ns, against, None);
        self.add(vec![plan], move || {
            local::pin(local::CPUS[0])?;
            let one = |_| {
                let begin = std::time::Instant::now();
                call(instance, cpu, &[0x5a; pairs::BYTES])?;
                Ok(begin.elapsed().as_nanos() as f64)
            };
            let times: io::Result<Vec<f64>> = (0..trips).map(one).collect();
            Ok(vec![Figure::of_parts(times?)])
        });
    }

    fn one(
        &mut self,
        (name, unit, aim): (&str, Unit, Option<f64>),
        run: impl Fn(&'a Instance, usize) -> io::Result<Figure> + 'a,
    ) {
        let (instance, trips) = (self.spawn.instance(), self.trips);
        let plan = Plan(name.to_owned(), unit, None, aim);
        self.add(vec![plan], move || Ok(vec![run(instance, trips)?]));
    }

    fn scaling(&mut self, pairs: usize) {
        let (instance, trips) = (self.spawn.instance(), self.trips);
        let against = |name: &'static str| (pairs > 1).then_some(name);
        let plans = vec![
            Plan(
                format!("pairs-{pairs}-rate"),
                Unit::Thousands,
                against("msg/vm/pairs-1-rate"),
                None,
            ),
            Plan(
                format!("pairs-{pairs}-total"),
                Unit::Thousands,
                against("msg/vm/pairs-1-total"),
                None,
            ),
            Plan(
                format!("pairs-{pairs}-doorbells"),
                Unit::PerThousand,
                None,
                None,
            ),
        ];
        self.add(plans, move || pairs::scaling(instance, pairs, trips));
    }
}

/// All that take part, in the order of the table, and lines about those that cannot.
///
/// # Errors
///
/// There are not two CPUs to measure between.
pub fn contests(spawn: &Spawn, trips: usize) -> io::Result<(Vec<Contest<'_>>, Vec<String>)> {
    let cpus = std::thread::available_parallelism()?.get();
    if cpus < 2 {
        return Err(io::Error::other(
            "it takes two CPUs, and this kernel has one",
        ));
    }
    let mut all = Contests {
        spawn,
        trips,
        all: Vec::new(),
        skipped: Vec::new(),
    };
    let id = spawn.instance().id();
    let other = local::CPUS[1];

    all.kernel("smp-call-single", (None, None), format!("ipi {other}"));
    let limit = Some("msg/vm/smp-call-single");
    let bytes = pairs::BYTES;
    // One and a half times what two of them take.
    let goal = (limit, Some(3.0));
    all.kernel("doorbell-rtt-64", goal, format!("spin {id} 0 {bytes}"));
    all.kernel(
        "kernel-call-rtt-64",
        (limit, None),
        format!("sleep {id} 0 {bytes}"),
    );

    all.local("pipe", TRIP_BYTES, true, local::pipes);
    all.local("eventfd", 8, false, local::eventfds);
    all.local("unix-stream", TRIP_BYTES, true, local::unix_stream);
    all.local("unix-seqpacket", TRIP_BYTES, true, local::unix_seqpacket);
    all.local("vsock-loopback", TRIP_BYTES, true, local::vsock_loopback);

    all.calls("call-rtt-64", Some(0));
    all.calls("call-any-rtt-64", None);
    let pipe = "msg/vm/pipe-rtt-64";
    all.remote("port", (pipe, None), remote::port);
    all.remote("mapped", (pipe, Some(0.1)), remote::mapped);
    all.remote(
        "vsock",
        ("msg/vm/vsock-loopback-rtt-64", None),
        remote::vsock,
    );

    all.one(
        ("doorbells-idle", Unit::PerSecond, Some(0.0)),
        |instance, _| pairs::idle(instance),
    );
    all.one(
        ("doorbells-steady", Unit::PerThousand, None),
        |instance, trips| pairs::steady(instance, trips.min(100)),
    );
    all.one(
        ("doorbells-saturated", Unit::PerThousand, Some(10.0)),
        |instance, trips| pairs::saturated(instance, trips * 10),
    );

    for pairs in [1, 2, 4, 8] {
        match pairs <= cpus.min(spawn.cpus()) {
            true => all.scaling(pairs),
            false => all.skip(
                &format!("pairs-{pairs}"),
                &io::Error::other("there are not as many CPUs on both sides"),
            ),
        }
    }
    Ok((all.all, all.skipped))
}
