// SPDX-License-Identifier: GPL-2.0

//! Who takes part, and what each is held against.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::lanes::Lane;
use crate::pair::{Pair, Sink, Source};
use crate::queues::{disruptor, ringbuf, rtrb, Batch, Single};
use crate::raw::{Copies, Flag, Lines, Unstamped};
use crate::row::{Figure, Row, Unit};

/// Messages there and back in a run.
const TRIPS: usize = 2_000;

/// The most messages that a queue holds, for messages of so many bytes: all queues and lanes have
/// as much memory.
const fn capacity(bytes: usize) -> usize {
    memory(bytes) / if bytes == 48 { 64 } else { bytes }
}

/// Bytes of memory of a queue for messages of so many bytes. Those of short messages stay in the
/// first-level cache, others in the second.
const fn memory(bytes: usize) -> usize {
    match bytes {
        0..=256 => 16 << 10,
        257..=4096 => 256 << 10,
        _ => 512 << 10,
    }
}

/// Messages of so many bytes in a run, which takes about a millisecond.
const fn count(bytes: usize) -> usize {
    match bytes {
        0..=64 => 50_000,
        65..=256 => 25_000,
        257..=4096 => 5_000,
        _ => 340,
    }
}

/// A line before there are figures: name, unit, what it is held against, and the aim.
struct Plan(String, Unit, Option<&'static str>, Option<f64>);

/// Runs once, and returns a figure for each line; `None` if a thread lost its core.
type Run = dyn Fn(&Pair) -> Option<Vec<Figure>>;

/// One that takes part.
pub struct Contest {
    plans: Vec<Plan>,
    run: Box<Run>,
}

impl Contest {
    /// Whether one of its lines has the word in its name.
    pub fn matches(&self, word: &str) -> bool {
        self.plans
            .iter()
            .any(|Plan(name, ..)| format!("msg/native/{name}").contains(word))
    }

    /// Its lines, without figures.
    pub fn rows(&self) -> Vec<Row> {
        let row = |Plan(name, unit, against, aim): &Plan| {
            Row::new(format!("msg/native/{name}"), *unit, *against, *aim)
        };
        self.plans.iter().map(row).collect()
    }

    /// A figure for each of its lines; `None` if a thread lost its core.
    pub fn run(&self, pair: &Pair) -> Option<Vec<Figure>> {
        (self.run)(pair)
    }
}

/// How the rates of messages of so many bytes are given: of long ones, it is the bytes that count.
const fn unit(bytes: usize) -> Unit {
    match bytes {
        0..4096 => Unit::Rate,
        _ => Unit::Bytes,
    }
}

fn rate<const N: usize>(pair: &Pair, ends: (impl Source<N>, impl Sink<N>)) -> Option<Vec<Figure>> {
    let stream = pair.stream(ends.0, ends.1, count(N))?;
    let scale = match unit(N) {
        Unit::Bytes => N as f64 / 1e6,
        _ => 1e-6,
    };
    Some(vec![Figure {
        mean: stream.rate * scale,
        parts: stream.parts.into_iter().map(|rate| rate * scale).collect(),
    }])
}

fn latency<const N: usize>(
    pair: &Pair,
    there: (impl Source<N>, impl Sink<N>),
    back: (impl Source<N>, impl Sink<N>),
) -> Option<Vec<Figure>> {
    let trips = pair.trips(there, back, TRIPS)?;
    let way = trips.ways.iter().sum::<f64>() / trips.ways.len() as f64;
    Some(vec![
        Figure {
            mean: trips.round,
            parts: trips.rounds,
        },
        Figure {
            mean: way,
            parts: trips.ways,
        },
    ])
}

#[derive(Default)]
struct Contests(Vec<Contest>);

impl Contests {
    fn add(&mut self, plans: Vec<Plan>, run: impl Fn(&Pair) -> Option<Vec<Figure>> + 'static) {
        let run = Box::new(run);
        self.0.push(Contest { plans, run });
    }

    fn rate<const N: usize>(
        &mut self,
        name: String,
        (against, aim): (Option<&'static str>, Option<f64>),
        run: impl Fn(&Pair) -> Option<Vec<Figure>> + 'static,
    ) {
        self.add(vec![Plan(name, unit(N), against, aim)], run);
    }

    fn trips(
        &mut self,
        names: [String; 2],
        (against, aim): (Option<&'static str>, Option<f64>),
        run: impl Fn(&Pair) -> Option<Vec<Figure>> + 'static,
    ) {
        let [round, way] = names;
        let raw = against.map(|_| "msg/native/raw-one-way");
        let plans = vec![
            Plan(round, Unit::Ns, against, aim),
            Plan(way, Unit::Ns, raw, None),
        ];
        self.add(plans, run);
    }

    /// A flag has no room for the time; so a way is half of a round trip.
    fn raw_trips(&mut self, name: &str, run: impl Fn(&Pair) -> Option<Vec<Figure>> + 'static) {
        let names = [format!("{name}-rtt"), format!("{name}-one-way")];
        self.trips(names, (None, None), move |pair| {
            let mut figures = run(pair)?;
            figures[1] = figures[0].half();
            Some(figures)
        });
    }

    /// Everybody else, with messages of `N` bytes, of which heapless holds one less than `HELD`.
    fn others<const N: usize, const HELD: usize>(&mut self, size: &str, limit: &'static str) {
        let goal = (Some(limit), None);
        let name = |queue: &str| format!("{queue}-{size}");
        self.rate::<N>(name("rtrb-rate"), goal, |pair| {
            let (source, sink) = rtrb::<N>(capacity(N));
            rate(pair, (Single(source), Single(sink)))
        });
        self.rate::<N>(name("rtrb-batch"), goal, |pair| {
            let (source, sink) = rtrb::<N>(capacity(N));
            rate(pair, (Batch(source), Batch(sink)))
        });
        self.rate::<N>(name("ringbuf-rate"), goal, |pair| {
            let (source, sink) = ringbuf::<N>(capacity(N));
            rate(pair, (Single(source), Single(sink)))
        });
        self.rate::<N>(name("ringbuf-batch"), goal, |pair| {
            let (source, sink) = ringbuf::<N>(capacity(N));
            rate(pair, (Batch(source), Batch(sink)))
        });
        self.rate::<N>(name("disruptor-rate"), goal, |pair| {
            let (source, sink) = disruptor::<N>(capacity(N));
            rate(pair, (Single(source), Batch(sink)))
        });
        self.rate::<N>(name("disruptor-batch"), goal, |pair| {
            let (source, sink) = disruptor::<N>(capacity(N));
            rate(pair, (Batch(source), Batch(sink)))
        });
        self.rate::<N>(name("heapless-rate"), goal, |pair| {
            let mut queue = Box::new(heapless::spsc::Queue::<[u8; N], HELD>::new());
            let (source, sink) = queue.split();
            rate(pair, (Single(source), Single(sink)))
        });
        self.rate::<N>(name("crossbeam-channel-rate"), goal, |pair| {
            let (source, sink) = crossbeam_channel::bounded::<[u8; N]>(capacity(N));
            rate(pair, (Single(source), Single(sink)))
        });
        self.rate::<N>(name("crossbeam-queue-rate"), goal, |pair| {
            let queue = Arc::new(ArrayQueue::<[u8; N]>::new(capacity(N)));
            rate(pair, (Single(queue.clone()), Single(queue)))
        });
    }

    fn latencies(&mut self) {
        let names = |queue: &str| [format!("{queue}rtt-64"), format!("{queue}one-way-64")];
        self.raw_trips("raw", |pair| {
            let (there, back) = (Flag::default(), Flag::default());
            latency::<64>(pair, there.ends(1, 1), back.ends(1, 1))
        });
        self.raw_trips("raw-one-line", |pair| {
            let flag = Flag::default();
            latency::<64>(pair, flag.ends(1, 2), flag.ends(2, 2))
        });
        self.trips(
            ["polled-rtt-64".into(), "one-way-64".into()],
            (Some("msg/native/raw-rtt"), Some(1.5)),
            |pair| {
                let mut lanes = [Lane::new(256, 0), Lane::new(256, 0)];
                let [there, back] = &mut lanes;
                latency::<48>(pair, there.ends(), back.ends())
            },
        );
        let goal = (Some("msg/native/raw-rtt"), None);
        self.trips(
            ["polled-rtt-64-payload".into(), "one-way-64-payload".into()],
            goal,
            |pair| {
                let mut lanes = [Lane::new(256, 0), Lane::new(256, 0)];
                let [there, back] = &mut lanes;
                latency::<64>(pair, there.ends(), back.ends())
            },
        );
        self.trips(names("rtrb-"), goal, |pair| {
            let make = || {
                let (source, sink) = rtrb::<64>(capacity(64));
                (Single(source), Single(sink))
            };
            latency(pair, make(), make())
        });
        self.trips(names("ringbuf-"), goal, |pair| {
            let make = || {
                let (source, sink) = ringbuf::<64>(capacity(64));
                (Single(source), Single(sink))
            };
            latency(pair, make(), make())
        });
        self.trips(names("disruptor-"), goal, |pair| {
            let make = || {
                let (source, sink) = disruptor::<64>(capacity(64));
                (Single(source), Batch(sink))
            };
            latency(pair, make(), make())
        });
        self.trips(names("heapless-"), goal, |pair| {
            let make = || Box::new(heapless::spsc::Queue::<[u8; 64], 256>::new());
            let (mut there, mut back) = (make(), make());
            let (there, back) = (there.split(), back.split());
            latency(
                pair,
                (Single(there.0), Single(there.1)),
                (Single(back.0), Single(back.1)),
            )
        });
        self.trips(names("crossbeam-channel-"), goal, |pair| {
            let make = || {
                let (source, sink) = crossbeam_channel::bounded::<[u8; 64]>(capacity(64));
                (Single(source), Single(sink))
            };
            latency(pair, make(), make())
        });
        self.trips(names("crossbeam-queue-"), goal, |pair| {
            let make = || {
                let queue = Arc::new(ArrayQueue::<[u8; 64]>::new(capacity(64)));
                (Single(queue.clone()), Single(queue))
            };
            latency(pair, make(), make())
        });
    }

    /// Copying of messages of `N` bytes, and nothing else.
    fn copies<const N: usize>(&mut self, name: &str) {
        self.rate::<N>(name.to_owned(), (None, None), |pair| {
            let mut copies = Copies::new(memory(N));
            rate::<N>(pair, copies.ends())
        });
    }

    /// Lanes, with messages of `N` bytes that are sent in batches.
    fn batches<const N: usize>(
        &mut self,
        name: &str,
        goal: (Option<&'static str>, Option<f64>),
        slots: usize,
    ) {
        self.rate::<N>(name.to_owned(), goal, move |pair| {
            let mut lane = Lane::new(slots, 0);
            rate::<N>(pair, lane.batch_ends())
        });
    }

    /// Lanes, with messages of `N` bytes.
    fn lanes<const N: usize>(
        &mut self,
        name: &str,
        goal: (Option<&'static str>, Option<f64>),
        slots: usize,
        data: usize,
    ) {
        self.rate::<N>(name.to_owned(), goal, move |pair| {
            let mut lane = Lane::new(slots, data);
            rate::<N>(pair, lane.ends())
        });
    }
}

/// All that take part, in the order of the table.
pub fn contests() -> Vec<Contest> {
    let mut all = Contests::default();
    all.latencies();

    all.copies::<64>("memcpy-64");
    all.rate::<48>(
        "raw-lines".into(),
        (Some("msg/native/memcpy-64"), None),
        |pair| {
            let mut lines = Lines::new(memory(48) / 64);
            rate::<48>(pair, lines.ends())
        },
    );
    all.rate::<64>(
        "raw-lines-unstamped".into(),
        (Some("msg/native/memcpy-64"), None),
        |pair| {
            let mut lines = Unstamped::new(memory(64) / 64);
            rate::<64>(pair, lines.ends())
        },
    );
    let limit = "msg/native/memcpy-64";
    all.lanes::<48>("rate-64", (None, Some(100.0)), 256, 0);
    all.batches::<48>("batch-64", (None, Some(100.0)), 256);
    all.lanes::<64>("rate-64-payload", (Some(limit), None), 256, 0);
    all.batches::<64>("batch-64-payload", (Some(limit), None), 256);
    all.others::<64, 256>("64", limit);

    let limit = "msg/native/memcpy-256";
    all.copies::<256>("memcpy-256");
    all.lanes::<256>("rate-256", (Some(limit), None), 256, 0);
    all.batches::<256>("batch-256", (Some(limit), None), 256);
    all.others::<256, 64>("256", limit);

    let limit = "msg/native/memcpy-4k";
    all.copies::<4096>("memcpy-4k");
    all.lanes::<4096>("rate-4k", (Some(limit), Some(0.9)), 256, memory(4096));
    all.others::<4096, 64>("4k", limit);

    let limit = "msg/native/memcpy-64k";
    all.copies::<65536>("memcpy-64k");
    all.lanes::<65536>("rate-64k", (Some(limit), Some(0.9)), 256, memory(65536));
    all.others::<65536, 8>("64k", limit);
    all.0
}
