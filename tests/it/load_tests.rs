//! The load generator against small servers of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opencmg::tasks::Tasks;
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::load::{Load, Outcome, Shot};

#[tokio::test]
async fn a_load_over_mtls_sends_every_request_once_and_reports_each() {
    let (server, client) = mtls();
    let tasks = Tasks::new();
    let address = serve_tls(server, &tasks).await;
    let load = Load::new(address, |number| get(&format!("/{}", number % 4)));
    let running = load
        .tls(client, "load.test")
        .connections(8)
        .requests(200)
        .start();
    let report = running.finish(Duration::from_secs(30)).await;
    assert_eq!(report.by_status(), BTreeMap::from([(200, 150), (404, 50)]));
    assert_eq!(report.failed().len(), 50);
    let numbers: Vec<_> = report.shots.iter().map(|shot| shot.number).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    let phrase = |shot: &&Shot| match &shot.outcome {
        Outcome::Answered { phrase, bytes, .. } => (phrase.clone(), *bytes),
        other @ (Outcome::Aborted { .. } | Outcome::Unanswered(_)) => panic!("{other:?}"),
    };
    assert_eq!(phrase(&report.failed()[0]), (Some("Nowhere".into()), 4));
    assert!(report.quantile(0.5) <= report.quantile(1.0));
    tasks.abort();
}

#[tokio::test]
async fn a_load_tells_an_incomplete_body_and_a_missing_answer_apart() {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", ""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let running = Load::new(address, |_| get("/")).requests(2).start();
    let report = running.finish(Duration::from_secs(30)).await;
    let half = Outcome::Aborted {
        status: 200,
        bytes: 4,
    };
    assert_eq!(report.shots[0].outcome, half);
    assert!(
        matches!(report.shots[1].outcome, Outcome::Unanswered(_)),
        "{report:?}"
    );
    assert_eq!(report.by_status(), BTreeMap::from([(0, 2)]));
}

#[tokio::test]
async fn a_load_can_be_watched_and_stopped_while_requests_are_in_flight() {
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (held, owner) = (Arc::clone(&gate), tasks.clone());
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let held = Arc::clone(&held);
            owner.spawn(async move {
                let answer = service_fn(move |_: Request<Incoming>| {
                    let held = Arc::clone(&held);
                    async move {
                        let _open = held.acquire().await;
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                    }
                });
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    let running = Load::new(address, |_| get("/")).connections(5).start();
    running.wait_in_flight(5).await;
    assert_eq!((running.in_flight(), running.over()), (5, 0));
    running.stop();
    gate.add_permits(5);
    running.wait_over(5).await;
    let report = running.finish(Duration::from_secs(30)).await;
    assert_eq!(report.by_status(), BTreeMap::from([(200, 5)]));
    tasks.abort();
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header("host", "load.test")
        .body(Full::new(Bytes::new()))
        .unwrap()
}

async fn serve_tls(config: Arc<rustls::ServerConfig>, tasks: &Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let owner = tasks.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            owner.spawn(async move {
                let tls = acceptor.accept(stream).await.unwrap();
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server
                    .serve_connection(TokioIo::new(tls), service_fn(answer))
                    .await;
            });
        }
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = Full::new(Bytes::from_static(b"1234"));
    let mut response = Response::new(body);
    if request.uri().path() == "/3" {
        *response.status_mut() = hyper::StatusCode::NOT_FOUND;
        let phrase = ReasonPhrase::from_static(b"Nowhere");
        response.extensions_mut().insert(phrase);
    }
    Ok(response)
}

fn mtls() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let leaf = |usage| {
        let mut params = CertificateParams::new(vec!["load.test".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![CertificateDer::from(certificate.der().to_vec())], key)
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let (chain, key) = leaf(ExtendedKeyUsagePurpose::ServerAuth);
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let (chain, key) = leaf(ExtendedKeyUsagePurpose::ClientAuth);
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    (Arc::new(server), Arc::new(client))
}
