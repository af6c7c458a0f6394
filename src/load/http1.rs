//! HTTP/1.1 as a load needs it: a request that is ready to be sent, and an answer read in place.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::connection::Answer;
use super::fault::Fault;
use super::plan::Wire;

// Far above what servers send.
const HEAD_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 64;

/// A connection.
pub(super) struct Http1 {
    stream: TlsStream<TcpStream>,
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Length,
    is_last: bool,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunked,
    UntilClosed,
}

impl Http1 {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream }
    }

    pub(super) async fn send(&mut self, wire: &Wire) -> io::Result<()> {
        self.stream.write_all(&wire.http1).await?;
        self.stream.flush().await
    }

    pub(super) async fn receive(&mut self, is_head: bool) -> Result<Answer, Fault> {
        let head = loop {
            let head = self.head().await?;
            if head.status >= 200 {
                break head;
            }
        };
        let has_none = is_head || matches!(head.status, 204 | 304);
        let length = if has_none {
            Length::Known(0)
        } else {
            head.length
        };
        let received = match length {
            Length::Known(length) => self.known(length).await,
            Length::Chunked => self.chunked().await,
            Length::UntilClosed => self.until_closed().await,
        }?;
        Ok(Answer {
            status: head.status,
            received,
            is_reusable: !head.is_last && length != Length::UntilClosed,
        })
    }

    /// Reads a head. It is parsed where it lies, and copied only if it comes in pieces.
    async fn head(&mut self) -> Result<Head, Fault> {
        let mut pieces = Vec::new();
        loop {
            let bytes = self.stream.fill_buf().await?;
            if bytes.is_empty() {
                return Err(Fault::Reset);
            }
            let (before, arrived) = (pieces.len(), bytes.len());
            let parsed = if before == 0 {
                parse(bytes)?
            } else {
                pieces.extend_from_slice(bytes);
                parse(&pieces)?
            };
            if let Some((head, end)) = parsed {
                self.stream.consume(end - before);
                return Ok(head);
            }
            if before == 0 {
                pieces.extend_from_slice(bytes);
            }
            if pieces.len() > HEAD_MAX {
                return Err(Fault::Malformed);
            }
            self.stream.consume(arrived);
        }
    }

    async fn known(&mut self, length: u64) -> Result<u64, Fault> {
        let mut left = length;
        while left > 0 {
            let arrived = self.body().await?;
            if arrived == 0 {
                return Err(Fault::ShortBody);
            }
            let taken = left.min(arrived as u64);
            self.stream
                .consume(usize::try_from(taken).unwrap_or(arrived));
            left -= taken;
        }
        Ok(length)
    }

    async fn until_closed(&mut self) -> Result<u64, Fault> {
        let mut received = 0;
        loop {
            let arrived = self.body().await?;
            if arrived == 0 {
                return Ok(received);
            }
            received += arrived as u64;
            self.stream.consume(arrived);
        }
    }

    async fn chunked(&mut self) -> Result<u64, Fault> {
        let mut received = 0;
        let mut line = Vec::new();
        loop {
            self.line(&mut line).await?;
            let size = match httparse::parse_chunk_size(&line) {
                Ok(httparse::Status::Complete((_, size))) => size,
                Ok(httparse::Status::Partial) | Err(_) => return Err(Fault::Malformed),
            };
            if size == 0 {
                break;
            }
            received += self.known(size).await?;
            self.line(&mut line).await?;
        }
        // Trailers end with an empty line.
        while line != b"\r\n" {
            self.line(&mut line).await?;
        }
        Ok(received)
    }

    async fn line(&mut self, line: &mut Vec<u8>) -> Result<(), Fault> {
        line.clear();
        let read = self.stream.read_until(b'\n', line).await;
        if read.is_err() || !line.ends_with(b"\n") {
            return Err(Fault::ShortBody);
        }
        Ok(())
    }

    /// How many bytes have arrived; 0 at the end.
    async fn body(&mut self) -> Result<usize, Fault> {
        let bytes = self.stream.fill_buf().await;
        bytes.map(<[u8]>::len).map_err(|_| Fault::ShortBody)
    }

    /// Returns when the server closes, or sends what nobody asked for.
    pub(super) async fn closed(&mut self) {
        // An error is an end as well.
        let _ = self.stream.fill_buf().await;
    }

    pub(super) async fn close(mut self) {
        // The answer is in, so that nothing is lost if the server was faster.
        let _ = self.stream.shutdown().await;
    }
}

/// A head and where it ends, or nothing if it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let end = match response.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Fault::Malformed),
    };
    let mut head = Head {
        status: response.code.ok_or(Fault::Malformed)?,
        length: Length::UntilClosed,
        is_last: response.version == Some(0),
    };
    for field in response.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let text = str::from_utf8(field.value).map_err(|_| Fault::Malformed)?;
            let length = text.trim().parse().map_err(|_| Fault::Malformed)?;
            if head.length == Length::UntilClosed {
                head.length = Length::Known(length);
            }
        } else if is("transfer-encoding") {
            head.length = Length::Chunked;
        } else if is("connection") && field.value.eq_ignore_ascii_case(b"close") {
            head.is_last = true;
        }
    }
    Ok(Some((head, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_where_its_body_ends_and_whether_it_is_the_last() {
        let head = |text: &str| {
            parse(text.as_bytes())
                .unwrap()
                .map(|(head, end)| (head.length, head.is_last, end))
        };
        let known = "HTTP/1.1 200 OK\r\ncontent-LENGTH: 12\r\n\r\n";
        let expected = (Length::Known(12), false, known.len());
        assert_eq!(head(&format!("{known}body")), Some(expected));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        assert_eq!(head(chunked), Some((Length::Chunked, true, chunked.len())));
        let old = "HTTP/1.0 200 OK\r\n\r\n";
        assert_eq!(head(old), Some((Length::UntilClosed, true, old.len())));
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Le"), None);
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n"), Err(Fault::Malformed));
    }
}
