//! The window of the streams of one tunnel, fitted to the memory there is.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use tokio::time::sleep;

use super::budget::Pressure;

/// How soon a change is tried again that the peer's acknowledgement of another holds up.
pub(super) const AGAIN: Duration = Duration::from_millis(20);

/// How often a stream that nothing comes from is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// What comes next in a stream, all of whose window the peer is to have again.
///
/// # Cancel safety
/// Safe.
pub(super) async fn data(stream: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        tokio::select! {
            biased;
            data = stream.data() => {
                if let Some(Ok(data)) = &data {
                    // Fails only for more than was received.
                    let _ = stream.flow_control().release_capacity(data.len());
                }
                return data;
            }
            () = sleep(LOOK) => open(stream),
        }
    }
}

/// Lets the peer know of room that h2 keeps to itself.
///
/// It tells the peer when bytes are given back that are many for the window. If too few were, and the window then becomes
/// so small that it is shut, nothing can come that could be given back: the stream would stand for ever.
pub(super) fn open(stream: &mut RecvStream) {
    // Fails only for more than was received.
    let _ = stream.flow_control().release_capacity(0);
}

/// The window of a stream, as the peer was told.
pub(super) struct Window {
    full: u32,
    told: u32,
    wanted: u32,
}

impl Window {
    /// A window that the peer was told of with its first settings.
    pub(super) fn new(full: u32) -> Self {
        Self {
            full,
            told: full,
            wanted: full,
        }
    }

    /// Tells the peer another window if there is to be one. `tell` fails while the peer has not acknowledged a change
    /// before.
    pub(super) fn fit(
        &mut self,
        pressure: Pressure,
        tell: impl FnOnce(u32) -> Result<(), h2::Error>,
    ) {
        self.wanted = pressure.of(self.full);
        if self.is_unfit() && tell(self.wanted).is_ok() {
            self.told = self.wanted;
        }
    }

    /// Whether the peer is still to be told.
    pub(super) fn is_unfit(&self) -> bool {
        self.told != self.wanted
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use h2::SendStream;
    use http::{Request, Response};
    use tokio::io::duplex;
    use tokio::time::timeout;

    use super::super::upload::poll_room;
    use super::*;
    use crate::tasks::Tasks;

    const FULL: u32 = 256 << 10;
    const SMALL: u32 = 4 << 10;
    /// More than the small window, and too little to tell of in the full one.
    const FIRST: usize = 20 << 10;
    const MORE: usize = 1 << 10;

    async fn send(stream: &mut SendStream<Bytes>, mut left: usize) {
        while left > 0 {
            let room = poll_fn(|cx| poll_room(stream, left, cx)).await;
            let part = room.unwrap().min(left);
            stream.send_data(Bytes::from(vec![7; part]), false).unwrap();
            left -= part;
        }
    }

    async fn receive(stream: &mut RecvStream, mut left: usize) {
        while left > 0 {
            left -= data(stream).await.unwrap().unwrap().len();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_becomes_small_while_nothing_is_under_way_does_not_stay_shut() {
        let (near, far) = duplex(1 << 20);
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(FULL);
        let both = tokio::join!(
            h2::client::handshake(near),
            builder.handshake::<_, Bytes>(far)
        );
        let ((mut client, connection), mut server) = (both.0.unwrap(), both.1.unwrap());
        let tasks = Tasks::new();
        tasks.spawn(async move { drop(connection.await) });
        let request = Request::post("https://gw.test/").body(()).unwrap();
        let (_answer, mut to) = client.send_request(request, false).unwrap();
        let (request, mut way) = server.accept().await.unwrap().unwrap();
        let _answering = way.send_response(Response::new(()), false).unwrap();
        let mut from = request.into_body();
        tokio::select! {
            _ = server.accept() => panic!("there is no other request"),
            _ = async { tokio::join!(send(&mut to, FIRST), receive(&mut from, FIRST)) } => (),
        }

        server.set_initial_window_size(SMALL).unwrap();
        let shut = poll_fn(|cx| {
            to.reserve_capacity(1);
            cx.waker().wake_by_ref();
            if to.capacity() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        tokio::select! {
            _ = server.accept() => panic!("there is no other request"),
            () = shut => (),
        }

        tasks.spawn(async move { while server.accept().await.is_some() {} });
        let more = async { tokio::join!(send(&mut to, MORE), receive(&mut from, MORE)) };
        timeout(3 * LOOK, more).await.unwrap();
        tasks.abort();
    }
}
