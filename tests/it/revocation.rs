//! Revocation from files: who is revoked while connected, and CRLs that are not what they should be.

use crate::served::is_served;
use std::fs;
use std::time::Duration;

use http::StatusCode;
use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::pki::issue::{Leaf, RevocationList, Validity, crl_to_pem};
use opencmg::pki::{Crl, Serial, UnixTime};

use crate::client::get;
use crate::world::{Pki, Plan, World, eventually, mp_list, now, within};

/// What a revoked client may still have.
const IN_FORCE: Duration = Duration::from_secs(5);

async fn start() -> (World, BuiltIn) {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    (world, backend)
}

#[tokio::test]
async fn a_client_revoked_while_connected_loses_its_connection_and_its_session() {
    let (world, backend) = start().await;
    let (revoked, other) = (world.client("pc-1"), world.client("pc-2"));
    let mut open = [
        revoked.connect().await.unwrap(),
        other.connect().await.unwrap(),
    ];
    for connection in &mut open {
        assert!(is_served(connection).await);
    }
    let pki = &world.pki;
    pki.revoke(&pki.intermediate, "intermediate", 2, &["pc-1"]);
    let [of_revoked, of_other] = &mut open;
    let closed = eventually("the revoked client is closed", async || {
        !is_served(of_revoked).await
    });
    within(IN_FORCE, "the CRL", closed).await;
    assert!(is_served(of_other).await, "another client was harmed");
    // The same TLS configuration holds the session of the first connection and resumes it.
    let resumed = world.gateways[0]
        .metric("opencmg_handshakes_total", "resumed")
        .await;
    let refused = revoked.get(&mp_list()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.phrase, "CMGService_ClientCertificateRevoked");
    let gateway = &world.gateways[0];
    assert!(gateway.metric("opencmg_handshakes_total", "resumed").await > resumed);
    let closed = "opencmg_trust_closed_connections_total";
    assert_eq!(gateway.metric(closed, "certificate-revoked").await, 1.0);
    gateway.says("certificate-revoked").await;
    gateway
        .says("is on the CRL number 02 of \\\"CN=OpenCMG Test Intermediate\\\"")
        .await;

    // Being taken off the list again is in force as soon.
    pki.revoke(&pki.intermediate, "intermediate", 3, &[]);
    let back = eventually("the client is served again", async || {
        revoked.get(&mp_list()).await.status == StatusCode::OK
    });
    within(IN_FORCE, "the CRL", back).await;
    world.finish().await;
    backend.stop().await;
}

/// A list that is in force from so many seconds on.
fn list_from(pki: &Pki, number: u64, seconds: u64, revoked: &[&str]) -> Vec<u8> {
    let from = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + seconds));
    let list = RevocationList {
        revoked: revoked.iter().map(|name| pki.serial(name)).collect(),
        ..RevocationList::empty(
            number,
            Validity {
                not_before: from(seconds),
                not_after: from(86_400),
            },
        )
    };
    pki.intermediate.revoke(&list).unwrap()
}

#[tokio::test]
async fn a_crl_from_the_future_comes_in_force_in_its_time_and_the_one_before_stays_until_then() {
    let (world, backend) = start().await;
    let (gateway, pki) = (&world.gateways[0], &world.pki);
    let client = world.client("pc-1");
    let mut open = client.connect().await.unwrap();
    assert!(is_served(&mut open).await);
    // A clock may go five minutes before the gateway's: this is ten seconds more.
    pki.write("intermediate.crl", list_from(pki, 9, 310, &["pc-1"]));
    gateway.says("is from the future").await;
    gateway.says("stays in force until then").await;
    let status: serde_json::Value = serde_json::from_str(&gateway.status().await).unwrap();
    let pending = status["trust"]["revocation"]["pending"][0].as_str();
    assert!(
        pending.is_some_and(|title| title.contains("number 09")),
        "{status}"
    );
    assert!(is_served(&mut open).await);
    assert_eq!(client.get(&mp_list()).await.status, StatusCode::OK);
    eventually("its time comes", async || !is_served(&mut open).await).await;
    let refused = client.get(&mp_list()).await;
    assert_eq!(refused.phrase, "CMGService_ClientCertificateRevoked");
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn a_crl_that_is_none_changes_nothing_and_is_named() {
    let (world, backend) = start().await;
    let gateway = &world.gateways[0];
    let mut open = world.client("pc-1").connect().await.unwrap();
    let good = fs::read(world.pki.file("intermediate.crl")).unwrap();
    let forged = {
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        forged
    };
    for (bytes, said) in [
        (
            b"<html>Not found</html>".to_vec(),
            "is a web page, not a CRL",
        ),
        (good[..good.len() - 9].to_vec(), "is cut off"),
        (Vec::new(), "is empty"),
        (forged, "was not signed with the key of"),
    ] {
        let before = gateway.metric("opencmg_reloads_total", "refused").await;
        world.pki.write("intermediate.crl", bytes);
        eventually(&format!("{said} is refused"), async || {
            gateway.metric("opencmg_reloads_total", "refused").await > before
        })
        .await;
        gateway.says(said).await;
        assert!(is_served(&mut open).await, "{said}");
    }
    let before = gateway.metric("opencmg_reloads_total", "refused").await;
    let file = fs::File::create(world.pki.file("large.new")).unwrap();
    file.set_len(2 << 30).unwrap();
    fs::rename(
        world.pki.file("large.new"),
        world.pki.file("intermediate.crl"),
    )
    .unwrap();
    eventually("2 GiB are refused", async || {
        gateway.metric("opencmg_reloads_total", "refused").await > before
    })
    .await;
    gateway.says("it is larger than 128 MiB").await;
    assert!(is_served(&mut open).await);
    assert_eq!(
        world.client("pc-1").get(&mp_list()).await.status,
        StatusCode::OK
    );

    // As PEM it is taken again, and one of a CA that is not trusted is passed over.
    let stranger = world
        .pki
        .stranger
        .revoke(&RevocationList::empty(1, Validity::days(now(), 1)));
    let both = [crl_to_pem(&stranger.unwrap()), crl_to_pem(&good)].concat();
    world.pki.write("intermediate.crl", both);
    gateway.says("is a CRL of \"CN=Stranger Root\"").await;
    assert!(is_served(&mut open).await);
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn without_a_crl_a_client_is_refused_unless_the_policy_says_otherwise() {
    let (world, backend) = start().await;
    let file = world.dir.path().join("service/service.toml");
    let text = fs::read_to_string(&file).unwrap();
    let crls = "crls = [\"../pki/root.crl\", \"../pki/intermediate.crl\"]";
    let client = world.client("pc-1");
    let answers = async |wanted: &str| {
        eventually(wanted, async || {
            // A client that is not trusted while it asks loses its connection.
            let Ok(answer) = client.send(get(&mp_list())).await else {
                return false;
            };
            match answer.status {
                StatusCode::OK => wanted == "served",
                _ => answer.phrase == wanted,
            }
        })
        .await;
    };
    answers("served").await;
    for (lines, phrase) in [
        (
            "crls = [\"../pki/root.crl\"]",
            "CMGService_ClientCertificateRevocationUnknown",
        ),
        ("unknown = \"allow\"", "served"),
        (
            "crls = [\"../pki/intermediate.crl\"]",
            "CMGService_ClientCertificateRevocationUnknown",
        ),
        (
            "crls = [\"../pki/intermediate.crl\"]\ndepth = \"leaf\"",
            "served",
        ),
        ("", "CMGService_ClientCertificateRevocationUnknown"),
        ("check = false", "served"),
        (
            "discover = false",
            "CMGService_ClientCertificateRevocationUnknown",
        ),
    ] {
        fs::write(&file, text.replace(crls, lines)).unwrap();
        answers(phrase).await;
    }
    world.gateways[0].says("no CRL is checked").await;
    world.gateways[0]
        .says("every client is refused, since no CRL can be had")
        .await;
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn an_intermediate_that_is_revoked_takes_its_clients_along() {
    let (world, backend) = start().await;
    let mut open = world.client("pc-1").connect().await.unwrap();
    assert!(is_served(&mut open).await);
    let pki = &world.pki;
    pki.revoke(&pki.root, "root", 2, &["intermediate"]);
    let closed = eventually("its client is closed", async || !is_served(&mut open).await);
    within(IN_FORCE, "the CRL", closed).await;
    let refused = world.client("pc-2").get(&mp_list()).await;
    assert_eq!(refused.phrase, "CMGService_ClientCertificateRevoked");
    world.gateways[0]
        .says("\"CN=OpenCMG Test Intermediate\" was revoked")
        .await;
    // A chain that ends in a client of the root alone is not concerned.
    pki.issue(
        &pki.root,
        "pc-9",
        &Leaf::client("pc-9", Validity::days(now(), 9)),
    );
    assert_eq!(
        world.client("pc-9").get(&mp_list()).await.status,
        StatusCode::OK
    );
    world.finish().await;
    backend.stop().await;
}

/// Runs openssl in a folder.
fn openssl(folder: &std::path::Path, arguments: &str) {
    let output = std::process::Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "openssl {arguments}: {said}");
}

#[test]
fn lists_made_by_openssl_are_read_whatever_signs_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let configuration = "[ca]\ndefault_ca = a\n[a]\ndatabase = index.txt\ncrlnumber = number\n\
        [delta]\n2.5.29.27 = critical, ASN1:INTEGER:1\n\
        [indirect]\nissuingDistributionPoint = critical, @idp\n[idp]\nindirectCRL = TRUE\n\
        [leaves]\nissuingDistributionPoint = critical, @only\n[only]\nonlyuser = TRUE\n\
        [reasons]\nissuingDistributionPoint = critical, @some\n[some]\nonlysomereasons = keyCompromise\n";
    fs::write(dir.join("ca.cnf"), configuration).unwrap();
    let entry = "R\t400101000000Z\t250101000000Z,keyCompromise\t0F00\tunknown\t/CN=gone\n";
    fs::write(dir.join("index.txt"), entry).unwrap();
    let read = |key: &str, options: &str| {
        fs::write(dir.join("number"), "07\n").unwrap();
        openssl(
            dir,
            &format!(
                "req -x509 -newkey {key} -nodes -keyout ca.key -out ca.pem -subj /CN=OpenSSL -days 9"
            ),
        );
        openssl(
            dir,
            &format!(
                "ca -config ca.cnf -gencrl -keyfile ca.key -cert ca.pem -crldays 5 -out a.crl {options}"
            ),
        );
        let certificates = opencmg::pki::read_certificates(&fs::read(dir.join("ca.pem")).unwrap());
        let file = fs::read(dir.join("a.crl")).unwrap();
        let lists = opencmg::pki::read_crl_file(&file).unwrap();
        Crl::read(&lists[0], &certificates.unwrap())
    };
    let (rsa, p256) = ("rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256");
    let pss = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -md";
    for (key, options) in [
        (rsa, "-md sha256".to_owned()),
        (rsa, "-md sha512".to_owned()),
        (rsa, format!("{pss} sha256")),
        (rsa, format!("{pss} sha384")),
        (p256, "-md sha256".to_owned()),
        (
            "ec -pkeyopt ec_paramgen_curve:P-384",
            "-md sha384".to_owned(),
        ),
        (p256, "-md sha256 -crlexts leaves".to_owned()),
    ] {
        let crl = read(key, &options).unwrap_or_else(|error| panic!("{key} {options}: {error}"));
        assert_eq!(crl.entries(), 1, "{key} {options}");
        assert!(crl.revokes(&Serial::new(&[0x0f, 0]).unwrap()));
        assert_eq!(crl.issuer(), "CN=OpenSSL");
    }
    let weak = read(rsa, "-md sha1").unwrap_err().to_string();
    assert!(weak.contains("RSA or ECDSA with SHA-256"), "{weak}");
    for (extensions, said) in [
        ("delta", "is a delta CRL"),
        ("indirect", "is an indirect CRL"),
        ("reasons", "is a partial CRL"),
    ] {
        let error = read(p256, &format!("-md sha256 -crlexts {extensions}")).unwrap_err();
        assert!(
            error.is_skipped() && error.to_string().contains(said),
            "{error}"
        );
    }
}
