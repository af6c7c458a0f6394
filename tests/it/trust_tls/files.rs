//! Certificates and keys as other tools write them: PFX and PEM files made by the openssl command.

use std::path::Path;

use opencmg::pki::issue::{KeyAlgorithm, certificates_to_pem, key_to_pem, to_pfx};
use opencmg::pki::{KeyPair, PkiError, load_pem, load_pfx, read_certificates};

use super::server::Pki;
use crate::trust_matrix::pki::run;

/// A folder with `key.pem`, `leaf.pem`, `chain.pem` (intermediate and root) of a server certificate.
struct Folder {
    dir: tempfile::TempDir,
    pair: KeyPair,
}

impl Folder {
    fn new(algorithm: KeyAlgorithm) -> Self {
        let pki = Pki::new();
        let pair = pki.server(&["gw.test", "*.gw.test"], algorithm);
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        write("key.pem", key_to_pem(&pair.key));
        write("leaf.pem", certificates_to_pem(&pair.chain[..1]));
        let above = [pki.root.certificate().clone(), pair.chain[1].clone()];
        write("chain.pem", certificates_to_pem(&above));
        Self { dir, pair }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    fn openssl(&self, arguments: &str) {
        run(self.path(), arguments);
    }

    fn pfx(&self, options: &str) -> Vec<u8> {
        let output = "-inkey key.pem -in leaf.pem -certfile chain.pem -out server.pfx -passout pass:pässword";
        self.openssl(&format!("pkcs12 -export {output}{options}"));
        self.read("server.pfx")
    }
}

#[test]
fn pfx_files_open_with_legacy_and_modern_ciphers() {
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
        let folder = Folder::new(algorithm);
        let kinds = [
            "",                  // AES-256 and SHA-256, as since OpenSSL 3
            " -legacy",          // RC2-40 and 3DES, as Windows and OpenSSL 1
            " -legacy -descert", // 3DES for both
            " -certpbe AES-256-CBC -keypbe AES-256-CBC -macalg sha256 -iter 2000", // as Windows Server 2019 and later
            " -certpbe AES-128-CBC -keypbe AES-128-CBC -macalg sha1",
            " -certpbe NONE -keypbe AES-256-CBC",
        ];
        for options in kinds {
            let pfx = folder.pfx(options);
            let pair =
                load_pfx(&pfx, "pässword").unwrap_or_else(|error| panic!("{options}: {error}"));
            assert_eq!(
                pair.chain, folder.pair.chain,
                "{options}: leaf first, and no root"
            );
            assert!(pair.key_matches(), "{options}");
            for wrong in ["password", ""] {
                let error = load_pfx(&pfx, wrong).unwrap_err();
                assert!(
                    matches!(error, PkiError::WrongPassword),
                    "{options}: {error}"
                );
                assert_eq!(error.to_string(), "wrong password");
            }
        }
    }
}

/// The parts of a DER value: where its content begins, and the length of the whole.
fn measure(der: &[u8]) -> (usize, usize) {
    match usize::from(der[1]) {
        short @ 0..0x80 => (2, 2 + short),
        long => {
            let count = long - 0x80;
            let length = der[2..2 + count].iter();
            let length = length.fold(0, |length, byte| length << 8 | usize::from(*byte));
            (2 + count, 2 + count + length)
        }
    }
}

/// Puts the second of the two parts of a PFX without MAC before the first: openssl writes certificates before keys,
/// Windows may do it the other way round.
fn keys_first(pfx: &mut [u8]) {
    // SEQUENCE, behind its version SEQUENCE, behind its type [0], OCTET STRING, SEQUENCE of the parts.
    let mut at = measure(pfx).0;
    at += measure(&pfx[at..]).1;
    at += measure(&pfx[at..]).0;
    at += measure(&pfx[at..]).1;
    for _ in 0..3 {
        at += measure(&pfx[at..]).0;
    }
    let first = measure(&pfx[at..]).1;
    let both = first + measure(&pfx[at + first..]).1;
    assert_eq!(at + both, pfx.len(), "two parts");
    pfx[at..].rotate_left(first);
}

/// What Windows writes besides: a friendly name (as BMPString), the local key id, the name of the provider that held
/// the key (1.3.6.1.4.1.311.17.1) and the mark of the machine's store (1.3.6.1.4.1.311.17.2).
#[test]
fn pfx_files_with_the_attributes_and_ciphers_of_windows_open() {
    let attributes =
        " -name te-{5F0E6B8A-ünïcode} -caname Contoso-CA -CSP Microsoft-RSA-SChannel-Provider -LMK";
    for algorithm in [KeyAlgorithm::Rsa2048, KeyAlgorithm::EcdsaP256] {
        let folder = Folder::new(algorithm);
        for (ciphers, mac) in [
            // "TripleDES-SHA1" of the export wizard, and of every Windows before Server 2019.
            (
                " -legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES",
                " -macalg sha1 -iter 2000",
            ),
            // The same with 3DES for both.
            (
                " -legacy -certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES",
                " -macalg sha1 -iter 2000",
            ),
            // "AES256-SHA256" of the export wizard.
            (
                " -certpbe AES-256-CBC -keypbe AES-256-CBC",
                " -macalg sha256 -iter 2000",
            ),
        ] {
            let pfx = folder.pfx(&format!("{attributes}{ciphers}{mac}"));
            let what = format!("{algorithm:?}{ciphers}");
            // The object identifiers of the attributes are inside what is encrypted, of the certificates' part; the
            // shrouded key's stand in the open.
            for arc in [1_u8, 2] {
                let id = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x11, arc];
                assert!(pfx.windows(id.len()).any(|part| part == id), "{what}");
            }
            let pair = load_pfx(&pfx, "pässword").unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(pair.chain, folder.pair.chain, "{what}");
            assert!(pair.key_matches(), "{what}");

            let mut pfx = folder.pfx(&format!("{attributes}{ciphers} -nomac"));
            keys_first(&mut pfx);
            let pair = load_pfx(&pfx, "pässword").unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(pair.chain, folder.pair.chain, "{what}, keys first");
            assert!(pair.key_matches(), "{what}, keys first");
        }
    }
}

#[test]
fn a_pfx_file_of_java_opens_and_one_with_two_keys_is_told() {
    // Made by keytool of Java 17: -genkeypair -keyalg EC -groupname secp256r1 -storetype PKCS12.
    let pair = load_pfx(include_bytes!("../keytool/one-key.p12"), "changeit").unwrap();
    assert_eq!(pair.leaf().unwrap().dns_names, ["gw.test"]);
    assert!(pair.key_matches());
    let error = load_pfx(include_bytes!("../keytool/two-keys.p12"), "changeit").unwrap_err();
    assert!(matches!(error, PkiError::SeveralKeys(2)), "{error}");
    assert_eq!(
        error.to_string(),
        "2 private keys are in the file (exactly one is allowed)"
    );
    let error = load_pfx(include_bytes!("../keytool/one-key.p12"), "other").unwrap_err();
    assert!(matches!(error, PkiError::WrongPassword), "{error}");
}

#[test]
fn a_pfx_file_without_a_key_or_cut_short_is_told() {
    let folder = Folder::new(KeyAlgorithm::EcdsaP256);
    let error = load_pfx(&folder.pfx(" -nokeys"), "pässword").unwrap_err();
    assert_eq!(error.to_string(), "no private key is in the file");
    let whole = folder.pfx("");
    for part in [&whole[..whole.len() / 2], b"not a PFX file", b""] {
        let error = load_pfx(part, "pässword").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the PFX file cannot be read: "),
            "{error}"
        );
    }
}

#[test]
fn a_pfx_file_that_we_make_opens_with_openssl() {
    let folder = Folder::new(KeyAlgorithm::EcdsaP256);
    let pfx = to_pfx(&folder.pair, "server", "pässword").unwrap();
    std::fs::write(folder.path().join("ours.pfx"), pfx).unwrap();
    folder.openssl("pkcs12 -in ours.pfx -passin pass:pässword -nodes -out ours.pem");
    let text = folder.read("ours.pem");
    assert_eq!(load_pem(&text, &text).unwrap(), folder.pair);
}

#[test]
fn pem_keys_of_every_form_are_read_and_encrypted_ones_told() {
    for (algorithm, old_form) in [
        (KeyAlgorithm::EcdsaP256, "ec -in key.pem -out old.pem"),
        (KeyAlgorithm::EcdsaP384, "ec -in key.pem -out old.pem"),
        (
            KeyAlgorithm::Rsa2048,
            "rsa -in key.pem -traditional -out old.pem",
        ),
    ] {
        let folder = Folder::new(algorithm);
        folder.openssl(old_form);
        // The chain in any order, with the root among it.
        let certificates = [folder.read("chain.pem"), folder.read("leaf.pem")].concat();
        for key in ["key.pem", "old.pem"] {
            let pair = load_pem(&certificates, &folder.read(key)).unwrap();
            assert_eq!(pair.chain, folder.pair.chain);
            assert!(pair.key_matches());
        }
        folder.openssl("pkcs8 -topk8 -in key.pem -out encrypted.pem -passout pass:secret");
        let error = load_pem(&certificates, &folder.read("encrypted.pem")).unwrap_err();
        assert!(matches!(error, PkiError::EncryptedKey), "{error}");
    }
    let folder = Folder::new(KeyAlgorithm::EcdsaP256);
    folder.openssl("ecparam -name prime256v1 -genkey -out params.pem");
    let certificates = folder.read("leaf.pem");
    let error = load_pem(&certificates, &folder.read("params.pem")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the private key does not belong to the certificate \"CN=gw.test\""
    );
    let both = [folder.read("key.pem"), folder.read("params.pem")].concat();
    let error = load_pem(&certificates, &both).unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 private keys are in the file (exactly one is allowed)"
    );
    let error = load_pem(&certificates, &certificates).unwrap_err();
    assert_eq!(error.to_string(), "no private key is in the file");
    let error = load_pem(&folder.read("key.pem"), &folder.read("key.pem")).unwrap_err();
    assert_eq!(error.to_string(), "no certificate is in the file");
}

#[test]
fn certificates_are_read_as_pem_and_as_der() {
    let folder = Folder::new(KeyAlgorithm::EcdsaP256);
    folder.openssl("x509 -in leaf.pem -outform der -out leaf.der");
    assert_eq!(
        read_certificates(&folder.read("leaf.der")).unwrap(),
        folder.pair.chain[..1]
    );
    assert_eq!(
        read_certificates(&folder.read("chain.pem")).unwrap().len(),
        2
    );
    let cut = &folder.read("leaf.der")[..100];
    assert!(matches!(
        read_certificates(cut),
        Err(PkiError::Malformed { .. })
    ));
}
