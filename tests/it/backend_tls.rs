//! TLS towards real backends: nginx and Apache, the latter in place of IIS, which asks for certificates late.

use std::fs;

use bytes::Bytes;
use opencmg::backend::{BackendSettings, NameCheck};
use opencmg::pki::issue::{KeyAlgorithm, Leaf, Purpose, Validity};
use opencmg::reason::Reason;
use rustls::pki_types::UnixTime;

use crate::backend_servers::{Ca, Server, Subject, TlsRaw, request, settings};
use crate::world::now;

async fn nginx(certificate: &std::path::Path, key: &std::path::Path, more: &str) -> Server {
    let (certificate, key) = (certificate.display(), key.display());
    Server::nginx(&format!(
        "server {{ listen @ADDRESS@ ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; {more}
           location / {{ return 200 \"$ssl_protocol $ssl_cipher $host $ssl_server_name\"; }} }}"
    ))
    .await
}

fn trusting(ca: &Ca, url: &str) -> BackendSettings {
    BackendSettings {
        ca: vec![ca.pem()],
        ..settings(url)
    }
}

#[tokio::test]
async fn nginx_is_reached_over_tls_and_sees_the_internal_name() {
    let ca = Ca::new();
    let (certificate, key) = ca.localhost(KeyAlgorithm::EcdsaP256);
    let server = nginx(&certificate, &key, "ssl_protocols TLSv1.2 TLSv1.3;").await;
    let subject = Subject::new(trusting(&ca, &server.url("https")));
    for _ in 0..3 {
        let answer = subject.send(request("GET", "/SMS_MP/x", "")).await.unwrap();
        assert_eq!(answer.status(), 200);
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(
            text.starts_with("TLSv1.3 ") && text.ends_with(" localhost localhost"),
            "{text}"
        );
    }
    assert_eq!(subject.dials(), 1, "one connection is used again");
    subject.finish().await;
}

#[tokio::test]
async fn host_server_name_and_certificate_name_have_overrides() {
    let ca = Ca::new();
    let leaf = Leaf::server(&["mp.corp.example"], Validity::days(now(), 30));
    let (certificate, key) = ca.issue("mp", KeyAlgorithm::EcdsaP256, &leaf);
    let server = nginx(&certificate, &key, "").await;
    let subject = Subject::new(BackendSettings {
        host: Some("host.corp.example".to_owned()),
        server_name: Some("sni.corp.example".to_owned()),
        certificate_name: Some("mp.corp.example".to_owned()),
        ..trusting(&ca, &server.url("https"))
    });
    let answer = subject.send(request("GET", "/", "")).await.unwrap();
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(
        text.ends_with(" host.corp.example sni.corp.example"),
        "{text}"
    );
    subject.finish().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_of_an_unknown_issuer_or_expired_is_refused_and_says_so() {
    let ca = Ca::new();
    let day = 86_400;
    let at = |days_ago: u64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            now().as_secs() - days_ago * day,
        ))
    };
    let (valid, expired) = (
        Validity::days(now(), 30),
        Validity {
            not_before: at(9),
            not_after: at(2),
        },
    );
    for (names, validity, trusted, detail) in [
        (
            ["other.corp.example"],
            valid,
            true,
            "is not for localhost: it is for other.corp.example",
        ),
        (["localhost"], expired, true, "has expired"),
        (["localhost"], valid, false, "unknown issuer"),
    ] {
        let leaf = Leaf::server(&names, validity);
        let (certificate, key) = ca.issue("server", KeyAlgorithm::EcdsaP256, &leaf);
        let server = nginx(&certificate, &key, "").await;
        let stranger = Ca::new();
        let believed = if trusted { &ca } else { &stranger };
        let subject = Subject::new(trusting(believed, &server.url("https")));
        let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
        assert_eq!(failure.reason, Reason::BackendCertificate, "{failure}");
        assert!(failure.detail.contains(detail), "{failure}");
        subject.finish().await;
    }
}

#[tokio::test]
async fn a_certificate_with_a_common_name_only_is_taken_where_the_setting_says_so() {
    let ca = Ca::new();
    let leaf = Leaf {
        common_name: "localhost".to_owned(),
        names: Vec::new(),
        purpose: Purpose::Server,
        validity: Validity::days(now(), 30),
    };
    let (certificate, key) = ca.issue("cn", KeyAlgorithm::Rsa2048, &leaf);
    let server = nginx(&certificate, &key, "").await;
    let strict = Subject::new(trusting(&ca, &server.url("https")));
    let failure = strict.send(request("GET", "/", "")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::BackendCertificate);
    assert!(
        failure.detail.contains("name-check = \"san-or-cn\""),
        "{failure}"
    );
    strict.finish().await;

    let lenient = Subject::new(BackendSettings {
        name_check: NameCheck::SanOrCommonName,
        ..trusting(&ca, &server.url("https"))
    });
    assert_eq!(
        lenient
            .send(request("GET", "/", ""))
            .await
            .unwrap()
            .status(),
        200
    );
    lenient.finish().await;
}

#[tokio::test]
async fn a_pinned_fingerprint_stands_in_for_chain_and_name_and_no_other_certificate_passes() {
    let ca = Ca::new();
    let leaf = Leaf::server(&["whatever.example"], Validity::days(now(), 30));
    let (certificate, key) = ca.issue("pinned", KeyAlgorithm::EcdsaP256, &leaf);
    let server = nginx(&certificate, &key, "").await;
    let der = opencmg::pki::read_certificates(&fs::read(&certificate).unwrap()).unwrap();
    let hex = opencmg::pki::Certificate::parse(&der[0])
        .unwrap()
        .fingerprint;
    let mut pin = [0; 32];
    for (index, byte) in pin.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap();
    }
    let pinned = |pin| {
        Subject::new(BackendSettings {
            name_check: NameCheck::Pinned(pin),
            ..settings(&server.url("https"))
        })
    };
    let right = pinned(pin);
    assert_eq!(
        right.send(request("GET", "/", "")).await.unwrap().status(),
        200
    );
    right.finish().await;

    pin[0] ^= 1;
    let wrong = pinned(pin);
    let failure = wrong.send(request("GET", "/", "")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::BackendCertificate);
    assert!(
        failure.detail.contains("another one is pinned"),
        "{failure}"
    );
    wrong.finish().await;
}

#[tokio::test]
async fn a_server_with_nothing_but_the_suites_of_server_2012_r2_is_reached() {
    let ca = Ca::new();
    let (certificate, key) = ca.localhost(KeyAlgorithm::Rsa2048);
    let suites =
        "ssl_protocols TLSv1.2; ssl_ciphers ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA384;";
    let server = nginx(&certificate, &key, suites).await;
    let subject = Subject::new(trusting(&ca, &server.url("https")));
    let answer = subject.send(request("GET", "/", "")).await.unwrap();
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(text.starts_with("TLSv1.2 ECDHE-RSA-AES"), "{text}");
    subject.finish().await;
}

/// Apache that asks for a client certificate below `/secure` only, after it has read the path.
async fn apache_that_asks_late(ca: &Ca) -> Server {
    let (certificate, key) = ca.localhost(KeyAlgorithm::Rsa2048);
    Server::apache(&format!(
        "SSLEngine on\nSSLProtocol TLSv1.2\nSSLCertificateFile {}\nSSLCertificateKeyFile {}\n\
         SSLCACertificateFile {}\n\
         <Location />\nSetHandler reflector\nHeader set x-subject \"%{{SSL_CLIENT_S_DN_CN}}s\"\n</Location>\n\
         <Location /secure>\nSSLVerifyClient require\nSSLVerifyDepth 3\n</Location>",
        certificate.display(),
        key.display(),
        ca.pem().display()
    ))
    .await
}

#[tokio::test]
async fn a_certificate_asked_for_late_is_shown_before_a_first_post_of_300_kb() {
    let ca = Ca::new();
    let server = apache_that_asks_late(&ca).await;
    let leaf = Leaf::client("cp-1.corp.example", Validity::days(now(), 30));
    let (certificate, key) = ca.issue("client", KeyAlgorithm::EcdsaP256, &leaf);
    let subject = Subject::new(BackendSettings {
        certificate: Some(certificate),
        key: Some(key),
        ..trusting(&ca, &server.url("https"))
    });
    let body: Bytes = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    for _ in 0..2 {
        let post = request("POST", "/secure/request", body.clone());
        let answer = subject.send(post).await.unwrap();
        assert_eq!(answer.status(), 200, "{}", server.log());
        assert_eq!(answer.headers()["x-subject"], "cp-1.corp.example");
        assert!(answer.body() == &body, "the body came back byte for byte");
    }
    assert_eq!(subject.dials(), 1, "the certificate was shown once");
    subject.finish().await;
}

#[tokio::test]
async fn a_post_after_one_to_an_open_endpoint_of_the_same_connection_is_asked_for_the_certificate_too()
 {
    let ca = Ca::new();
    let server = apache_that_asks_late(&ca).await;
    let leaf = Leaf::client("cp-1.corp.example", Validity::days(now(), 30));
    let (certificate, key) = ca.issue("client", KeyAlgorithm::EcdsaP256, &leaf);
    let subject = Subject::new(BackendSettings {
        certificate: Some(certificate),
        key: Some(key),
        ..trusting(&ca, &server.url("https"))
    });
    let body = Bytes::from(vec![7; 300_000]);
    for (endpoint, path) in [(0, "/open"), (1, "/secure/x")] {
        let terms = opencmg::backend::Terms {
            endpoint,
            ..Default::default()
        };
        let post = request("POST", path, body.clone());
        let answer = subject.backend.send(post, terms).await.unwrap();
        assert_eq!(answer.status(), 200, "{path} {}", server.log());
        let answer = http_body_util::BodyExt::collect(answer.into_body()).await;
        assert!(answer.unwrap().to_bytes() == body);
    }
    assert_eq!(subject.dials(), 1);
    subject.finish().await;
}

#[tokio::test]
async fn without_a_certificate_the_server_that_asks_late_refuses_and_open_paths_work() {
    let ca = Ca::new();
    let server = apache_that_asks_late(&ca).await;
    let subject = Subject::new(trusting(&ca, &server.url("https")));
    let open = subject.send(request("POST", "/open", "abc")).await.unwrap();
    assert_eq!(
        (open.status().as_u16(), &open.body()[..]),
        (200, &b"abc"[..])
    );
    match subject.send(request("GET", "/secure/x", "")).await {
        Ok(answer) => assert_eq!(answer.status(), 403),
        Err(failure) => assert_eq!(failure.reason, Reason::BackendBroken, "{failure}"),
    }
    subject.finish().await;
}

#[tokio::test]
async fn a_pfx_and_keys_of_older_forms_are_read() {
    let ca = Ca::new();
    let server = apache_that_asks_late(&ca).await;
    let leaf = Leaf::client("cp-1.corp.example", Validity::days(now(), 30));
    for (algorithm, arguments) in [
        (KeyAlgorithm::Rsa2048, ["rsa", "-traditional"].as_slice()),
        (KeyAlgorithm::EcdsaP384, ["ec"].as_slice()),
    ] {
        let (certificate, key) = ca.issue("client", algorithm, &leaf);
        let old = key.with_extension("old");
        let converted = std::process::Command::new("openssl")
            .args(arguments)
            .arg("-in")
            .arg(&key)
            .arg("-out")
            .arg(&old)
            .status()
            .expect("install the package openssl");
        assert!(converted.success());
        assert!(
            !fs::read_to_string(&old)
                .unwrap()
                .contains("BEGIN PRIVATE KEY")
        );
        let pfx = key.with_extension("pfx");
        let pair =
            opencmg::pki::load_pem(&fs::read(&certificate).unwrap(), &fs::read(&key).unwrap());
        let bytes = opencmg::pki::issue::to_pfx(&pair.unwrap(), "client", "secret").unwrap();
        fs::write(&pfx, bytes).unwrap();
        fs::write(key.with_extension("password"), "secret\n").unwrap();
        let with_key = BackendSettings {
            certificate: Some(certificate),
            key: Some(old),
            ..trusting(&ca, &server.url("https"))
        };
        let with_pfx = BackendSettings {
            certificate: Some(pfx),
            password: Some(opencmg::backend::Password::File(
                key.with_extension("password"),
            )),
            ..trusting(&ca, &server.url("https"))
        };
        for settings in [with_key, with_pfx] {
            let subject = Subject::new(settings);
            let answer = subject
                .send(request("POST", "/secure/x", "x"))
                .await
                .unwrap();
            assert_eq!(answer.headers()["x-subject"], "cp-1.corp.example");
            subject.finish().await;
        }
    }
}

#[tokio::test]
async fn every_fault_of_the_files_is_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("junk.pem"), "junk").unwrap();
    let faulty = BackendSettings {
        ca: vec![dir.path().join("none.pem"), dir.path().join("junk.pem")],
        certificate: Some(dir.path().join("client.pem")),
        key: Some(dir.path().join("client.key")),
        ..settings("https://localhost")
    };
    let metrics = opencmg::metrics::Metrics::new();
    let built = opencmg::backend::Backend::<http_body_util::Full<Bytes>>::build(
        faulty,
        &metrics,
        &opencmg::tasks::Tasks::new(),
        &opencmg::allowance::Allowance::default(),
    );
    let faults = built.unwrap_err();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(
        faults[0].starts_with("ca: ") && faults[0].contains("none.pem"),
        "{faults:?}"
    );
    assert!(
        faults[1].starts_with("ca: ") && faults[1].contains("no certificate"),
        "{faults:?}"
    );
    assert!(faults[2].starts_with("certificate: "), "{faults:?}");
}

#[tokio::test]
async fn a_body_that_was_held_back_goes_out_on_a_fresh_connection_when_the_used_one_breaks() {
    let ca = Ca::new();
    let (certificate, key) = ca.localhost(KeyAlgorithm::EcdsaP256);
    let server = TlsRaw::start(&certificate, &key, |number, mut wire| async move {
        while let Some(head) = wire.head().await {
            if head.starts_with("GET") {
                wire.answer("first").await;
                continue;
            }
            assert!(head.contains("expect: 100-continue"), "{head}");
            if number == 0 {
                return;
            }
            wire.say("HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = wire.body(5).await;
            wire.answer(std::str::from_utf8(&body).unwrap()).await;
        }
    })
    .await;
    let leaf = Leaf::client("cp-1.corp.example", Validity::days(now(), 30));
    let (certificate, key) = ca.issue("client", KeyAlgorithm::EcdsaP256, &leaf);
    let subject = Subject::new(BackendSettings {
        certificate: Some(certificate),
        key: Some(key),
        ..trusting(&ca, &format!("https://localhost:{}", server.address.port()))
    });
    let first = subject.send(request("GET", "/", "")).await.unwrap();
    assert_eq!(first.body(), "first");
    let post = subject
        .send(request("CCM_POST", "/", "hello"))
        .await
        .unwrap();
    assert_eq!(post.body(), "hello");
    assert_eq!(subject.dials(), 2);
    subject.finish().await;
}
