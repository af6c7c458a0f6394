//! What becomes of each kind of client certificate, on both versions, in full and resumed handshakes.

use opencmg::pki::issue::{Authority, KeyAlgorithm, Leaf, Purpose, Validity};
use opencmg::pki::{CertificateDer, KeyPair, PrivateKeyDer};
use opencmg::reason::Reason;
use opencmg::tls::ClientCertificates;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};
use rustls::{AlertDescription, SupportedProtocolVersion};

use super::server::{Offer, Pki, Server, alert_of, anchors, key, openssl, year};
use super::{alerting, dated, name};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A kind of client certificate, and what is to be said of it.
struct Case {
    what: &'static str,
    pair: KeyPair,
    verdict: Result<(), (Reason, &'static str)>,
    alert: AlertDescription,
}

fn case(
    what: &'static str,
    pair: KeyPair,
    reason: Reason,
    which: &'static str,
    alert: AlertDescription,
) -> Case {
    Case {
        what,
        pair,
        verdict: Err((reason, which)),
        alert,
    }
}

fn cases(pki: &Pki) -> Vec<Case> {
    let [good, bad, under_bad] = [good(pki), bad_leaves(pki), under_bad_issuers(pki)];
    [good, bad, under_bad].into_iter().flatten().collect()
}

fn good(pki: &Pki) -> Vec<Case> {
    let mut reversed = pki.client("pc-1.test");
    let extra = pki.stranger.certificate().clone();
    reversed.chain = vec![
        reversed.chain[0].clone(),
        extra,
        pki.root.certificate().clone(),
        reversed.chain[1].clone(),
    ];
    vec![
        Case {
            what: "valid",
            pair: pki.client("pc-1.test"),
            verdict: Ok(()),
            alert: AlertDescription::CloseNotify,
        },
        Case {
            what: "in the wrong order",
            pair: reversed,
            verdict: Ok(()),
            alert: AlertDescription::CloseNotify,
        },
    ]
}

fn bad_leaves(pki: &Pki) -> Vec<Case> {
    let mut alone = pki.client("pc-1.test");
    alone.chain.truncate(1);
    let mut wrong_usage = Leaf::client("pc-1.test", year());
    wrong_usage.purpose = Purpose::Server;
    let wrong_usage = pki
        .issuing
        .issue(&wrong_usage, &key(KeyAlgorithm::EcdsaP256))
        .unwrap();
    vec![
        case(
            "expired",
            dated(&pki.issuing, -9, -1),
            Reason::CertificateExpired,
            "CN=pc-1.test",
            AlertDescription::CertificateExpired,
        ),
        case(
            "not yet valid",
            dated(&pki.issuing, 1, 9),
            Reason::CertificateNotYetValid,
            "CN=pc-1.test",
            AlertDescription::CertificateExpired,
        ),
        case(
            "of a stranger",
            dated(&pki.stranger, -1, 9),
            Reason::CertificateUnknownIssuer,
            "CN=pc-1.test",
            AlertDescription::UnknownCA,
        ),
        case(
            "without its intermediate",
            alone,
            Reason::CertificateUnknownIssuer,
            "CN=pc-1.test",
            AlertDescription::UnknownCA,
        ),
        case(
            "of wrong usage",
            wrong_usage,
            Reason::CertificateWrongUsage,
            "CN=pc-1.test",
            AlertDescription::UnsupportedCertificate,
        ),
    ]
}

fn under_bad_issuers(pki: &Pki) -> Vec<Case> {
    let old_validity = Validity {
        not_after: dated_end(),
        ..year()
    };
    let old = pki
        .root
        .intermediate("Old", key(KeyAlgorithm::EcdsaP256), old_validity)
        .unwrap();
    let under_old = old
        .issue(
            &Leaf::client("pc-1.test", year()),
            &key(KeyAlgorithm::EcdsaP256),
        )
        .unwrap();
    vec![
        case(
            "under an expired intermediate",
            under_old,
            Reason::CertificateExpired,
            "CN=Old",
            AlertDescription::CertificateExpired,
        ),
        case(
            "under a leaf",
            below(pki, &[IsCa::ExplicitNoCa]),
            Reason::CertificateInvalid,
            "CN=Below 0",
            AlertDescription::BadCertificate,
        ),
        case(
            "deeper than its CA allows",
            below(
                pki,
                &[
                    IsCa::Ca(BasicConstraints::Constrained(0)),
                    IsCa::Ca(BasicConstraints::Unconstrained),
                ],
            ),
            Reason::CertificateInvalid,
            "CN=Below 0",
            AlertDescription::BadCertificate,
        ),
    ]
}

fn dated_end() -> opencmg::pki::UnixTime {
    let day_ago = opencmg::pki::UnixTime::now().as_secs() - 60;
    opencmg::pki::UnixTime::since_unix_epoch(std::time::Duration::from_secs(day_ago))
}

/// A client below a line of issuers of the given kinds, the first of them signed by the trusted intermediate.
fn below(pki: &Pki, kinds: &[IsCa]) -> KeyPair {
    let signer = rcgen::KeyPair::from_pem(&pki.issuing.key_to_pem()).unwrap();
    let mut issuer = rcgen::Issuer::from_ca_cert_der(pki.issuing.certificate(), signer).unwrap();
    let mut chain = vec![pki.issuing.certificate().clone()];
    for (index, kind) in kinds.iter().enumerate() {
        let (der, params, key) = certificate(&issuer, &format!("Below {index}"), *kind);
        chain.insert(0, der);
        issuer = rcgen::Issuer::new(params, key);
    }
    let (leaf, _, key) = certificate(&issuer, "pc-1.test", IsCa::ExplicitNoCa);
    chain.insert(0, leaf);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    KeyPair { chain, key }
}

fn certificate(
    issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
    name: &str,
    is_ca: IsCa,
) -> (CertificateDer<'static>, CertificateParams, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = is_ca;
    let der = params.signed_by(&key, issuer).unwrap().der().clone();
    (der, params, key)
}

#[tokio::test]
async fn each_kind_of_certificate_gets_its_verdict_in_full_and_resumed_handshakes() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    for case in cases(&pki) {
        for version in VERSIONS {
            let offer = Offer::to("gw.test").version(version).with(&case.pair);
            for resumed in [false, true] {
                let said = server.connect(&offer).await.unwrap().said;
                let what = format!("{} {version:?} resumed {resumed}: {said:?}", case.what);
                assert_eq!(said.resumed, resumed, "{what}");
                match case.verdict {
                    Ok(()) => assert_eq!(said.identity.as_deref(), Some("pc-1.test"), "{what}"),
                    Err(expected) => {
                        let fault = said.fault.clone().expect(&what);
                        assert_eq!((fault.reason, fault.which.as_str()), expected, "{what}");
                        assert_eq!(said.identity, None, "{what}");
                    }
                }
            }
        }
    }
    let without = server.connect(&Offer::to("gw.test")).await.unwrap().said;
    assert!(without.identity.is_none() && without.fault.is_none());
    server.stop().await;
}

#[tokio::test]
async fn in_alert_mode_a_bad_certificate_fails_the_handshake_with_the_alert_that_fits() {
    let pki = Pki::new();
    let server = Server::start(
        &pki,
        vec![alerting(&pki, ClientCertificates::Request)],
        true,
    )
    .await;
    for case in cases(&pki) {
        for version in VERSIONS {
            let offer = Offer::to("gw.test").version(version).with(&case.pair);
            let what = format!("{} {version:?}", case.what);
            match case.verdict {
                Ok(()) => {
                    for _ in 0..2 {
                        let said = server.connect(&offer).await.unwrap().said;
                        assert_eq!(said.identity.as_deref(), Some("pc-1.test"), "{what}");
                        assert!(!said.resumed, "{what}");
                    }
                }
                Err((reason, which)) => {
                    let Err(error) = server.connect(&offer).await else {
                        panic!("{what} was accepted");
                    };
                    assert_eq!(alert_of(&error), Some(case.alert), "{what}: {error}");
                    let failure = server.failure().await;
                    assert_eq!(failure.reason, reason, "{what}");
                    assert!(failure.detail.contains(which), "{what}: {failure}");
                }
            }
        }
    }
    let without = server.connect(&Offer::to("gw.test")).await.unwrap().said;
    assert!(without.identity.is_none() && without.fault.is_none());
    server.stop().await;
}

#[tokio::test]
async fn in_alert_mode_a_required_certificate_that_is_missing_fails_the_handshake() {
    let pki = Pki::new();
    let server = Server::start(
        &pki,
        vec![alerting(&pki, ClientCertificates::Require)],
        true,
    )
    .await;
    let out = openssl(&server, &["-servername", "gw.test", "-tls1_3"]).await;
    assert!(out.contains("alert certificate required"), "{out}");
    for version in VERSIONS {
        let offer = Offer::to("gw.test").version(version);
        let error = server.connect(&offer).await.map(|_| ()).unwrap_err();
        assert!(alert_of(&error).is_some(), "{error}");
        assert_eq!(server.failure().await.reason, Reason::CertificateMissing);
        let said = server
            .connect(&offer.with(&pki.client("pc-1.test")))
            .await
            .unwrap()
            .said;
        assert_eq!(said.identity.as_deref(), Some("pc-1.test"));
    }
    server.stop().await;
}

#[tokio::test]
async fn an_intermediate_that_is_configured_need_not_be_sent() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    let mut pair = pki.client("pc-1.test");
    pair.chain.truncate(1);
    for version in VERSIONS {
        let offer = Offer::to("gw.test").version(version).with(&pair);
        server.trust.replace(pki.anchors(&[]));
        let fault = server.connect(&offer).await.unwrap().said.fault.unwrap();
        assert!(fault.detail.contains("\"CN=Issuing\""), "{fault}");
        server.trust.replace(pki.anchors(&[&pki.issuing]));
        let said = server.connect(&offer).await.unwrap().said;
        assert_eq!(
            (said.identity.as_deref(), said.resumed),
            (Some("pc-1.test"), true)
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_resumed_session_does_not_outlive_the_trust_it_began_under() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    let other = Authority::root("Other", key(KeyAlgorithm::EcdsaP256), year()).unwrap();
    for version in VERSIONS {
        server.trust.replace(pki.anchors(&[]));
        let offer = Offer::to("gw.test")
            .version(version)
            .with(&pki.client("pc-1.test"));
        assert!(
            server
                .connect(&offer)
                .await
                .unwrap()
                .said
                .identity
                .is_some()
        );
        server.trust.replace(anchors(&[&other], &[]));
        let said = server.connect(&offer).await.unwrap().said;
        assert!(said.resumed && said.identity.is_none());
        assert_eq!(said.fault.unwrap().reason, Reason::CertificateUnknownIssuer);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_must_hold_the_key_of_what_it_presents() {
    let pki = Pki::new();
    let server = Server::start(&pki, vec![name(&pki, &["gw.test"])], true).await;
    let dir = tempfile::tempdir().unwrap();
    let [own, other] = ["pc-1.test", "pc-2.test"].map(|name| pki.client(name));
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = file(
        "own.pem",
        opencmg::pki::issue::certificates_to_pem(&own.chain),
    );
    let key = file("own.key", opencmg::pki::issue::key_to_pem(&own.key));
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [
            "-servername",
            "gw.test",
            version,
            "-cert",
            &certificate,
            "-cert_chain",
            &certificate,
            "-key",
            &key,
        ];
        let out = openssl(&server, &arguments).await;
        assert!(out.contains("said"), "{out}");
    }
    // rustls signs with whatever key it is given.
    let stolen = KeyPair {
        chain: own.chain,
        key: other.key,
    };
    for version in VERSIONS {
        let config = thief(&stolen, version);
        let offer = Offer::to("gw.test").config(config);
        let error = server.connect(&offer).await.map(|_| ()).unwrap_err();
        assert_eq!(
            alert_of(&error),
            Some(AlertDescription::DecryptError),
            "{error}"
        );
        assert_eq!(server.failure().await.reason, Reason::HandshakeFailed);
    }
    server.stop().await;
}

/// A client that presents a chain and signs with a key that is not its own.
fn thief(
    pair: &KeyPair,
    version: &'static SupportedProtocolVersion,
) -> std::sync::Arc<rustls::ClientConfig> {
    #[derive(Debug)]
    struct Always(std::sync::Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Always {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
            Some(std::sync::Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&pair.key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(pair.chain.clone(), signer);
    Offer::to("gw.test")
        .version(version)
        .with_resolver(std::sync::Arc::new(Always(certified.into())))
}

#[tokio::test]
async fn a_refused_client_that_has_sent_its_request_already_sees_the_alert_and_no_reset() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pki = Pki::new();
    let server = Server::start(
        &pki,
        vec![alerting(&pki, ClientCertificates::Request)],
        true,
    )
    .await;
    let offer = Offer::to("gw.test")
        .version(&rustls::version::TLS13)
        .with(&dated(&pki.issuing, -9, -1));
    for _ in 0..20 {
        let mut stream = server
            .open(&offer)
            .await
            .expect("the client is done before the server judges");
        stream.write_all(&[b'x'; 32 << 10]).await.unwrap();
        stream.flush().await.unwrap();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(
            alert_of(&error),
            Some(AlertDescription::CertificateExpired),
            "{error}"
        );
        let (mut socket, _) = stream.into_inner();
        let end = socket.read(&mut [0; 1]).await;
        assert!(matches!(end, Ok(0)), "{end:?}");
        drop(socket);
        assert_eq!(server.failure().await.reason, Reason::CertificateExpired);
    }
    server.stop().await;
}
