// SPDX-License-Identifier: GPL-2.0

//! What messages of equal length go through, and what is done with it at either end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Instant;

use crate::machine::ticks;
use crate::row::Figure;

/// One end of something that messages go through. All waits are without limit: a kernel that ends
/// ends them.
pub trait Channel {
    /// Sends a message.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;
    /// Takes a message, which has as many bytes.
    fn receive(&mut self, message: &mut [u8]) -> io::Result<()>;
}

/// Files: one that is read and one that is written, or twice the same.
#[derive(Debug)]
pub struct Files {
    /// The one that is read.
    pub from: File,
    /// The one that is written.
    pub to: File,
}

impl Channel for Files {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.to.write_all(message)
    }

    fn receive(&mut self, message: &mut [u8]) -> io::Result<()> {
        self.from.read_exact(message)
    }
}

/// What the other end is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// Send back each message.
    Echo,
    /// Take them all, and then send one.
    Sink,
}

/// So many messages of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Job {
    /// What is done with them.
    pub what: What,
    /// Bytes of each, 1 to [`Job::BYTES_MAX`].
    pub bytes: usize,
    /// How many.
    pub count: usize,
}

impl Job {
    /// The most bytes of a message.
    pub const BYTES_MAX: usize = 1024;
    /// Bytes of a job as a message.
    pub const SIZE: usize = 24;

    /// As a message.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [self.what as u64, self.bytes as u64, self.count as u64];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// From a message; `None` if it is none.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |at: usize| usize::try_from(u64::from_le_bytes(*words.get(at)?)).ok();
        let what = match word(0)? {
            0 => What::Echo,
            1 => What::Sink,
            _ => return None,
        };
        let (bytes, count) = (word(1)?, word(2)?);
        (1..=Self::BYTES_MAX)
            .contains(&bytes)
            .then_some(Self { what, bytes, count })
    }
}

/// Where in a message, if it is long enough, the times are at which it was sent there and back.
const STAMPS: usize = 16;

fn stamps(message: &mut [u8]) -> Option<(&mut [u8; 8], &mut [u8; 8])> {
    let [there, back] = message.first_chunk_mut::<STAMPS>()?.as_chunks_mut().0 else {
        return None;
    };
    Some((there, back))
}

/// Does a job, at the far end.
pub fn serve(channel: &mut dyn Channel, job: Job) -> io::Result<()> {
    let mut message = vec![0; job.bytes];
    for _ in 0..job.count {
        channel.receive(&mut message)?;
        if job.what == What::Echo {
            if let Some((_, back)) = stamps(&mut message) {
                *back = ticks().to_le_bytes();
            }
            channel.send(&message)?;
        }
    }
    if job.what == What::Sink {
        channel.send(&message)?;
    }
    Ok(())
}

/// Round trips, at the near end: there and back, and one way, in nanoseconds. One way is the mean
/// of there and back; messages too short for the times have none. A quarter as many come before,
/// and do not count; `job` is with the far end.
pub fn trips(channel: &mut dyn Channel, job: Job, ticks_per_ns: f64) -> io::Result<Vec<Figure>> {
    let mut message = vec![0; job.bytes];
    // A counter of an eventfd must not be 0.
    message[0] = 1;
    let (mut rounds, mut ways) = (Vec::new(), Vec::new());
    for number in 0..job.count {
        let begin = Instant::now();
        let sent = ticks();
        if let Some((there, _)) = stamps(&mut message) {
            *there = sent.to_le_bytes();
        }
        channel.send(&message)?;
        channel.receive(&mut message)?;
        let now = ticks();
        let round = begin.elapsed();
        if number < job.count / 5 {
            continue;
        }
        rounds.push(round.as_nanos() as f64);
        if let Some((there, back)) = stamps(&mut message) {
            if u64::from_le_bytes(*there) != sent {
                return Err(io::Error::other("an answer is not what was sent"));
            }
            let answered = u64::from_le_bytes(*back);
            // Not half of it all: what the far end does in between belongs to neither way.
            let there = answered.wrapping_sub(sent) as i64;
            let back = now.wrapping_sub(answered) as i64;
            ways.push((there + back) as f64 / 2.0 / ticks_per_ns);
        }
    }
    Ok([rounds, ways]
        .into_iter()
        .filter(|list| !list.is_empty())
        .map(Figure::of_parts)
        .collect())
}

/// Messages that follow each other, at the near end: thousands in a second. The time ends with the
/// answer to the last one.
pub fn stream(channel: &mut dyn Channel, job: Job) -> io::Result<Figure> {
    let mut message = vec![0x5a; job.bytes];
    let begin = Instant::now();
    for _ in 0..job.count {
        channel.send(&message)?;
    }
    channel.receive(&mut message)?;
    let rate = job.count as f64 / begin.elapsed().as_secs_f64() / 1e3;
    Ok(Figure::of_parts(vec![rate]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn pair() -> (Files, Files) {
        let (near, far) = UnixStream::pair().unwrap();
        let files = |socket: UnixStream| {
            let from = File::from(std::os::fd::OwnedFd::from(socket));
            let to = from.try_clone().unwrap();
            Files { from, to }
        };
        (files(near), files(far))
    }

    #[test]
    fn jobs_as_messages() {
        let job = Job {
            what: What::Sink,
            bytes: 1024,
            count: 70_000,
        };
        assert_eq!(Job::from_bytes(job.to_bytes()), Some(job));
        let with = |at: usize, value: u64| {
            let mut bytes = job.to_bytes();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            Job::from_bytes(bytes)
        };
        assert_eq!(with(0, 2), None);
        assert_eq!(with(8, 0), None);
        assert_eq!(with(8, 1025), None);
        assert_eq!(with(16, 0).map(|job| job.count), Some(0));
    }

    #[test]
    fn every_trip_but_the_first_counts() {
        for (bytes, figures) in [(8, 1), (64, 2)] {
            let job = Job {
                what: What::Echo,
                bytes,
                count: 50,
            };
            let (mut near, mut far) = pair();
            let other = thread::spawn(move || serve(&mut far, job));
            let got = trips(&mut near, job, 1.0).unwrap();
            assert_eq!(got.len(), figures);
            assert!(got.iter().all(|figure| figure.parts.len() == 40));
            // A way is what is measured, and not what somebody wrote.
            assert!(got.iter().all(|figure| figure.mean > 0.0));
            other.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_stream_ends_with_an_answer() {
        let job = Job {
            what: What::Sink,
            bytes: 64,
            count: 100,
        };
        let (mut near, mut far) = pair();
        let other = thread::spawn(move || {
            let done = serve(&mut far, job);
            // Nothing is left over.
            drop(far);
            done
        });
        assert!(stream(&mut near, job).unwrap().mean > 0.0);
        assert!(near.receive(&mut [0]).is_err());
        other.join().unwrap().unwrap();
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let job = Job {
            what: What::Echo,
            bytes: 64,
            count: 4,
        };
        let (mut near, mut far) = pair();
        let other = thread::spawn(move || {
            let mut message = [0; 64];
            far.receive(&mut message)?;
            message[0] ^= 1;
            far.send(&message)?;
            // The others would be right.
            let rest = Job { count: 3, ..job };
            serve(&mut far, rest)
        });
        assert!(trips(&mut near, job, 1.0).is_err());
        drop(near);
        assert!(other.join().unwrap().is_err());
    }
}
