//! An HTTP server that publishes CRLs, as a CA's web server does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opencmg::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A running publisher. It ends when it is dropped.
pub struct Publisher {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    /// By path: what is answered, as a whole message.
    answers: Mutex<HashMap<String, Vec<u8>>>,
    /// The heads of all requests.
    requests: Mutex<Vec<String>>,
    /// Whether answers are given; requests wait while they are not.
    open: watch::Sender<bool>,
}

impl Publisher {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answers: Mutex::default(),
            requests: Mutex::default(),
            open: watch::Sender::new(true),
        });
        let tasks = Tasks::new();
        let (own, inner) = (Arc::clone(&shared), tasks.clone());
        tasks.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let shared = Arc::clone(&own);
                inner.spawn(async move { shared.answer(tcp).await.unwrap_or_default() });
            }
        });
        Self {
            address,
            shared,
            tasks,
        }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Publishes a CRL; whoever has it already is told so.
    pub fn publish(&self, path: &str, crl: &[u8]) {
        let tag = crl
            .iter()
            .fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"{tag:x}\"\r\nContent-Length: {}\r\n\r\n",
            crl.len()
        );
        self.answer_with(path, &[head.as_bytes(), crl].concat());
    }

    /// Answers a path with a whole message.
    pub fn answer_with(&self, path: &str, message: &[u8]) {
        let mut answers = self.shared.answers.lock().unwrap();
        answers.insert(path.to_owned(), message.to_vec());
    }

    /// Whether answers are given; requests wait while they are not.
    pub fn set_open(&self, open: bool) {
        self.shared.open.send_replace(open);
    }

    /// The heads of the requests of a path so far.
    pub fn requests(&self, path: &str) -> Vec<String> {
        let start = format!("GET {path} ");
        let requests = self.shared.requests.lock().unwrap();
        let of_path = requests.iter().filter(|head| head.starts_with(&start));
        of_path.cloned().collect()
    }
}

impl Shared {
    async fn answer(&self, mut tcp: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        self.requests.lock().unwrap().push(head.clone());
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = self.answers.lock().unwrap().get(&path).cloned();
        let answer = answer
            .unwrap_or_else(|| b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
        let known = head
            .lines()
            .find_map(|line| line.strip_prefix("if-none-match: "));
        let is_known = known.is_some_and(|tag| {
            let tag = format!("ETag: {tag}\r\n");
            answer.windows(tag.len()).any(|part| part == tag.as_bytes())
        });
        match is_known {
            true => tcp.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n").await,
            false => tcp.write_all(&answer).await,
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}
