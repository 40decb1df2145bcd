// SPDX-License-Identifier: GPL-2.0

//! The face of a port for programs on tokio.

use std::io;

use tokio::io::unix::AsyncFd;

use super::{Port, Received};
use crate::{Error, Result};

/// A port for programs on tokio.
///
/// All methods can be given up half-way (they are "cancel safe"): then nothing has been sent or
/// received.
#[derive(Debug)]
pub struct AsyncPort {
    port: AsyncFd<Port>,
}

impl AsyncPort {
    /// A port whose fd the current runtime watches.
    ///
    /// # Errors
    ///
    /// That it cannot.
    ///
    /// # Panics
    ///
    /// Outside of a runtime with I/O, as [`AsyncFd::register`]; later in one without time.
    pub fn new(port: Port) -> Result<Self> {
        let asked = port.cannot("watch");
        // SAFETY: A `Port` owns its fd, which stays open and the same as long as it lives; nobody
        // gets at the `Port` but by shared reference, before it leaves the `AsyncFd`.
        let port = unsafe { AsyncFd::register(port) };
        let port = port.map_err(|error| Error::new(asked, error))?;
        Ok(Self { port })
    }

    /// Back to the blocking face.
    pub fn into_inner(self) -> Port {
        self.port.into_inner()
    }

    fn wait_failed(&self, error: &io::Error) -> Error {
        self.port.get_ref().explain("wait for", error)
    }

    /// Waits until there is a message, or the port is closed at the other end; or was, by the time
    /// that somebody looks.
    ///
    /// # Errors
    ///
    /// That it cannot be waited for.
    pub async fn readable(&self) -> Result<()> {
        let guard = self.port.readable().await;
        guard.map(drop).map_err(|error| self.wait_failed(&error))
    }

    /// Receives a message, when there is one; never [`Received::Nothing`].
    ///
    /// # Errors
    ///
    /// As [`Port::try_recv`].
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<Received> {
        loop {
            let ready = self.port.readable().await;
            let mut ready = ready.map_err(|error| self.wait_failed(&error))?;
            match self.port.get_ref().try_recv(buffer)? {
                Received::Nothing => {
                    let closed = ready.ready().is_read_closed();
                    ready.clear_ready();
                    drop(ready);
                    wait_if(closed).await;
                }
                received => return Ok(received),
            }
        }
    }

    /// Sends a message, when there is room for it.
    ///
    /// # Errors
    ///
    /// As [`Port::try_send`].
    pub async fn send(&self, message: &[u8]) -> Result<()> {
        loop {
            // The first one needs no wait: POLLOUT stands for the longest message.
            if self.port.get_ref().try_send(message)? {
                return Ok(());
            }
            let ready = self.port.writable().await;
            let mut ready = ready.map_err(|error| self.wait_failed(&error))?;
            if self.port.get_ref().try_send(message)? {
                return Ok(());
            }
            let closed = ready.ready().is_write_closed();
            ready.clear_ready();
            drop(ready);
            wait_if(closed).await;
        }
    }
}

/// Waits for a moment if the other end has closed the port: it may be opened there again, and the
/// runtime takes "closed" for the last thing that it hears, and is ready from then on.
async fn wait_if(closed: bool) {
    if closed {
        tokio::time::sleep(super::NAP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pair;
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn run<T>(future: impl std::future::Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let bound = async { timeout(Duration::from_secs(20), future).await };
        runtime.block_on(bound).expect("it ends")
    }

    #[test]
    fn both_ends_in_one_thread() {
        run(async {
            let (one, other) = pair();
            let (one, other) = (AsyncPort::new(one).unwrap(), AsyncPort::new(other).unwrap());
            // More than fits, so that each waits for the other.
            let sends = async {
                for number in 0..5000u32 {
                    one.send(&number.to_le_bytes()).await.unwrap();
                }
                drop(one);
            };
            let receives = async {
                let mut buffer = [0; 8];
                for number in 0..5000u32 {
                    let received = other.recv(&mut buffer).await.unwrap();
                    assert_eq!(received, Received::Message(4));
                    assert_eq!(buffer[..4], number.to_le_bytes());
                }
                other.readable().await.unwrap();
                other.recv(&mut buffer).await.unwrap()
            };
            assert_eq!(both(sends, receives).await, Received::Closed);
        });
    }

    /// Polls both until the second is done.
    async fn both<T>(
        one: impl std::future::Future<Output = ()>,
        other: impl std::future::Future<Output = T>,
    ) -> T {
        let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
        let mut ended = false;
        std::future::poll_fn(|context| {
            ended = ended || one.as_mut().poll(context).is_ready();
            other.as_mut().poll(context)
        })
        .await
    }

    #[test]
    fn what_is_given_up_takes_nothing() {
        run(async {
            let (one, other) = pair();
            let (one, other) = (AsyncPort::new(one).unwrap(), AsyncPort::new(other).unwrap());
            let mut buffer = [0; 8];
            let short = Duration::from_millis(2);
            assert!(timeout(short, other.recv(&mut buffer)).await.is_err());
            one.send(b"late").await.unwrap();
            let received = other.recv(&mut buffer).await.unwrap();
            assert_eq!(received, Received::Message(4));
            // The blocking face goes on.
            drop(one.into_inner());
            let port = other.into_inner();
            assert_eq!(port.recv(&mut buffer).unwrap(), Received::Closed);
        });
    }
}
