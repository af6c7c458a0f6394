//! CRLs that the gateway fetches by itself: found, waited for, refreshed, kept.

use std::time::Duration;

use http::StatusCode;
use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::pki::UnixTime;
use opencmg::pki::issue::{
    Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity, certificates_to_pem, crl_to_pem,
};
use tokio::time::Instant;

use crate::client::get;
use crate::publisher::Publisher;
use crate::served::is_served;
use crate::world::{HOST, Pki, Plan, World, eventually, mp_list, now, within};

const LOOPBACK: &str = "allow-addresses = [\"127.0.0.0/8\"]\n";

/// A world with a CA of which the gateway knows only what its clients show.
struct Fetching {
    world: World,
    backend: BuiltIn,
    publisher: Publisher,
    authority: Authority,
}

impl Fetching {
    async fn start(revocation: &str) -> Self {
        let backend = BuiltIn::management_point(Options::default()).await.unwrap();
        let publisher = Publisher::start().await;
        let world = Plan::new()
            .connection_point(&backend.url(), &backend.url())
            .gateway("[trust]\ncrl-cache = \"crl-cache\"\n")
            .revocation(revocation)
            .start()
            .await;
        let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let authority = world
            .pki
            .root
            .intermediate("Field CA", key, Validity::days(now(), 9));
        let points = ["ldap:///cn=field".to_owned(), publisher.url("/field.crl")];
        let points = points.each_ref().map(String::as_str);
        let authority = authority.unwrap().with_crl_points(&points);
        for name in ["field-1", "field-2"] {
            let leaf = Leaf::client(name, Validity::days(now(), 9));
            world.pki.issue(&authority, name, &leaf);
        }
        Self {
            world,
            backend,
            publisher,
            authority,
        }
    }

    /// Publishes a CRL that is in force from and to so many seconds from now.
    fn publish(&self, number: u64, revoked: &[&str], from: i64, to: i64) {
        let at = |seconds: i64| {
            UnixTime::since_unix_epoch(Duration::from_secs(
                now().as_secs().saturating_add_signed(seconds),
            ))
        };
        let list = RevocationList {
            revoked: revoked
                .iter()
                .map(|name| self.world.pki.serial(name))
                .collect(),
            ..RevocationList::empty(
                number,
                Validity {
                    not_before: at(from),
                    not_after: at(to),
                },
            )
        };
        let crl = self.authority.revoke(&list).unwrap();
        self.publisher.publish("/field.crl", &crl);
    }

    async fn status_of(&self, name: &str) -> (StatusCode, String) {
        let answer = self.world.client(name).get(&mp_list()).await;
        (answer.status, answer.phrase)
    }

    async fn finish(self) {
        self.world.finish().await;
        self.backend.stop().await;
    }
}

const UNKNOWN: &str = "CMGService_ClientCertificateRevocationUnknown";

#[tokio::test]
async fn a_first_client_waits_for_the_crl_that_it_names_and_a_restart_needs_no_network() {
    let mut fetching = Fetching::start(LOOPBACK).await;
    fetching.publish(1, &["field-2"], -60, 86_400);
    fetching.publisher.set_open(false);
    let clients = (0..20).map(|_| fetching.status_of("field-1"));
    let clients = futures_util::future::join_all(clients);
    let open = async {
        eventually("the CRL is asked for", async || {
            !fetching.publisher.requests("/field.crl").is_empty()
        })
        .await;
        fetching.publisher.set_open(true);
    };
    let (answers, ()) = tokio::join!(clients, open);
    assert!(
        answers.iter().all(|(status, _)| *status == StatusCode::OK),
        "{answers:?}"
    );
    assert_eq!(
        fetching.publisher.requests("/field.crl").len(),
        1,
        "one fetch for all"
    );
    let (_, phrase) = fetching.status_of("field-2").await;
    assert_eq!(phrase, "CMGService_ClientCertificateRevoked");

    let gateway = &mut fetching.world.gateways[0];
    assert_eq!(
        gateway.metric("opencmg_crl_fetches_total", "changed").await,
        1.0
    );
    assert_eq!(
        gateway.metric("opencmg_crl_entries", "CN=Field CA").await,
        1.0
    );
    assert!(
        gateway
            .metric("opencmg_crl_next_update_seconds", "CN=Field CA")
            .await
            > 0.0
    );
    let status: serde_json::Value = serde_json::from_str(&gateway.status().await).unwrap();
    let fetched = &status["trust"]["revocation"]["fetched"][0];
    assert_eq!(fetched["url"], fetching.publisher.url("/field.crl"));
    assert_eq!(fetched["issuers"][0], "CN=Field CA");
    assert!(fetched["last_error"].is_null() && fetched["next_attempt_s"].as_u64().unwrap() > 60);

    gateway.stop().await;
    fetching.publisher.set_open(false);
    fetching.world.gateways[0].start();
    fetching.world.gateways[0].accepts().await;
    fetching.world.gateways[0].has_tunnels(1).await;
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    let (_, phrase) = fetching.status_of("field-2").await;
    assert_eq!(phrase, "CMGService_ClientCertificateRevoked");
    assert_eq!(fetching.publisher.requests("/field.crl").len(), 1);
    fetching.finish().await;
}

/// The one file of the cache with an ending.
fn cached(fetching: &Fetching, end: &str) -> std::path::PathBuf {
    let folder = fetching.world.dir.path().join("crl-cache");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    files
        .find(|path| path.extension().is_some_and(|own| own == end))
        .unwrap()
}

#[tokio::test]
async fn a_list_on_disk_that_is_not_the_last_one_that_was_had_is_asked_for_anew_at_once() {
    let mut fetching = Fetching::start(LOOPBACK).await;
    fetching.publish(1, &[], -60, 86_400);
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    let file = cached(&fetching, "crl");
    let older = std::fs::read(&file).unwrap();
    fetching.publish(2, &["field-1"], -30, 86_400);
    let entry = cached(&fetching, "json");
    // As if the process had ended between the two files of the second list.
    let text = std::fs::read_to_string(&entry).unwrap();
    let mut said: serde_json::Value = serde_json::from_str(&text).unwrap();
    said["etag"] = "\"another\"".into();
    said["of"] = "another".into();
    let gateway = &mut fetching.world.gateways[0];
    gateway.stop().await;
    std::fs::write(&entry, said.to_string()).unwrap();
    std::fs::write(&file, older).unwrap();
    let gateway = &mut fetching.world.gateways[0];
    gateway.start();
    gateway.accepts().await;
    gateway.has_tunnels(1).await;
    eventually("the second list is in force", async || {
        fetching.status_of("field-1").await.1 == "CMGService_ClientCertificateRevoked"
    })
    .await;
    let asked = fetching.publisher.requests("/field.crl");
    assert!(!asked.last().unwrap().contains("another"), "{asked:?}");
    fetching.finish().await;
}

#[tokio::test]
async fn a_ca_that_is_no_longer_trusted_is_no_longer_fetched_from() {
    let fetching = Fetching::start(LOOPBACK).await;
    fetching.publish(1, &[], -60, 86_400);
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    let gateway = &fetching.world.gateways[0];
    let places = async || {
        let status: serde_json::Value = serde_json::from_str(&gateway.status().await).unwrap();
        let fetched = status["trust"]["revocation"]["fetched"].as_array();
        fetched.unwrap().len()
    };
    assert_eq!(places().await, 1);
    let pki = &fetching.world.pki;
    let root = std::fs::read(pki.file("root.pem")).unwrap();
    pki.write("root-of-servers.pem", &root);
    pki.write(
        "root.pem",
        certificates_to_pem(&[pki.stranger.certificate().clone()]),
    );
    eventually("its place is dropped", async || places().await == 0).await;
    let folder = fetching.world.dir.path().join("crl-cache");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    pki.write("root.pem", root);
    eventually("it is trusted again", async || {
        fetching.status_of("field-1").await.0 == StatusCode::OK
    })
    .await;
    assert_eq!(places().await, 1);
    fetching.finish().await;
}

#[tokio::test]
async fn a_ca_whose_certificates_name_no_place_is_told() {
    let fetching = Fetching::start(LOOPBACK).await;
    let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let days = Validity::days(now(), 9);
    let pki = &fetching.world.pki;
    let silent = pki.root.intermediate("Silent CA", key, days).unwrap();
    let silent = silent.with_crl_points(&["ldap:///cn=silent"]);
    pki.issue(&silent, "silent-1", &Leaf::client("silent-1", days));
    assert_eq!(fetching.status_of("silent-1").await.1, UNKNOWN);
    let gateway = &fetching.world.gateways[0];
    gateway
        .says("no certificate names a place over plain HTTP")
        .await;
    let failing = "opencmg_crl_fetches_failing";
    assert_eq!(gateway.metric(failing, "CN=Silent CA").await, 1.0);

    // Once another certificate names a place, nothing is missing.
    let list = RevocationList::empty(1, days);
    let crl = silent.revoke(&list).unwrap();
    fetching.publisher.publish("/silent.crl", &crl);
    let silent = silent.with_crl_points(&[&fetching.publisher.url("/silent.crl")]);
    pki.issue(&silent, "silent-2", &Leaf::client("silent-2", days));
    for name in ["silent-2", "silent-1"] {
        assert_eq!(fetching.status_of(name).await.0, StatusCode::OK, "{name}");
    }
    eventually("nothing fails any more", async || {
        gateway.metric(failing, "").await == 0.0
    })
    .await;
    fetching.finish().await;
}

#[tokio::test]
async fn explain_certificate_looks_at_the_crls_that_the_gateway_keeps() {
    let fetching = Fetching::start(LOOPBACK).await;
    fetching.publish(1, &["field-2"], -60, 86_400);
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    for (name, code, said) in [
        ("field-1", 0, "\naccepted until "),
        ("field-2", 1, "\nrefused: certificate-revoked: "),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_opencmg"));
        command.args(["explain-certificate", &format!("pki/{name}.pem")]);
        command.args(["--config", "gateway-0.toml"]);
        command.current_dir(fetching.world.dir.path());
        let out = command.output().unwrap();
        let all = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(code), "{all}");
        assert!(all.contains(said), "{all}");
        assert!(all.contains("CRL number 01 of \"CN=Field CA\""), "{all}");
    }
    fetching.finish().await;
}

#[tokio::test]
async fn a_crl_that_does_not_come_in_time_holds_a_request_no_longer_than_allowed() {
    let fetching = Fetching::start(&format!("{LOOPBACK}hold = \"1s\"\n")).await;
    fetching.publish(1, &[], -60, 86_400);
    fetching.publisher.set_open(false);
    let begin = Instant::now();
    let answered = fetching.status_of("field-1");
    let (_, phrase) = within(Duration::from_secs(10), "the answer", answered).await;
    assert_eq!(phrase, UNKNOWN);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    fetching.publisher.set_open(true);
    eventually("the CRL has come", async || {
        fetching.status_of("field-1").await.0 == StatusCode::OK
    })
    .await;
    assert_eq!(fetching.publisher.requests("/field.crl").len(), 1);
    fetching.finish().await;
}

#[tokio::test]
async fn a_crl_is_refreshed_before_it_goes_stale_and_closes_who_is_on_the_new_one() {
    let fetching = Fetching::start(LOOPBACK).await;
    // Four fifths of it are over.
    fetching.publish(1, &[], -90, 30);
    let client = fetching.world.client("field-1");
    let mut open = client.connect().await.unwrap();
    let mut served = async || {
        let mut request = get(&mp_list());
        request.headers_mut().insert("host", HOST.parse().unwrap());
        let answer = open.send(request).await;
        answer.is_ok_and(|answer| answer.status == StatusCode::OK)
    };
    assert!(served().await);
    eventually("it is asked for again", async || {
        fetching.publisher.requests("/field.crl").len() > 1
    })
    .await;
    assert!(served().await, "what is unchanged harmed a connection");
    let again = fetching.publisher.requests("/field.crl").pop().unwrap();
    assert!(again.contains("if-none-match: "), "{again}");
    fetching.publish(2, &["field-1"], -1, 86_400);
    let closed = eventually("the revoked client is closed", async || !served().await);
    within(Duration::from_secs(10), "the refresh", closed).await;
    let gateway = &fetching.world.gateways[0];
    assert!(
        gateway
            .metric("opencmg_crl_fetches_total", "unchanged")
            .await
            >= 1.0
    );
    fetching.finish().await;
}

#[tokio::test]
async fn what_is_no_crl_of_the_ca_is_refused_by_name_and_the_last_good_one_serves_on() {
    let fetching = Fetching::start(LOOPBACK).await;
    fetching.publish(5, &[], -90, 30);
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    let ok = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let moved =
        |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let gateway = &fetching.world.gateways[0];
    // A place that a certificate names has the lists of its CA, and no others beside them.
    let own = RevocationList::empty(6, Validity::days(now(), 1));
    let own = crl_to_pem(&fetching.authority.revoke(&own).unwrap());
    let mixed = [own, crl_of_stranger(&fetching.world.pki)].concat();
    for (answer, said) in [
        (ok(&mixed), "is a CRL of \\\"CN=Stranger Root\\\""),
        (ok("<html>log in</html>"), "is a web page, not a CRL"),
        (moved("file:///etc/passwd"), "file:///etc/passwd"),
    ] {
        fetching
            .publisher
            .answer_with("/field.crl", answer.as_bytes());
        gateway.says(said).await;
    }
    assert_eq!(gateway.metric("opencmg_crl_fetches_failing", "").await, 1.0);
    let status: serde_json::Value = serde_json::from_str(&gateway.status().await).unwrap();
    let error = &status["trust"]["revocation"]["fetched"][0]["last_error"];
    assert!(
        error
            .as_str()
            .is_some_and(|error| error.contains("/field.crl")),
        "{status}"
    );
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    fetching.finish().await;
}

#[tokio::test]
async fn a_place_inside_the_network_is_not_asked_unless_it_is_allowed() {
    let fetching = Fetching::start("").await;
    fetching.publish(1, &[], -60, 86_400);
    assert_eq!(fetching.status_of("field-1").await.1, UNKNOWN);
    let gateway = &fetching.world.gateways[0];
    gateway
        .says("which is inside a network and not allowed")
        .await;
    assert!(fetching.publisher.requests("/field.crl").is_empty());
    fetching.finish().await;
}

#[tokio::test]
async fn a_url_of_the_settings_brings_the_crl_of_a_configured_ca() {
    let publisher = Publisher::start().await;
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = publisher.url("/intermediate.crl");
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .revocation(&format!("{LOOPBACK}urls = [\"{url}\"]\n"))
        .start()
        .await;
    let file = std::fs::read(world.pki.file("intermediate.crl")).unwrap();
    let number_2 = {
        world
            .pki
            .revoke(&world.pki.intermediate, "two", 2, &["pc-1"]);
        std::fs::read(world.pki.file("two.crl")).unwrap()
    };
    assert_ne!(file, number_2);
    // The file has number 1: the highest number wins, wherever it comes from.
    assert_eq!(
        world.client("pc-1").get(&mp_list()).await.status,
        StatusCode::OK
    );
    // Each of a bundle counts once, and that of a CA that is not known is passed over as in a file.
    let stranger = crl_of_stranger(&world.pki);
    let bundle = [stranger, crl_to_pem(&number_2).repeat(3_000)].concat();
    publisher.publish("/intermediate.crl", bundle.as_bytes());
    eventually("the fetched CRL is in force", async || {
        // A client that is revoked while it asks loses its connection.
        let answer = world.client("pc-1").send(get(&mp_list())).await;
        answer.is_ok_and(|answer| answer.phrase == "CMGService_ClientCertificateRevoked")
    })
    .await;
    assert_eq!(
        world.client("pc-2").get(&mp_list()).await.status,
        StatusCode::OK
    );
    let gateway = &world.gateways[0];
    let log = gateway.log();
    assert_eq!(log.matches("fetched the CRL").count(), 1, "{log}");
    assert!(
        log.contains("are passed over: one is a CRL of \"CN=Stranger Root\""),
        "{log}"
    );
    let status: serde_json::Value = serde_json::from_str(&gateway.status().await).unwrap();
    let fetched = &status["trust"]["revocation"]["fetched"][0];
    assert_eq!(fetched["issuers"].as_array().unwrap().len(), 1, "{fetched}");
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn a_crl_that_went_stale_serves_through_its_grace_and_is_told() {
    let fetching = Fetching::start(LOOPBACK).await;
    fetching.publish(1, &[], -7_200, -3_600);
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    let gateway = &fetching.world.gateways[0];
    gateway
        .says("is stale: it should have been followed by another")
        .await;
    let status: serde_json::Value = serde_json::from_str(&gateway.status().await).unwrap();
    let alerts = status["alerts"].as_array().unwrap();
    assert!(
        alerts
            .iter()
            .any(|alert| alert["use"] == "crl"
                && alert["name"].as_str().unwrap().contains("Field CA")),
        "the alert stands as soon as the CRL is in force: {status}"
    );
    let file = fetching.world.dir.path().join("service/service.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let short = text.replace(LOOPBACK, &format!("{LOOPBACK}grace = \"1min\"\n"));
    std::fs::write(&file, short).unwrap();
    eventually("the grace is over", async || {
        // A client whose grace ends while it asks loses its connection.
        let client = fetching.world.client("field-1");
        let answer = client.send(get(&mp_list())).await;
        answer.is_ok_and(|answer| answer.phrase == "CMGService_ClientCertificateCrlStale")
    })
    .await;
    fetching.finish().await;
}

impl Fetching {
    /// Answers certificates that are not accepted by an alert.
    async fn alert(&self) {
        let file = self.world.dir.path().join("service/service.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let password = "password-file = \"../pki/server.password\"\n";
        let lines = format!("{password}on-bad-client-certificate = \"alert\"\n");
        std::fs::write(&file, text.replacen(password, &lines, 1)).unwrap();
        let gateway = &self.world.gateways[0];
        gateway.says("the service definition has changed").await;
    }

    /// Whether a client is turned away before it has an answer.
    async fn fails(&self, name: &str) -> bool {
        let client = self.world.client(name);
        client.send(get(&mp_list())).await.is_err()
    }
}

#[tokio::test]
async fn in_alert_mode_no_handshake_waits_for_or_fails_by_a_crl_that_is_just_fetched() {
    let fetching = Fetching::start(LOOPBACK).await;
    fetching.alert().await;
    fetching.publish(1, &["field-2"], -60, 86_400);
    fetching.publisher.set_open(false);
    let handshakes = async {
        // Both are through while the publisher holds its answer back.
        let connections = [
            fetching.world.client("field-1").connect().await.unwrap(),
            fetching.world.client("field-2").connect().await.unwrap(),
        ];
        assert!(fetching.fails("stranger").await, "what no CRL could mend");
        connections
    };
    let connections = within(Duration::from_secs(4), "both handshakes", handshakes).await;
    eventually("the CRL is asked for", async || {
        !fetching.publisher.requests("/field.crl").is_empty()
    })
    .await;
    fetching.publisher.set_open(true);
    let mut phrases = Vec::new();
    for mut connection in connections {
        let mut request = get(&mp_list());
        request.headers_mut().insert("host", HOST.parse().unwrap());
        let answer = connection.send(request).await.unwrap();
        phrases.push((answer.status.as_u16(), answer.phrase));
    }
    let revoked = "CMGService_ClientCertificateRevoked".to_owned();
    assert_eq!(phrases, [(200, "OK".to_owned()), (403, revoked)]);
    assert_eq!(fetching.status_of("field-1").await.0, StatusCode::OK);
    assert!(fetching.fails("field-2").await, "the list is known now");
    fetching.finish().await;
}

#[tokio::test]
async fn in_alert_mode_a_crl_that_cannot_be_had_is_told_once_and_then_by_the_alert() {
    let fetching = Fetching::start(LOOPBACK).await;
    fetching.alert().await;
    assert_eq!(fetching.status_of("field-1").await.1, UNKNOWN);
    assert!(fetching.fails("field-1").await);
    fetching.finish().await;
}

fn crl_of_stranger(pki: &Pki) -> String {
    let list = RevocationList::empty(1, Validity::days(now(), 1));
    crl_to_pem(&pki.stranger.revoke(&list).unwrap())
}

/// Places of a bad list: the path, what is answered there, and what is said of it.
fn bad_places(pki: &Pki) -> [(&'static str, Vec<u8>, &'static str); 12] {
    let good = std::fs::read(pki.file("intermediate.crl")).unwrap();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let empty = RevocationList::empty(1, Validity::days(now(), 1));
    let answer = |length: u64, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let ok = |body: &[u8]| answer(body.len() as u64, body);
    let moved = |to: &str| {
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    };
    [
        (
            "/html",
            ok(b"<html>log in</html>"),
            "is a web page, not a CRL",
        ),
        ("/empty", ok(b""), "is empty"),
        ("/cut", ok(&good[..good.len() - 9]), "is cut off"),
        (
            "/short",
            answer(good.len() as u64, &good[..9]),
            "was not answered well",
        ),
        ("/huge", answer(2 << 30, b"0"), "is larger than 128 MiB"),
        (
            "/stranger",
            ok(&pki.stranger.revoke(&empty).unwrap()),
            "is a CRL of \\\"CN=Stranger Root\\\"",
        ),
        ("/forged", ok(&forged), "was not signed with the key of"),
        (
            "/file",
            moved("file:///etc/passwd"),
            "leads to \\\"file:///etc/passwd\\\"",
        ),
        (
            "/private",
            moved("http://10.0.0.1/ca.crl"),
            "leads to the address 10.0.0.1, which is inside",
        ),
        (
            "/link-local",
            moved("http://[fe80::1]/ca.crl"),
            "leads to the address fe80::1, which is inside",
        ),
        (
            "/loop",
            moved("/loop"),
            "leads from one redirect to the next",
        ),
        (
            "/gone",
            b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "was answered with 410",
        ),
    ]
}

#[tokio::test]
async fn each_place_of_a_bad_list_is_named_with_what_is_wrong_and_clients_are_served_on() {
    let publisher = Publisher::start().await;
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    let gateway = &world.gateways[0];
    let places = bad_places(&world.pki);
    let mut urls = Vec::new();
    for (path, message, _) in &places {
        publisher.answer_with(path, message);
        urls.push(format!("{:?}", publisher.url(path)));
    }
    // It accepts and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = format!("http://{}/slow", silent.local_addr().unwrap());
    urls.push(format!("{slow:?}"));
    let lines = format!(
        "[trust.revocation]\nfetch-timeout = \"1s\"\n{LOOPBACK}urls = [{}]\n",
        urls.join(", ")
    );
    let mut open = world.client("pc-1").connect().await.unwrap();
    assert!(is_served(&mut open).await);
    let file = world.dir.path().join("service/service.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("[trust.revocation]\n", &lines, 1)).unwrap();
    let places = places
        .iter()
        .map(|(path, _, said)| (publisher.url(path), *said));
    for (url, said) in places.chain([(slow, "was not fetched within 1s")]) {
        eventually(&format!("{url} {said}"), async || {
            let log = gateway.log();
            log.lines().any(|line| {
                line.contains("a CRL cannot be fetched")
                    && line.contains(&format!("error=\"{url} "))
                    && line.contains(said)
            })
        })
        .await;
    }
    assert!(is_served(&mut open).await);
    eventually("all of them count as failing", async || {
        gateway.metric("opencmg_crl_fetches_failing", "").await == 13.0
    })
    .await;
    let answer = world.client("pc-2").get(&mp_list()).await;
    assert_eq!(answer.status, StatusCode::OK);
    world.finish().await;
    backend.stop().await;
}
