use super::*;
use crate::pki::{Anchors, Limits, Revocation, Usage, load_pem, load_pfx};

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

fn key() -> Key {
    Key::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn root(name: &str) -> Authority {
    Authority::root(name, key(), Validity::days(now(), 100)).unwrap()
}

#[test]
fn an_authority_is_taken_from_its_files_and_signs_as_before() {
    let root = root("Root");
    let issuing = root
        .intermediate("Issuing", key(), Validity::days(now(), 50))
        .unwrap();
    let files = (certificates_to_pem(&issuing.chain), issuing.key_to_pem());
    let loaded = Authority::load(files.0.as_bytes(), files.1.as_bytes()).unwrap();
    assert_eq!(loaded.certificate(), issuing.certificate());
    let anchors = Anchors::build(&[root.certificate().clone()], &[], Limits::default()).unwrap();
    for algorithm in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Rsa2048,
    ] {
        let leaf = Leaf::client("pc-1.test", Validity::days(now(), 5));
        let pair = loaded
            .issue(&leaf, &Key::generate(algorithm).unwrap())
            .unwrap();
        assert_eq!(pair.chain.len(), 2);
        assert!(pair.key_matches());
        let off = Revocation::off();
        anchors
            .verify(&pair.chain, Usage::Client, now(), &off)
            .unwrap();
    }
    let leaf = Leaf::client("pc-1.test", Validity::days(now(), 5));
    let pair = root.issue(&leaf, &key()).unwrap();
    let error = Authority::load(
        certificates_to_pem(&pair.chain).as_bytes(),
        key_to_pem(&pair.key).as_bytes(),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "the certificate \"CN=pc-1.test\" is not a CA certificate"
    );
}

#[test]
fn a_certificate_is_renewed_with_its_own_key_and_another_serial_number() {
    let root = root("Root");
    let first = root
        .issue(
            &Leaf::server(&["gw.test"], Validity::days(now(), 1)),
            &key(),
        )
        .unwrap();
    let own = Key::of(&first.key).unwrap();
    let again = root
        .issue(&Leaf::server(&["gw.test"], Validity::days(now(), 9)), &own)
        .unwrap();
    let (first, again) = (first.leaf().unwrap(), again.leaf().unwrap());
    assert_eq!(first.public_key, again.public_key);
    assert_ne!(first.serial, again.serial);
    assert_eq!(again.not_after.as_secs(), now().as_secs() + 9 * 86_400);
    assert_eq!(again.not_before.as_secs(), now().as_secs() - 3600);
}

#[test]
fn a_request_is_signed_for_its_first_dns_name_and_nothing_else_it_asks_for() {
    let root = root("Connection Points");
    let own = key();
    let pem = request("cp-1.corp.test", &own).unwrap();
    let read = Request::read(pem.as_bytes()).unwrap();
    assert_eq!(read.name(), "cp-1.corp.test");
    let chain = root.sign_request(&read, Validity::days(now(), 10)).unwrap();
    let pair = load_pem(
        certificates_to_pem(&chain).as_bytes(),
        own.to_pem().as_bytes(),
    )
    .unwrap();
    let leaf = pair.leaf().unwrap();
    assert_eq!(leaf.dns_names, ["cp-1.corp.test"]);
    assert!(leaf.client_auth && !leaf.server_auth && !leaf.is_ca);

    let mut params =
        CertificateParams::new(vec!["CP-2.test".to_owned(), "gw.test".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let greedy = params.serialize_request(&own.0).unwrap();
    let read = Request::read(greedy.der()).unwrap();
    let chain = root.sign_request(&read, Validity::days(now(), 10)).unwrap();
    let leaf = Certificate::parse(&chain[0]).unwrap();
    assert_eq!(leaf.dns_names, ["cp-2.test"]);
    assert!(leaf.client_auth && !leaf.server_auth && !leaf.is_ca);
}

#[test]
fn a_request_without_a_usable_name_or_a_true_signature_is_refused() {
    let own = key();
    let nameless = CertificateParams::default()
        .serialize_request(&own.0)
        .unwrap();
    let error = Request::read(nameless.der()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the certificate request holds no DNS name (one in subjectAltName is needed)"
    );
    let wild = CertificateParams::new(vec!["*.test".to_owned()]).unwrap();
    let error = Request::read(wild.serialize_request(&own.0).unwrap().der())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "\"*.test\" cannot name a connection point (a DNS name without wildcard is allowed)"
    );
    assert!(request("not a name", &own).is_err());

    let mut forged = CertificateParams::new(vec!["cp-1.test".to_owned()])
        .unwrap()
        .serialize_request(&own.0)
        .unwrap()
        .der()
        .to_vec();
    let at = forged
        .windows(9)
        .position(|part| part == b"cp-1.test")
        .unwrap();
    forged[at + 3] = b'2';
    let error = Request::read(&forged).unwrap_err().to_string();
    assert!(
        error.starts_with("the certificate request cannot be read: "),
        "{error}"
    );
    assert!(Request::read(b"nonsense").is_err());
}

#[test]
fn a_pfx_file_holds_exactly_one_key() {
    let root = root("Root");
    let make = |name| {
        root.issue(&Leaf::server(&[name], Validity::days(now(), 1)), &key())
            .unwrap()
    };
    let (one, two) = (make("one.test"), make("two.test"));
    let pfx = to_pfx(&one, "server", "secret").unwrap();
    assert_eq!(load_pfx(&pfx, "secret").unwrap(), one);
    let mut store = p12_keystore::KeyStore::new();
    for (name, pair) in [("one", &one), ("two", &two)] {
        let key = p12_keystore::PrivateKey::from_der(pair.key.secret_der()).unwrap();
        let certificate = p12_keystore::Certificate::from_der(&pair.chain[0]).unwrap();
        let chain = p12_keystore::PrivateKeyChain::new(name, key, [certificate]);
        store.add_entry(name, p12_keystore::KeyStoreEntry::PrivateKeyChain(chain));
    }
    let pfx = store.writer("secret").write().unwrap();
    let error = load_pfx(&pfx, "secret").unwrap_err().to_string();
    assert_eq!(
        error,
        "2 private keys are in the file (exactly one is allowed)"
    );
}

#[test]
fn a_ca_whose_name_cannot_be_repeated_is_told() {
    // CN=CA,DC=contoso,DC=com: what an Active Directory CA is called.
    let name = [
        ("2.5.4.3", "CA"),
        ("0.9.2342.19200300.100.1.25", "contoso"),
        ("0.9.2342.19200300.100.1.25", "com"),
    ];
    let script = name.map(|(oid, value)| format!("/{oid}={value}")).concat();
    let dir = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &script,
        ])
        .args(["-keyout", "key.pem", "-out", "ca.pem"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let read = |name| std::fs::read(dir.path().join(name)).unwrap();
    let ca = Authority::load(&read("ca.pem"), &read("key.pem")).unwrap();
    let leaf = Leaf::client("cp-1.test", Validity::days(now(), 1));
    let error = ca.issue(&leaf, &key()).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "the name of the CA \"DC=com,DC=contoso,CN=CA\" cannot be repeated exactly"
        ),
        "{error}"
    );
}
