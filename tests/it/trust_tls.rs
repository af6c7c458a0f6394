//! TLS and trust over real sockets: names, key choice, tunnels, client certificates, alerts; rustls and openssl as peers.

mod files;
mod hints;
mod kinds;
mod server;
mod unsent;
mod verdicts;

use std::sync::Arc;

use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Validity};
use opencmg::pki::{Certificate, KeyPair};
use opencmg::reason::Reason;
use opencmg::tls::{
    ClientCertificates, NameSettings, OnBadClientCertificate, Purpose, TUNNEL_ALPN,
    TunnelClientSettings, Version, Way, tunnel_client,
};
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, NamedGroup};

use server::{Offer, Pki, Server, alert_of, openssl};

const D5: &[u8] = TUNNEL_ALPN[0];

fn name(pki: &Pki, names: &[&str]) -> NameSettings {
    NameSettings {
        key_pairs: vec![pki.server(names, KeyAlgorithm::EcdsaP256)],
        ..NameSettings::default()
    }
}

/// The DNS names of the certificate that is shown for a server name.
async fn shown(server: &Server, asked: &str) -> Vec<String> {
    let seen = server.connect(&Offer::to(asked)).await.unwrap();
    Certificate::parse(&seen.shown[0]).unwrap().dns_names
}

#[tokio::test]
async fn an_exact_name_comes_before_a_wildcard_which_covers_one_label() {
    let pki = Pki::new();
    let names = vec![
        name(&pki, &["default.test"]),
        name(&pki, &["*.a.test"]),
        name(&pki, &["exact.a.test"]),
    ];
    let server = Server::start(&pki, names, false).await;
    assert_eq!(shown(&server, "exact.a.test").await, ["exact.a.test"]);
    assert_eq!(shown(&server, "EXACT.a.Test").await, ["exact.a.test"]);
    assert_eq!(shown(&server, "other.a.test").await, ["*.a.test"]);
    for unserved in ["b.c.a.test", "a.test", "elsewhere.test"] {
        assert_eq!(shown(&server, unserved).await, ["default.test"]);
    }
    let said = server
        .connect(&Offer::to("EXACT.a.Test"))
        .await
        .unwrap()
        .said;
    assert_eq!(said.server_name.as_deref(), Some("exact.a.test"));
    server.stop().await;
}

#[tokio::test]
async fn strict_names_refuse_an_unknown_and_a_missing_name_with_the_fitting_alert() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    assert_eq!(shown(&server, "gw.test").await, ["gw.test"]);
    for offer in [Offer::to("other.test"), Offer::to("127.0.0.1")] {
        let error = server.connect(&offer).await.unwrap_err();
        assert_eq!(
            alert_of(&error),
            Some(AlertDescription::UnrecognisedName),
            "{error}"
        );
        assert_eq!(server.failure().await.reason, Reason::UnknownServerName);
    }
    let out = openssl(&server, &["-servername", "other.test"]).await;
    assert!(out.contains("unrecognized name"), "{out}");
    server.stop().await;
}

#[tokio::test]
async fn the_key_is_chosen_by_what_the_client_offers() {
    let pki = Pki::new();
    let both = NameSettings {
        key_pairs: vec![
            pki.server(&["gw.test"], KeyAlgorithm::Rsa2048),
            pki.server(&["gw.test"], KeyAlgorithm::EcdsaP256),
        ],
        ..NameSettings::default()
    };
    let server = Server::start(&pki, vec![both], false).await;
    let cases: [(&[&str], &str); 5] = [
        (&["-tls1_3"], "ECDSA"),
        (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "RSA-PSS"),
        (&["-tls1_2"], "ECDSA"),
        (&["-tls1_2", "-sigalgs", "RSA+SHA256"], "RSA"),
        // The suites speak too: this client could verify ECDSA and offers no suite for it.
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
            "RSA-PSS",
        ),
    ];
    for (arguments, kind) in cases {
        let out = openssl(&server, &[&["-servername", "gw.test"], arguments].concat()).await;
        assert!(
            out.contains(&format!("Peer signature type: {kind}\n")),
            "{arguments:?}: {out}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn versions_suites_and_groups_are_as_set() {
    let pki = Pki::new();
    let old = NameSettings {
        max_version: Version::Tls12,
        cipher_suites: vec!["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".to_owned()],
        ..name(&pki, &["old.test"])
    };
    let new = NameSettings {
        min_version: Version::Tls13,
        ..name(&pki, &["new.test"])
    };
    let server = Server::start(&pki, vec![old, new], true).await;
    let out = openssl(&server, &["-servername", "old.test"]).await;
    assert!(
        out.contains("TLSv1.2") && out.contains("ECDHE-ECDSA-AES256-GCM-SHA384"),
        "{out}"
    );
    let out = openssl(&server, &["-servername", "new.test", "-tls1_2"]).await;
    assert!(out.contains("alert protocol version"), "{out}");
    assert_eq!(
        server
            .connect(&Offer::to("old.test"))
            .await
            .unwrap()
            .said
            .http2,
        Some(true)
    );
    let seen = server.connect(&Offer::to("new.test")).await.unwrap();
    assert_eq!(seen.group, Some(NamedGroup::X25519MLKEM768));
    server.stop().await;
}

#[tokio::test]
async fn each_suite_of_tls13_makes_full_and_resumed_handshakes_with_openssl() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    let folder = tempfile::tempdir().unwrap();
    for suite in [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ] {
        let session = folder.path().join(suite);
        for (option, how) in [("-sess_out", "New"), ("-sess_in", "Reused")] {
            let asked = ["-servername", "gw.test", "-tls1_3", "-ciphersuites", suite];
            let session = [option, session.to_str().unwrap()];
            let out = openssl(&server, &[&asked[..], &session].concat()).await;
            let made = format!("{how}, TLSv1.3, Cipher is {suite}\n");
            assert!(out.contains(&made) && out.contains("said\n"), "{out}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_has_to_say_hello_again_is_served() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    // The key that it sends is of a group that the server does not know (RFC 8446 §4.1.4).
    let again = [
        "-servername",
        "gw.test",
        "-tls1_3",
        "-groups",
        "P-521:P-256",
    ];
    let out = openssl(&server, &again).await;
    assert!(out.contains("ECDH, prime256v1"), "{out}");
    assert!(out.contains("said\n"), "{out}");
    server.stop().await;
}

#[tokio::test]
async fn http_2_is_chosen_where_it_is_offered_and_set() {
    let pki = Pki::new();
    let without = NameSettings {
        http2: false,
        ..name(&pki, &["one.test"])
    };
    let server = Server::start(&pki, vec![name(&pki, &["two.test"]), without], false).await;
    let cases: [(&str, &[&[u8]], bool); 5] = [
        ("two.test", &[b"h2", b"http/1.1"], true),
        ("two.test", &[b"http/1.1"], false),
        ("two.test", &[], false),
        ("one.test", &[b"h2", b"http/1.1"], false),
        // A tunnel's name among others does not make a tunnel.
        ("two.test", &[b"rh2", b"h2"], true),
    ];
    for (asked, alpn, http2) in cases {
        let said = server
            .connect(&Offer::to(asked).alpn(alpn))
            .await
            .unwrap()
            .said;
        assert_eq!(said.http2, Some(http2), "{asked} {alpn:?}");
    }
    let error = server
        .connect(&Offer::to("two.test").alpn(&[b"spdy/3"]))
        .await
        .unwrap_err();
    assert_eq!(
        alert_of(&error),
        Some(AlertDescription::NoApplicationProtocol)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_tunnel_is_known_by_alpn_by_server_name_and_by_port() {
    let pki = Pki::new();
    let names = vec![name(&pki, &["default.test"]), name(&pki, &["gw.test"])];
    let server = Server::start(&pki, names, false).await;
    let tunnel =
        |asked: &str, alpn: &[&[u8]]| Offer::to(asked).alpn(alpn).with(&pki.connection_point());
    let client_port: [(&str, &[&[u8]]); 6] = [
        ("gw.test", &[D5]),
        ("gw.test", &[b"rh2"]),
        ("gw.test", &[D5, b"rh2"]),
        ("tunnel.gw.test", &[b"h2"]),
        ("tunnel.gw.test", &[]),
        ("Tunnel.GW.test", &[b"h2", b"http/1.1"]),
    ];
    for (asked, alpn) in client_port {
        let seen = server.connect(&tunnel(asked, alpn)).await.unwrap();
        assert_eq!(seen.said.purpose, Purpose::Tunnel, "{asked} {alpn:?}");
        let shown = Certificate::parse(&seen.shown[0]).unwrap().dns_names;
        assert_eq!(shown, ["gw.test"], "the service's certificate is expected");
    }
    for (asked, alpn) in [
        ("gw.test", &[b"h2" as &[u8], D5] as &[&[u8]]),
        ("gw.test", &[]),
    ] {
        let seen = server.connect(&tunnel(asked, alpn)).await.unwrap();
        assert_ne!(seen.said.purpose, Purpose::Tunnel, "{asked} {alpn:?}");
    }
    for alpn in [
        &[b"anything" as &[u8]] as &[&[u8]],
        &[],
        &[b"rh2"],
        &[b"h2"],
    ] {
        let seen = server
            .connect(&tunnel("gw.test", alpn).tunnel_port())
            .await
            .unwrap();
        assert_eq!(seen.said.purpose, Purpose::Tunnel, "{alpn:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_tunnel_needs_a_certificate_of_the_connection_points_ca_and_is_never_resumed() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    let offer = Offer::to("gw.test").alpn(&[b"rh2"]);
    for versions in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let without = server
            .connect(&offer.clone().version(versions))
            .await
            .unwrap_err();
        assert!(alert_of(&without).is_some(), "{without}");
        let failure = server.failure().await;
        assert_eq!(failure.reason, Reason::TunnelNotAuthenticated, "{failure}");

        // A client's certificate is none of a connection point.
        let foreign = offer
            .clone()
            .version(versions)
            .with(&pki.client("pc-1.test"));
        let error = server.connect(&foreign).await.unwrap_err();
        assert_eq!(alert_of(&error), Some(AlertDescription::UnknownCA));
        let failure = server.failure().await;
        assert_eq!(failure.reason, Reason::TunnelNotAuthenticated);
        assert!(failure.detail.contains("CN=Issuing"), "{failure}");

        let own = offer
            .clone()
            .version(versions)
            .with(&pki.connection_point());
        let first = server.connect(&own).await.unwrap();
        assert_eq!(first.said.identity.as_deref(), Some("cp-1.test"));
        assert!(!server.connect(&own).await.unwrap().said.resumed);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_connection_point_dials_by_each_way_and_verifies_the_gateway_for_the_service_name() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    let settings = |way, service: &str, ca: &Authority| TunnelClientSettings {
        key_pair: pki.connection_point(),
        ca: vec![ca.certificate().clone()],
        service_name: service.to_owned(),
        way,
    };
    for way in [Way::Alpn, Way::ServerName, Way::Port] {
        let config = tunnel_client(&settings(way, "gw.test", &pki.root)).unwrap();
        let offer = Offer::to(&way.server_name("gw.test")).config(config);
        let offer = if way == Way::Port {
            offer.tunnel_port()
        } else {
            offer
        };
        let said = server.connect(&offer).await.unwrap().said;
        assert_eq!(said.purpose, Purpose::Tunnel, "{way:?}");
        assert_eq!(said.identity.as_deref(), Some("cp-1.test"));
    }
    // Whatever is asked for, the certificate must be the service's.
    let config = tunnel_client(&settings(Way::Alpn, "other.test", &pki.root)).unwrap();
    let error = server
        .connect(&Offer::to("gw.test").config(config))
        .await
        .unwrap_err();
    let found =
        opencmg::tls::GatewayCertificateError::find(&error).expect("an error of the certificate");
    assert!(
        !found.unknown_issuer && found.to_string().contains("\"other.test\""),
        "{found}"
    );
    // Whoever inspects TLS on the way is named.
    let config = tunnel_client(&settings(Way::Alpn, "gw.test", &pki.stranger)).unwrap();
    let error = server
        .connect(&Offer::to("gw.test").config(config))
        .await
        .unwrap_err();
    let found =
        opencmg::tls::GatewayCertificateError::find(&error).expect("an error of the certificate");
    assert!(
        found.unknown_issuer && found.issuer == "CN=Issuing",
        "{found}"
    );
    server.stop().await;
}

#[tokio::test]
async fn hints_are_told_to_clients_that_are_asked() {
    let pki = Pki::new();
    let subject = |ca: &Authority| Certificate::parse(ca.certificate()).unwrap().subject_der;
    let hinting = NameSettings {
        hints: vec![subject(&pki.root), subject(&pki.issuing)],
        ..name(&pki, &["hints.test"])
    };
    let never = NameSettings {
        client_certificates: ClientCertificates::Never,
        ..name(&pki, &["never.test"])
    };
    let server = Server::start(&pki, vec![hinting, name(&pki, &["none.test"]), never], true).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let out = openssl(&server, &["-servername", "hints.test", version]).await;
        let (_, listed) = out
            .split_once("Acceptable client certificate CA names\n")
            .expect(&out);
        assert!(listed.starts_with("CN = Root\nCN = Issuing\n"), "{out}");
        let out = openssl(&server, &["-servername", "none.test", version]).await;
        assert!(out.contains("No client certificate CA names sent"), "{out}");
        assert!(
            out.contains("Client Certificate Types")
                || out.contains("Requested Signature Algorithms"),
            "{out}"
        );
        let out = openssl(&server, &["-servername", "never.test", version]).await;
        assert!(!out.contains("Requested Signature Algorithms"), "{out}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_no_tls_client_or_goes_away_is_told_apart() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], false).await;
    drop(
        tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap(),
    );
    assert_eq!(server.failure().await.reason, Reason::ClientGone);
    let mut plain = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    plain
        .read_to_end(&mut answer)
        .await
        .expect("an alert and no reset");
    assert_eq!(answer.first(), Some(&0x15));
    drop(plain);
    assert_eq!(server.failure().await.reason, Reason::HandshakeFailed);
    server.stop().await;
}

#[tokio::test]
async fn unchanged_names_keep_their_sessions_when_another_changes() {
    let pki = Pki::new();
    let names = vec![name(&pki, &["one.test"]), name(&pki, &["two.test"])];
    let server = Server::start(&pki, names.clone(), true).await;
    let [one, two] = ["one.test", "two.test"].map(Offer::to);
    for offer in [&one, &two] {
        assert!(!server.connect(offer).await.unwrap().said.resumed);
        assert!(server.connect(offer).await.unwrap().said.resumed);
    }
    server.rebuild(vec![names[0].clone(), name(&pki, &["two.test"])]);
    assert!(server.connect(&one).await.unwrap().said.resumed);
    assert!(!server.connect(&two).await.unwrap().said.resumed);
    server.stop().await;
}

#[tokio::test]
async fn a_remembered_session_is_resumed_once_and_a_sealed_one_as_often_as_the_client_likes() {
    const TICKET: &str = "TLS session ticket lifetime hint";
    let pki = Pki::new();
    let remembering = name(&pki, &["remembering.test"]);
    let sealing = NameSettings {
        sessions: 0,
        ..name(&pki, &["sealing.test"])
    };
    let old = NameSettings {
        max_version: Version::Tls12,
        ..name(&pki, &["old.test"])
    };
    let server = Server::start(&pki, vec![remembering, sealing, old], true).await;
    for (asked, offered, again) in [
        ("remembering.test", &["-tls1_3"][..], "New, TLSv1.3"),
        ("remembering.test", &["-tls1_2"], "Reused, TLSv1.2"),
        (
            "remembering.test",
            &["-tls1_2", "-no_ticket"],
            "Reused, TLSv1.2",
        ),
        ("sealing.test", &["-tls1_3"], "Reused, TLSv1.3"),
        ("sealing.test", &["-tls1_2"], "Reused, TLSv1.2"),
        // Offers both versions, and gets a ticket of the one that it speaks here.
        ("old.test", &[], "Reused, TLSv1.2"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("session");
        let file = file.to_str().unwrap();
        let (full, resumed) = (
            again.replace("Reused", "New"),
            again.replace("New", "Reused"),
        );
        for (option, expected) in [
            ("-sess_out", full.as_str()),
            ("-sess_in", &resumed),
            ("-sess_in", again),
        ] {
            let arguments = [&["-servername", asked, option, file], offered].concat();
            let out = openssl(&server, &arguments).await;
            assert!(out.contains(expected) && out.contains("said\n"), "{out}");
            assert_eq!(
                out.contains(TICKET),
                !offered.contains(&"-no_ticket"),
                "{out}"
            );
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_for_whose_session_there_is_no_room_resumes_all_the_same() {
    let pki = Pki::new();
    let one = NameSettings {
        sessions: 1,
        ..name(&pki, &["gw.test"])
    };
    let server = Server::start(&pki, vec![one], true).await;
    let clients =
        ["pc-1.test", "pc-2.test"].map(|name| Offer::to("gw.test").with(&pki.client(name)));
    for resumed in [false, true, true] {
        for client in &clients {
            assert_eq!(server.connect(client).await.unwrap().said.resumed, resumed);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn without_tickets_nothing_is_resumed() {
    let pki = Pki::new();
    let none = NameSettings {
        tickets: 0,
        ..name(&pki, &["gw.test"])
    };
    let server = Server::start(&pki, vec![none], true).await;
    for version in rustls::ALL_VERSIONS {
        let offer = Offer::to("gw.test").version(version);
        for _ in 0..2 {
            assert!(!server.connect(&offer).await.unwrap().said.resumed);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_session_of_one_name_is_not_resumed_by_another() {
    let pki = Pki::new();
    let asking = name(&pki, &["asking.test"]);
    let never = NameSettings {
        client_certificates: ClientCertificates::Never,
        ..name(&pki, &["never.test"])
    };
    let server = Server::start(&pki, vec![asking, never], true).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("session");
        let file = file.to_str().unwrap();
        openssl(
            &server,
            &["-servername", "never.test", version, "-sess_out", file],
        )
        .await;
        let out = openssl(
            &server,
            &["-servername", "never.test", version, "-sess_in", file],
        )
        .await;
        assert!(out.contains("Reused, TLSv1"), "{out}");
        let out = openssl(
            &server,
            &["-servername", "asking.test", version, "-sess_in", file],
        )
        .await;
        assert!(out.contains("New, TLSv1"), "{out}");
    }
    server.stop().await;
}

#[test]
fn settings_that_cannot_be_served_are_told_all_at_once() {
    let pki = Pki::new();
    let verify: opencmg::tls::VerifyFn = Arc::new(|_| Ok(()));
    let stolen = {
        let pair = pki.server(&["gw.test"], KeyAlgorithm::EcdsaP256);
        KeyPair {
            chain: pair.chain,
            key: Key::generate(KeyAlgorithm::EcdsaP256).unwrap().to_der(),
        }
    };
    let names = vec![
        NameSettings {
            server_name: Some("elsewhere.test".to_owned()),
            ..name(&pki, &["gw.test"])
        },
        NameSettings {
            key_pairs: vec![stolen],
            ..NameSettings::default()
        },
        NameSettings {
            cipher_suites: vec!["TLS_NULL".to_owned()],
            min_version: Version::Tls13,
            max_version: Version::Tls12,
            ..name(&pki, &["two.test"])
        },
        name(&pki, &["twice.test"]),
        name(&pki, &["twice.test"]),
    ];
    let settings = opencmg::tls::ServerSettings {
        names,
        strict_sni: false,
        tunnel_server_name: "tunnel.gw.test".to_owned(),
    };
    let problems =
        opencmg::tls::ServerTls::build(&settings, Arc::clone(&verify), verify).unwrap_err();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    assert_eq!(
        problems[0],
        "the certificate \"CN=gw.test\" does not cover \"elsewhere.test\""
    );
    assert_eq!(
        problems[1],
        "the private key does not belong to the certificate \"CN=gw.test\""
    );
    assert!(
        problems[2].starts_with(
            "the cipher suite \"TLS_NULL\" is unknown (one of TLS_AES_256_GCM_SHA384, "
        )
    );
    assert_eq!(
        problems[3],
        "the lowest version TLS 1.3 is above the highest, TLS 1.2"
    );
    assert_eq!(
        problems[4],
        "the server name \"twice.test\" is served twice (list its certificates together)"
    );
}

/// A client certificate whose validity is given in days from today.
fn dated(ca: &Authority, from: i64, to: i64) -> KeyPair {
    let at = |days: i64| {
        let seconds = UnixTime::now()
            .as_secs()
            .saturating_add_signed(days * 86_400);
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    };
    let validity = Validity {
        not_before: at(from),
        not_after: at(to),
    };
    let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    ca.issue(&Leaf::client("pc-1.test", validity), &key)
        .unwrap()
}

fn alerting(pki: &Pki, client_certificates: ClientCertificates) -> NameSettings {
    NameSettings {
        on_bad_client_certificate: OnBadClientCertificate::Alert,
        client_certificates,
        ..name(pki, &["gw.test"])
    }
}
