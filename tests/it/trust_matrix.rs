//! The matrix: each kind of client certificate on both versions of TLS, in full and in resumed handshakes, with the
//! openssl and curl commands as clients, where refusals are answered and where they are alerts.

mod clients;
mod explained;
pub mod pki;
mod revocation;
mod rows;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use opencmg::pki::{Doubt, Limits};
use opencmg::tls::{NameSettings, OnBadClientCertificate};
use tokio::sync::Semaphore;

use crate::gateway::rig::{HOST, Plan, Rig, mutual, server};
use clients::{Asking, Outcome, Seen, Tls};
use rows::{Matrix, Row};

/// The name that judges client certificates within the handshake.
const ALERTING: &str = "alert.opencmg.test";

/// OpenSSL's configuration for curl, which takes certificates of any strength; what may be signed is put behind it.
const ANY_STRENGTH: &str = "openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
\
                            CipherString = DEFAULT@SECLEVEL=0
";

struct World {
    rig: Rig,
    matrix: Matrix,
    ca: PathBuf,
    /// Configurations of OpenSSL: for any client, and for one that can sign with RSA PKCS#1 v1.5 only.
    openssl: [PathBuf; 2],
}

async fn start(make: fn() -> Matrix) -> World {
    let matrix = tokio::task::spawn_blocking(make).await.unwrap();
    let mut plan = Plan::new();
    let definition = &mut plan.definition;
    definition.anchors.clone_from(&matrix.anchors);
    definition.intermediates.clone_from(&matrix.intermediates);
    definition.limits = Limits::MAX;
    definition.crls.clone_from(&matrix.crls);
    definition.revocation.check = !matrix.crls.is_empty();
    definition.revocation.stale = Doubt::Deny;
    let alerting = NameSettings {
        server_name: Some(ALERTING.to_owned()),
        on_bad_client_certificate: OnBadClientCertificate::Alert,
        ..definition.tls.names[0].clone()
    };
    definition.tls.names.push(alerting);
    let rig = plan.start().await;
    let openssl = [
        ("any", ""),
        ("pkcs1", "ClientSignatureAlgorithms = RSA+SHA256\n"),
    ];
    let openssl = openssl.map(|(name, signs)| {
        let path = matrix.folder.path(&format!("{name}.cnf"));
        std::fs::write(&path, format!("{ANY_STRENGTH}{signs}")).unwrap();
        path
    });
    let ca = rig.pki.file("root.pem");
    World {
        rig,
        matrix,
        ca,
        openssl,
    }
}

impl World {
    fn asking<'a>(
        &'a self,
        row: &'a Row,
        path: &'a str,
        host: &'static str,
        tls: Tls,
    ) -> Asking<'a> {
        Asking {
            gateway: self.rig.addresses.client[0],
            host,
            path,
            tls,
            shown: &row.shown,
            ca: &self.ca,
            configuration: &self.openssl[usize::from(row.pkcs1_only)],
        }
    }

    /// All that a row's client sees at a name: openssl in a full and in a resumed handshake, then curl likewise.
    fn ask(&self, row: &Row, host: &'static str, tls: Tls) -> [(&'static str, Vec<Seen>); 2] {
        let path = if row.at_backend {
            server("ClientWebService/x")
        } else {
            mutual("SMS_MP/x")
        };
        let asking = self.asking(row, &path, host, tls);
        let session = self
            .matrix
            .folder
            .path(&format!("{} {host} {tls:?}.session", row.what));
        let mut openssl = vec![asking.openssl(("-sess_out", &session))];
        // Where no session is kept, the second handshake is like the first.
        let way = if session.exists() {
            "-sess_in"
        } else {
            "-sess_out"
        };
        openssl.push(asking.openssl((way, &session)));
        [("openssl", openssl), ("curl", asking.curl())]
    }
}

/// Asserts what a client saw; a session that is kept is taken up where `resumes`.
fn check(what: &str, expected: Outcome, resumes: bool, seen: &[Seen]) {
    let of_alert = matches!(expected, Outcome::Alert(..));
    assert_eq!(seen.len(), 2, "{what}");
    for (index, seen) in seen.iter().enumerate() {
        assert_eq!(seen.said, expected.said(), "{what}, connection {index}");
        let resumed = resumes && index > 0 && !of_alert;
        assert_eq!(seen.resumed, resumed, "{what}, connection {index}");
    }
}

/// Asks with every row's client on both versions at a name, several at once, and asserts what they saw.
async fn ask_all(
    world: &Arc<World>,
    host: &'static str,
    resumes: bool,
    expected: fn(&Row) -> [Outcome; 2],
) {
    let places = Arc::new(Semaphore::new(4));
    let mut running = Vec::new();
    for index in 0..world.matrix.rows.len() {
        for (version, tls) in [Tls::V12, Tls::V13].into_iter().enumerate() {
            let (world, places) = (Arc::clone(world), Arc::clone(&places));
            running.push(async move {
                let _place = places.acquire_owned().await.unwrap();
                let asked = tokio::task::spawn_blocking(move || {
                    let row = &world.matrix.rows[index];
                    for (client, seen) in world.ask(row, host, tls) {
                        let what = format!("{} with {client} on {tls:?}", row.what);
                        check(&what, expected(row)[version], resumes, &seen);
                    }
                });
                asked.await
            });
        }
    }
    let asked = futures_util::future::join_all(running).await;
    assert!(asked.len() >= 16, "only {} combinations", asked.len());
    let failed = asked.into_iter().filter(Result::is_err).count();
    assert_eq!(failed, 0, "combinations that failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_client_certificate_gets_its_answer_in_full_and_resumed_handshakes() {
    for make in [Matrix::of_paths, Matrix::of_revocation] {
        let world = Arc::new(start(make).await);
        ask_all(&world, HOST, true, |row| row.answered).await;
        Arc::into_inner(world).unwrap().rig.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_refusals_are_alerts_each_kind_of_client_certificate_gets_the_alert_that_fits() {
    for make in [Matrix::of_paths, Matrix::of_revocation] {
        let world = Arc::new(start(make).await);
        ask_all(&world, ALERTING, false, |row| row.alerted).await;
        // Two clients made two connections each.
        let mut reasons = BTreeMap::new();
        for outcome in world.matrix.rows.iter().flat_map(|row| row.alerted) {
            if let Outcome::Alert(_, reason) = outcome {
                *reasons.entry(reason).or_insert(0.0) += 4.0;
            }
        }
        assert!(reasons.len() >= 3, "{reasons:?}");
        for (reason, count) in reasons {
            let label = format!("\"{reason}\"");
            let name = "opencmg_handshake_failures_total";
            world.rig.counts(name, &label, count).await;
        }
        Arc::into_inner(world).unwrap().rig.finish().await;
    }
}
