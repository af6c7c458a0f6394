//! Requests written byte by byte, for what no HTTP library would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::Client;

/// Sends bytes over TLS and reads until the gateway closes or nothing more is to come of one answer.
pub async fn exchange(client: &Client, request: &str) -> Raw {
    let mut tls = client.tls(&[b"http/1.1"]).await.unwrap();
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let closed = loop {
        match tls.read(&mut buffer).await {
            Ok(0) | Err(_) => break true,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
        let raw = Raw::parse(&bytes, false);
        if raw.is_whole() && !raw.says_close() {
            break false;
        }
    };
    Raw::parse(&bytes, closed)
}

/// One answer as it came.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    pub phrase: String,
    pub head: String,
    pub body: String,
    pub closed: bool,
}

impl Raw {
    fn parse(bytes: &[u8], closed: bool) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut words = head.lines().next().unwrap_or_default().splitn(3, ' ');
        words.next();
        let status = words
            .next()
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        Self {
            status,
            phrase: words.next().unwrap_or_default().to_owned(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
            closed,
        }
    }

    fn is_whole(&self) -> bool {
        let length = self
            .field("content-length")
            .and_then(|length| length.parse().ok());
        length.is_some_and(|length: usize| self.body.len() >= length)
            || self.body.ends_with("0\r\n\r\n")
    }

    fn says_close(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value == "close")
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }
}
