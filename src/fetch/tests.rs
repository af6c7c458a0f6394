use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::*;
use crate::tasks::Tasks;

/// Answers each connection with the next of these texts; the last one again and again.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Server {
    async fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        let heard = Arc::clone(&requests);
        tasks.spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tcp.read_u8().await.unwrap());
                }
                let mut heard = heard.lock().await;
                let answer = answers[heard.len().min(answers.len() - 1)].clone();
                heard.push(String::from_utf8(head).unwrap());
                drop(heard);
                let stays = answer.is_empty() || answer.ends_with(STALL);
                // Whoever has heard enough has gone.
                let _ = tcp.write_all(answer.as_bytes()).await;
                if stays {
                    std::future::pending::<()>().await;
                }
            }
        });
        Self {
            url,
            requests,
            tasks,
        }
    }

    async fn requests(&self) -> Vec<String> {
        self.requests.lock().await.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// The end of an answer that goes on for ever without another byte.
const STALL: &str = "and so on";

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(5),
        max_bytes: 100,
        allow: vec![Network::parse("127.0.0.0/8").unwrap()],
        proxy: None,
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

async fn fault(answers: Vec<String>) -> FetchError {
    let server = Server::start(answers).await;
    get(&limits(), &server.url, &Validators::default())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_body_comes_with_what_to_ask_with_and_is_not_sent_twice() {
    let unchanged = "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned();
    let server = Server::start(vec![ok("hello"), unchanged]).await;
    let url = format!("{}/a.crl?x", server.url);
    let fetched = get(&limits(), &url, &Validators::default()).await.unwrap();
    let Fetched::Changed { body, validators } = fetched else {
        panic!("{fetched:?}");
    };
    assert_eq!(*body, *b"hello");
    let again = get(&limits(), &url, &validators).await.unwrap();
    assert!(matches!(again, Fetched::Unchanged), "{again:?}");
    let requests = server.requests().await;
    assert!(
        requests[0].starts_with("GET /a.crl?x HTTP/1.1\r\n"),
        "{requests:?}"
    );
    assert!(!requests[0].contains("if-none-match"));
    assert!(requests[1].contains("if-none-match: \"a\""), "{requests:?}");
}

#[tokio::test]
async fn redirects_are_followed_and_each_is_judged() {
    let server = Server::start(vec![redirect("/b"), ok("there")]).await;
    let fetched = get(&limits(), &server.url, &Validators::default())
        .await
        .unwrap();
    assert!(matches!(fetched, Fetched::Changed { body, .. } if *body == *b"there"));
    assert!(matches!(
        fault(vec![redirect("file:///etc/passwd")]).await,
        FetchError::Url(..)
    ));
    assert_eq!(
        fault(vec![redirect("http://169.254.169.254/latest")]).await,
        FetchError::Inside("169.254.169.254".parse().unwrap())
    );
    assert_eq!(
        fault(vec![redirect("/again")]).await,
        FetchError::Redirects(5)
    );
    let nowhere = "HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n".to_owned();
    assert_eq!(fault(vec![nowhere]).await, FetchError::NoLocation);
}

#[tokio::test]
async fn what_is_too_large_too_slow_or_broken_is_given_up() {
    assert_eq!(
        fault(vec![ok(&"x".repeat(101))]).await,
        FetchError::TooLarge(100)
    );
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101));
    assert_eq!(fault(vec![endless]).await, FetchError::TooLarge(100));
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc".to_owned();
    assert!(matches!(fault(vec![cut]).await, FetchError::Broken(_)));
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned();
    assert_eq!(
        fault(vec![gone]).await,
        FetchError::Status(StatusCode::NOT_FOUND)
    );
    let server = Server::start(vec![String::new()]).await;
    let short = Limits {
        timeout: Duration::from_millis(50),
        ..limits()
    };
    let slow = get(&short, &server.url, &Validators::default()).await;
    assert_eq!(slow.unwrap_err(), FetchError::Slow(short.timeout));
}

#[tokio::test]
async fn an_address_inside_is_refused_and_a_proxy_is_asked_for_the_whole_url() {
    let server = Server::start(vec![ok("by proxy")]).await;
    let nothing = Limits {
        allow: Vec::new(),
        ..limits()
    };
    let inside = get(&nothing, &server.url, &Validators::default()).await;
    assert_eq!(
        inside.unwrap_err().to_string(),
        "leads to the address 127.0.0.1, which is inside a network and not allowed \
         (trust.revocation.allow-addresses allows networks)"
    );
    let through = Limits {
        proxy: Some(Url::parse(&server.url).unwrap()),
        ..nothing
    };
    get(&through, "http://crl.test/a", &Validators::default())
        .await
        .unwrap();
    let requests = server.requests().await;
    assert_eq!(requests.len(), 1);
    assert!(
        requests[0].starts_with("GET http://crl.test/a HTTP/1.1\r\n"),
        "{requests:?}"
    );
    assert!(requests[0].contains("host: crl.test\r\n"), "{requests:?}");
    get(&through, "http://10.0.0.1/a", &Validators::default())
        .await
        .unwrap_err();
}

/// Larger than what finds room always.
const LARGE: usize = 9 << 20;

async fn fetch_within(url: String, time: Duration) -> Result<Fetched, FetchError> {
    let limits = Limits {
        timeout: time,
        max_bytes: 2 * LARGE as u64,
        ..limits()
    };
    get(&limits, &url, &Validators::default()).await
}

#[tokio::test]
async fn large_bodies_are_held_one_at_a_time_and_a_slow_one_holds_up_no_other_for_long() {
    let second = Duration::from_secs(1);
    for endless in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n{STALL}"),
        format!("HTTP/1.1 200 OK\r\n\r\n{}{STALL}", "x".repeat(LARGE)),
    ] {
        let slow = Server::start(vec![endless]).await;
        let large = Server::start(vec![ok(&"x".repeat(LARGE))]).await;
        let other = Server::start(vec![ok(&"x".repeat(LARGE))]).await;
        let small = Server::start(vec![ok("small")]).await;
        let beside = async {
            let is_held = async {
                while !body::is_large_held() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(10 * second, is_held).await.unwrap();
            let (waits, in_vain, passes) = tokio::join!(
                fetch_within(large.url.clone(), 30 * second),
                fetch_within(other.url.clone(), second / 2),
                fetch_within(small.url.clone(), 30 * second),
            );
            assert!(matches!(passes, Ok(Fetched::Changed { .. })), "{passes:?}");
            assert_eq!(in_vain.unwrap_err(), FetchError::Crowded(second / 2));
            waits
        };
        let (slow, waited) = tokio::join!(fetch_within(slow.url.clone(), 2 * second), beside);
        assert_eq!(slow.unwrap_err(), FetchError::Slow(2 * second));
        let Ok(Fetched::Changed { body, .. }) = waited else {
            panic!("{waited:?}");
        };
        assert_eq!(body.len(), LARGE);
        assert_eq!(large.requests().await.len(), 2);

        // What was brought keeps its room for as long as it is kept.
        let next = fetch_within(large.url.clone(), second / 2).await;
        assert_eq!(next.unwrap_err(), FetchError::Crowded(second / 2));
        drop(body);
        assert!(!body::is_large_held());
    }
}
