//! CA name hints: all, none or a list, and a client that goes by them.

use std::sync::Arc;

use opencmg::pki::{Certificate, Hints, KeyPair};
use opencmg::reason::Reason;
use opencmg::tls::NameSettings;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::name;
use super::server::{Offer, Pki, Server, openssl};

/// A client with several certificates that sends one only if its chain leads to a name that the server tells, or the server
/// tells none: as SChannel does.
#[derive(Debug)]
struct ByHint(Vec<Arc<CertifiedKey>>);

impl ByHint {
    fn new(pairs: &[KeyPair]) -> Arc<Self> {
        let certified = |pair: &KeyPair| {
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&pair.key).unwrap();
            Arc::new(CertifiedKey::new(pair.chain.clone(), key))
        };
        Arc::new(Self(pairs.iter().map(certified).collect()))
    }
}

impl ResolvesClientCert for ByHint {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let is_named = |key: &&Arc<CertifiedKey>| {
            let facts = key.cert.iter().map(|der| Certificate::parse(der).unwrap());
            hints.is_empty()
                || facts
                    .into_iter()
                    .any(|facts| hints.contains(&&facts.issuer_der[..]))
        };
        self.0.iter().find(is_named).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_client_that_goes_by_hints_sends_what_they_name_and_nothing_else() {
    let pki = Pki::new();
    let anchors = pki.anchors(&[&pki.issuing]);
    let hinting = |server_name: &str, hints: &Hints| NameSettings {
        hints: anchors.hints(hints).unwrap(),
        ..name(&pki, &[server_name])
    };
    let root = Hints::List(vec!["CN=Root".to_owned()]);
    let names = vec![
        hinting("all.test", &Hints::All),
        hinting("none.test", &Hints::None),
        hinting("list.test", &root),
    ];
    let server = Server::start(&pki, names, true).await;
    let stranger = super::dated(&pki.stranger, -1, 9);
    let both = ByHint::new(&[stranger.clone(), pki.client("pc-1.test")]);
    let alone = ByHint::new(&[stranger]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let ask = async |host: &str, client: &Arc<ByHint>| {
            let offer = Offer::to(host).version(version);
            let config = offer.with_resolver(Arc::clone(client) as _);
            server.connect(&offer.config(config)).await.unwrap().said
        };
        for host in ["all.test", "list.test"] {
            let said = ask(host, &both).await;
            assert_eq!(said.identity.as_deref(), Some("pc-1.test"), "{host}");
            let said = ask(host, &alone).await;
            assert!(
                said.identity.is_none() && said.fault.is_none(),
                "{host}: it sends none: {said:?}"
            );
        }
        // Told nothing, it sends the first that it has.
        let said = ask("none.test", &both).await;
        assert_eq!(said.fault.unwrap().reason, Reason::CertificateUnknownIssuer);
    }
    for (host, listed) in [
        (
            "all.test",
            "Acceptable client certificate CA names\nCN = Root\nCN = Issuing\n",
        ),
        (
            "list.test",
            "Acceptable client certificate CA names\nCN = Root\nRequested Signature",
        ),
        ("none.test", "No client certificate CA names sent"),
    ] {
        let out = openssl(&server, &["-servername", host, "-tls1_3"]).await;
        assert!(out.contains(listed), "{host}: {out}");
    }
    server.stop().await;
}
