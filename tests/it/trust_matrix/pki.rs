//! Certificates of every kind, good and bad. rcgen makes most of them, the openssl command what rcgen cannot.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use opencmg::pki::issue::certificates_to_pem;
use opencmg::pki::{Certificate, CertificateDer, read_certificates};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, SignatureAlgorithm,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A CA certificate with its key.
pub struct Ca {
    pub der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A client's files: the leaf, what it sends behind it, both in one, and the key.
#[derive(Clone, Debug)]
pub struct Shown {
    pub leaf: PathBuf,
    pub rest: Option<PathBuf>,
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// A key of the kind that most certificates here have.
pub fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub fn key_of(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

/// A certificate of a name, valid from yesterday for a month, and nothing else.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + 30 * DAY).into();
    params.use_authority_key_identifier_extension = true;
    params
}

/// A CA's certificate.
pub fn authority(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A client's certificate.
pub fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    let plain = named(name);
    params.distinguished_name = plain.distinguished_name;
    (params.not_before, params.not_after) = (plain.not_before, plain.not_after);
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Ca {
    pub fn root(params: CertificateParams, key: KeyPair) -> Self {
        let der = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    pub fn below(&self, params: CertificateParams, key: KeyPair) -> Self {
        let der = self.certify(&params, &key);
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    pub fn certify(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// The same name and key, certified by another CA.
    pub fn certified_again_by(
        &self,
        other: &Self,
        params: &CertificateParams,
    ) -> CertificateDer<'static> {
        other.certify(params, self.issuer.key())
    }
}

/// The serial number of a certificate.
pub fn serial(der: &CertificateDer<'_>) -> SerialNumber {
    let hex = Certificate::parse(der).unwrap().serial;
    let bytes = hex.as_bytes().chunks(2);
    let bytes =
        bytes.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    SerialNumber::from(bytes.collect::<Vec<_>>())
}

impl Shown {
    /// The serial number of the leaf.
    pub fn serial(&self) -> SerialNumber {
        let leaf = read_certificates(&std::fs::read(&self.leaf).unwrap()).unwrap();
        serial(&leaf[0])
    }
}

/// A CRL of a CA.
pub fn revocation_list(
    ca: &Ca,
    revoked: &[SerialNumber],
    from: SystemTime,
    next: SystemTime,
) -> Vec<u8> {
    let entry = |serial: &SerialNumber| RevokedCertParams {
        serial_number: serial.clone(),
        revocation_time: from.into(),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: from.into(),
        next_update: next.into(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&ca.issuer).unwrap().der().to_vec()
}

/// Where the files lie, and who writes them.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A client that has a certificate of `ca` and sends these certificates behind it.
    pub fn client(
        &self,
        file: &str,
        ca: &Ca,
        params: &CertificateParams,
        key: &KeyPair,
        rest: &[&CertificateDer<'static>],
    ) -> Shown {
        let leaf = ca.certify(params, key);
        let key = self.write(&format!("{file}.key"), key.serialize_pem());
        self.shown(file, &leaf, key, rest)
    }

    pub fn shown(
        &self,
        file: &str,
        leaf: &CertificateDer<'static>,
        key: PathBuf,
        rest: &[&CertificateDer<'static>],
    ) -> Shown {
        let rest: Vec<_> = rest.iter().map(|der| (*der).clone()).collect();
        let [leaf, behind] = [std::slice::from_ref(leaf), &rest[..]].map(certificates_to_pem);
        let chain = format!("{leaf}{behind}");
        Shown {
            leaf: self.write(&format!("{file}.leaf.pem"), leaf),
            rest: (!rest.is_empty()).then(|| self.write(&format!("{file}.rest.pem"), behind)),
            chain: self.write(&format!("{file}.pem"), chain),
            key,
        }
    }

    /// Writes `NAME.pem` and `NAME.key` of a CA, for the openssl command.
    pub fn authority(&self, name: &str, ca: &Ca) {
        let certificate = std::slice::from_ref(&ca.der);
        self.write(&format!("{name}.pem"), certificates_to_pem(certificate));
        self.write(&format!("{name}.key"), ca.issuer.key().serialize_pem());
    }

    /// Makes a key and a certificate with the openssl command: `NAME.key` and `NAME.pem`, signed by the CA of a name.
    pub fn openssl(
        &self,
        name: &str,
        key: &str,
        ca: &str,
        extensions: &str,
        sign: &str,
    ) -> CertificateDer<'static> {
        self.write(&format!("{name}.ext"), extensions);
        run(
            self.0.path(),
            &format!("genpkey -out {name}.key -quiet {key}"),
        );
        run(
            self.0.path(),
            &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"),
        );
        run(
            self.0.path(),
            &format!(
                "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -days 9 -extfile {name}.ext -out {name}.pem {sign}"
            ),
        );
        let pem = std::fs::read(self.path(&format!("{name}.pem"))).unwrap();
        read_certificates(&pem).unwrap().remove(0)
    }
}

pub fn run(folder: &Path, arguments: &str) {
    let out = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed");
    assert!(
        out.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}
