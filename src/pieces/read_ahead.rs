//! The stream below TLS.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{PIECE, Piece, SCARCE};

/// Reads a whole piece where little is asked for, and hands it out bit by bit. Writes pass through.
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    ahead: Option<Piece>,
    spares: bool,
}

impl<IO> ReadAhead<IO> {
    /// Reads ahead on a stream.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            ahead: None,
            spares: false,
        }
    }

    /// Reads no more than is asked for while memory is scarce: a stream that is one of many, and whose reader may stop
    /// for long in the middle of a piece.
    pub fn spare(&mut self) {
        self.spares = true;
    }

    /// The stream itself. What was read ahead of it is not in it.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_none() {
            let spares = this.spares && SCARCE.load(Ordering::Relaxed);
            if spares || buffer.remaining() >= PIECE {
                return Pin::new(&mut this.io).poll_read(cx, buffer);
            }
            let mut piece = Piece::lend();
            let mut room = ReadBuf::new(piece.room());
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut room))?;
            piece.end = room.filled().len();
            this.ahead = Some(piece);
        }
        let Some(piece) = &mut this.ahead else {
            return Poll::Ready(Ok(()));
        };
        let len = piece.full().len().min(buffer.remaining());
        buffer.put_slice(&piece.full()[..len]);
        piece.start += len;
        if piece.is_empty() {
            this.ahead = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_and_the_end_after_the_last() {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        theirs.write_all(&sent).await.unwrap();
        drop(theirs);
        let mut stream = ReadAhead::new(ours);
        let mut found = Vec::new();
        let mut sizes = [1, 5, 4_096, PIECE - 1, PIECE, 2 * PIECE]
            .into_iter()
            .cycle();
        loop {
            let mut some = vec![0; sizes.next().unwrap()];
            match stream.read(&mut some).await.unwrap() {
                0 => break,
                len => found.extend_from_slice(&some[..len]),
            }
        }
        assert_eq!(found, sent);
        assert!(stream.ahead.is_none());
    }
}
