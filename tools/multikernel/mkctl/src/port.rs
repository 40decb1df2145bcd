// SPDX-License-Identifier: GPL-2.0

//! `mkctl send` and `mkctl recv`: messages to and from a program in another kernel.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use multikernel::device::{Host, HostPeer};
use multikernel::port::{OpenPort, Port, Received};
use multikernel::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::args::{Framing, RecvArgs, SendArgs, Target};

/// Nothing tells when a port is opened again at the other end but another look.
const LOOK: Duration = Duration::from_millis(20);

/// How messages are told from each other in a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    /// Each is a line; the line feed is no part of it.
    Lines,
    /// Each is a line with a JSON object.
    Json,
    /// Each comes behind its length in bytes, 32 bits, little-endian.
    Framed,
}

impl Format {
    fn of(framing: &Framing) -> Self {
        match (framing.json, framing.framed) {
            (true, _) => Self::Json,
            (_, true) => Self::Framed,
            _ => Self::Lines,
        }
    }
}

/// A message as JSON has it.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct JsonMessage {
    /// If it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// If not: two digits for each byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

impl JsonMessage {
    fn new(message: &[u8]) -> Self {
        match std::str::from_utf8(message) {
            Ok(text) => Self {
                text: Some(text.to_owned()),
                hex: None,
            },
            Err(_) => Self {
                text: None,
                hex: Some(message.iter().map(|byte| format!("{byte:02x}")).collect()),
            },
        }
    }

    fn bytes(self) -> Option<Vec<u8>> {
        match (self.text, self.hex) {
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(hex)) => {
                let digits = hex.chars().map(|digit| digit.to_digit(16));
                let digits = digits.collect::<Option<Vec<u32>>>()?;
                let (pairs, rest) = digits.as_chunks::<2>();
                // CAST: Two digits below 16.
                let bytes = pairs.iter().map(|[high, low]| (high << 4 | low) as u8);
                rest.is_empty().then(|| bytes.collect())
            }
            _ => None,
        }
    }
}

/// Messages from a stream, one after another.
struct Messages<R> {
    from: R,
    format: Format,
    /// Counts them, for errors.
    number: u64,
}

impl<R: BufRead> Messages<R> {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::new(
            format!("cannot take message {} from the input", self.number),
            what,
        )
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        // One byte more than fits, and its line feed: whoever sends says that it is too long.
        let bound = Port::BYTES_MAX as u64 * 8;
        let read = self.from.by_ref().take(bound).read_until(b'\n', &mut line);
        match read.map_err(|error| self.wrong(error))? {
            0 => Ok(None),
            _ => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                Ok(Some(line))
            }
        }
    }

    fn json(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let message: JsonMessage =
            serde_json::from_slice(&line).map_err(|error| self.wrong(error))?;
        let bytes = message.bytes();
        bytes.map(Some).ok_or_else(|| {
            self.wrong("it has not one of \"text\" and \"hex\"")
                .advice("A message is {\"text\": \"...\"} or {\"hex\": \"00ff...\"}")
        })
    }

    fn framed(&mut self) -> Result<Option<Vec<u8>>> {
        let ended = self.from.fill_buf().map(<[u8]>::is_empty);
        if ended.map_err(|error| self.wrong(error))? {
            return Ok(None);
        }
        let mut length = [0; 4];
        let read = self.from.read_exact(&mut length);
        read.map_err(|error| self.wrong(error))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > Port::BYTES_MAX {
            return Err(self
                .wrong(format_args!("it has {length} bytes"))
                .advice(format!(
                    "A message has 1 to {} bytes, behind its length of 32 bits, little-endian",
                    Port::BYTES_MAX
                )));
        }
        let mut message = vec![0; length];
        let read = self.from.read_exact(&mut message);
        read.map_err(|error| self.wrong(error))?;
        Ok(Some(message))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        self.number += 1;
        match self.format {
            Format::Lines => self.line(),
            Format::Json => self.json(),
            Format::Framed => self.framed(),
        }
    }
}

/// Writes a message to a stream.
fn write(to: &mut impl Write, format: Format, message: &[u8]) -> io::Result<()> {
    match format {
        Format::Lines => {
            to.write_all(message)?;
            to.write_all(b"\n")?;
        }
        Format::Json => {
            serde_json::to_writer(&mut *to, &JsonMessage::new(message))?;
            to.write_all(b"\n")?;
        }
        Format::Framed => {
            // What has come has at most `Port::BYTES_MAX` bytes.
            to.write_all(&(message.len() as u32).to_le_bytes())?;
            to.write_all(message)?;
        }
    }
    // Whoever reads it waits for it.
    to.flush()
}

fn open(target: &Target) -> Result<Port> {
    match &target.name {
        Some(name) => Host::open()?.instance(name)?.open_port(target.port),
        None => HostPeer::open()?.open_port(target.port),
    }
}

/// Sends one message within the time there is.
fn send_one(port: &Port, message: &[u8], timeout: Option<Duration>) -> Result<()> {
    let Some(timeout) = timeout else {
        return port.send(message);
    };
    match port.send_timeout(message, timeout)? {
        true => Ok(()),
        false => Err(Error::new(
            "cannot send",
            format_args!("there was no room for {} s", timeout.as_secs_f64()),
        )
        .advice("The program at the other end does not read, or is not there")
        .with_errno(libc::ETIMEDOUT)),
    }
}

pub fn send(args: &SendArgs) -> Result<ExitCode> {
    let (target, words) = args.target_or_exit();
    let timeout = args.timeout.map(|timeout| timeout.0);
    let port = open(&target)?;
    if !matches!(words, [] | [_]) || words.first().is_some_and(|word| word != "-") {
        for message in words {
            send_one(&port, message.as_bytes(), timeout)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut messages = Messages {
        from: io::stdin().lock(),
        format: Format::of(&args.framing),
        number: 0,
    };
    while let Some(message) = messages.next()? {
        send_one(&port, &message, timeout)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Hands messages over until there are enough; says whether there were.
fn receive(
    port: &Port,
    args: &RecvArgs,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<bool> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
    let stay = args.follow || args.count.is_some();
    let mut buffer = port.buffer();
    let mut count = 0;
    while args.count.is_none_or(|wanted| count < wanted) {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let received = match left {
            Some(left) => port.recv_timeout(&mut buffer, left)?,
            None => port.recv(&mut buffer)?,
        };
        match received {
            Received::Message(bytes) => {
                let taken = take(&buffer[..bytes]);
                taken.map_err(|error| Error::new("cannot write what has come", error))?;
                count += 1;
            }
            Received::Closed if stay && left.is_none_or(|left| !left.is_zero()) => {
                // If it is for ever, this says so.
                if port.has_ended()? {
                    break;
                }
                thread::sleep(left.map_or(LOOK, |left| left.min(LOOK)));
            }
            Received::Closed | Received::Nothing => break,
        }
    }
    Ok(match args.count {
        Some(wanted) => count == wanted,
        None => count > 0,
    })
}

pub fn recv(args: &RecvArgs) -> Result<ExitCode> {
    let port = open(&args.target_or_exit())?;
    let format = Format::of(&args.framing);
    let mut stdout = io::stdout().lock();
    let enough = receive(&port, args, |message| write(&mut stdout, format, message))?;
    Ok(match enough {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(format: Format, from: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut messages = Messages {
            from,
            format,
            number: 0,
        };
        let mut got = Vec::new();
        while let Some(message) = messages.next()? {
            got.push(message);
        }
        Ok(got)
    }

    #[test]
    fn what_is_written_is_read() {
        let sent: [&[u8]; 4] = [b"one", b"t\xc3\xa4st \"two\"", &[0, 0xff, 7], &[9; 1784]];
        for format in [Format::Lines, Format::Json, Format::Framed] {
            let mut stream = Vec::new();
            for message in sent {
                write(&mut stream, format, message).unwrap();
            }
            assert_eq!(all(format, &stream).unwrap(), sent, "{format:?}");
        }
    }

    #[test]
    fn lines() {
        let got = all(Format::Lines, b"a\n\nb c\r\nlast").unwrap();
        assert_eq!(got, [&b"a"[..], b"", b"b c\r", b"last"]);
        assert!(all(Format::Lines, b"").unwrap().is_empty());
    }

    #[test]
    fn json() {
        let got = all(Format::Json, b"{\"text\":\"a\\nb\"}\n{\"hex\": \"00fF\"}\n").unwrap();
        assert_eq!(got, [&b"a\nb"[..], b"\0\xff"]);
        for bad in [
            "x",
            "{}",
            "{\"hex\":\"0\"}",
            "{\"hex\":\"0g\"}",
            "{\"hex\":\"+1\"}",
            "{\"text\":\"a\",\"hex\":\"00\"}",
            "{\"other\":1}",
        ] {
            let error = all(Format::Json, bad.as_bytes()).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("cannot take message 1 from the input"),
                "{text}"
            );
        }
    }

    #[test]
    fn frames() {
        assert_eq!(all(Format::Framed, b"\x02\0\0\0a\n").unwrap(), [b"a\n"]);
        for bad in [&b"\x02\0\0"[..], b"\x02\0\0\0a", b"\0\0\x01\0aaaa"] {
            assert!(all(Format::Framed, bad).is_err(), "{bad:?}");
        }
    }
}
