//! When the connection of a tunnel has its turn.

use std::future::{Future, poll_fn};
use std::task::{Context, Poll};

use opencmg::pieces::Push;
use tokio::io::AsyncWrite;

/// Polls a connection after the other tasks that are ready, and writes in one piece what they all have for it.
pub(crate) fn late<IO, T>(
    push: Push<IO>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> impl Future<Output = T>
where
    IO: AsyncWrite + Unpin,
{
    let mut waited = false;
    poll_fn(move |cx| {
        if !std::mem::replace(&mut waited, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        waited = false;
        let polled = poll(cx);
        push.push(cx);
        polled
    })
}
