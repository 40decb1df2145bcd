// SPDX-License-Identifier: GPL-2.0

//! A connection to the server: where it is found, and requests in its protocol (RESP2).

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use multikernel::device::Host;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::encode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};
use vsock::VsockStream;

/// What is read at once.
const CHUNK: usize = 16 << 10;

/// Where the server is.
#[derive(Clone, Debug)]
pub enum Address {
    /// At a port of the first of these instances that has it. An instance is looked up by its name
    /// each time, as it may have been made anew.
    Instances(Vec<String>, u32),
    /// At a socket in the file system.
    Unix(PathBuf),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection is broken, or never came to be: whether the server has done what it was asked
    /// is not known.
    Broken(io::Error),
    /// The server is still reading what it keeps, and has done nothing.
    Loading,
    /// The server has said no, or something that makes no sense.
    Refused(String),
}

/// An answer to a request.
pub type Answer<T = OwnedFrame> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => error.fmt(f),
            Self::Loading => f.write_str("it is still loading"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection.
pub struct Server {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

fn vsock(names: &[String], port: u32, timeout: Duration) -> io::Result<VsockStream> {
    let host = Host::open().map_err(io::Error::other)?;
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for name in names {
        let connected = host
            .instance(name)
            .map_err(io::Error::other)
            .and_then(|instance| VsockStream::connect_with_cid_port(instance.id(), port));
        match connected {
            Ok(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

impl Server {
    /// Connects; what takes longer than `timeout` from then on counts as broken.
    pub fn connect(address: &Address, timeout: Duration) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match address {
            Address::Instances(names, port) => Box::new(vsock(names, *port, timeout)?),
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Box::new(stream)
            }
        };
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Has the server do something.
    pub fn call(&mut self, words: &[&[u8]]) -> Answer {
        let words = words.iter().map(|word| word.to_vec());
        let request = OwnedFrame::Array(words.map(OwnedFrame::BulkString).collect());
        let mut bytes = vec![0; request.encode_len(false)];
        let length = encode(&mut bytes, &request, false)
            .map_err(|error| Failure::Refused(format!("it cannot be asked: {error}")))?;
        self.stream.write_all(&bytes[..length])?;
        match self.answer()? {
            OwnedFrame::Error(text) if text.starts_with("LOADING") => Err(Failure::Loading),
            OwnedFrame::Error(text) => Err(Failure::Refused(text)),
            frame => Ok(frame),
        }
    }

    fn answer(&mut self) -> Answer {
        let mut chunk = vec![0; CHUNK];
        loop {
            match decode(&self.buffer) {
                Ok(Some((frame, length))) => {
                    self.buffer.drain(..length);
                    return Ok(frame);
                }
                Ok(None) => {}
                Err(error) => return Err(Failure::Refused(format!("not understood: {error}"))),
            }
            let count = match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    /// The same; the answer is a value, or that there is none.
    pub fn value(&mut self, words: &[&[u8]]) -> Answer<Option<Vec<u8>>> {
        one(self.call(words)?)
    }

    /// The same; the answer is a list of values.
    pub fn values(&mut self, words: &[&[u8]]) -> Answer<Vec<Option<Vec<u8>>>> {
        match self.call(words)? {
            OwnedFrame::Array(frames) => frames.into_iter().map(one).collect(),
            other => Err(unexpected(&other)),
        }
    }

    /// The same; the answer is a number.
    pub fn number(&mut self, words: &[&[u8]]) -> Answer<i64> {
        match self.call(words)? {
            OwnedFrame::Integer(number) => Ok(number),
            other => Err(unexpected(&other)),
        }
    }
}

fn one(frame: OwnedFrame) -> Answer<Option<Vec<u8>>> {
    match frame {
        OwnedFrame::BulkString(bytes) => Ok(Some(bytes)),
        OwnedFrame::Null => Ok(None),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(frame: &OwnedFrame) -> Failure {
    Failure::Refused(format!("an answer of another kind: {frame:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A server that has these bytes as answers, in pieces.
    fn served(pieces: &'static [&'static [u8]]) -> Server {
        let folder = std::env::temp_dir().join(format!(
            "mkkv-{}-{:?}",
            std::process::id(),
            thread::current().id()
        ));
        let _ = std::fs::remove_file(&folder);
        let listener = UnixListener::bind(&folder).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            for piece in pieces {
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(piece).unwrap();
            }
        });
        let server = Server::connect(&Address::Unix(folder.clone()), Duration::from_secs(20));
        std::fs::remove_file(folder).unwrap();
        server.unwrap()
    }

    #[test]
    fn answers() {
        let mut server = served(&[
            b"$3\r\nabc\r\n",
            b"$-1\r\n",
            b":7\r\n",
            b"*2\r\n$1\r\na\r\n$-1\r\n",
            b"-LOADING Redis is loading the dataset in memory\r\n",
            b"-MISCONF Errors writing to the AOF file\r\n",
            b"+OK\r\n",
        ]);
        assert_eq!(
            server.value(&[b"GET", b"a"]).unwrap(),
            Some(b"abc".to_vec())
        );
        assert_eq!(server.value(&[b"GET", b"b"]).unwrap(), None);
        assert_eq!(server.number(&[b"LLEN", b"c"]).unwrap(), 7);
        let values = server.values(&[b"MGET", b"a", b"b"]).unwrap();
        assert_eq!(values, [Some(b"a".to_vec()), None]);
        assert!(matches!(server.call(&[b"SET"]), Err(Failure::Loading)));
        assert!(matches!(server.call(&[b"SET"]), Err(Failure::Refused(_))));
        assert!(matches!(server.number(&[b"SET"]), Err(Failure::Refused(_))));
        // It is gone.
        assert!(matches!(server.call(&[b"SET"]), Err(Failure::Broken(_))));
    }

    #[test]
    fn nobody_there() {
        let address = Address::Unix("/nonexistent/socket".into());
        assert!(Server::connect(&address, Duration::from_secs(1)).is_err());
        let address = Address::Instances(vec!["nobody".into()], 1);
        assert!(Server::connect(&address, Duration::from_secs(1)).is_err());
    }
}
