//! The rows of the matrix: what a client shows, and what it gets for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opencmg::pki::{CertificateDer, Crl};
use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints,
};

use super::clients::Outcome;
use super::clients::Outcome::{Alert, Refused, Served};
use super::pki::{Ca, Folder, Shown, authority, client, key, key_of};

const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
pub const UNKNOWN_CA: u8 = 48;

const CLIENT_EXTENSIONS: &str = "basicConstraints=critical,CA:false\nkeyUsage=digitalSignature\n\
                                 extendedKeyUsage=clientAuth\nsubjectAltName=DNS:pc.corp.test\n";
const CA_EXTENSIONS: &str = "basicConstraints=critical,CA:true\nkeyUsage=keyCertSign,cRLSign\n";
const RSA_2048: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
const ED25519: &str = "-algorithm ED25519";
const RSA_1024: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:1024";

/// One kind of client certificate.
#[derive(Debug)]
pub struct Row {
    pub what: &'static str,
    pub shown: Shown,
    /// Whether the client can sign with RSA PKCS#1 v1.5 only.
    pub pkcs1_only: bool,
    /// Whether it asks for an endpoint that the backend judges.
    pub at_backend: bool,
    /// What it gets on TLS 1.2 and 1.3 where refusals are answered.
    pub answered: [Outcome; 2],
    /// What it gets on TLS 1.2 and 1.3 where refusals are alerts.
    pub alerted: [Outcome; 2],
}

/// Every row, and the trust that they meet.
pub struct Matrix {
    pub folder: Folder,
    pub rows: Vec<Row>,
    pub anchors: Vec<CertificateDer<'static>>,
    pub intermediates: Vec<CertificateDer<'static>>,
    /// What is revoked; empty where revocation is not looked at.
    pub crls: Vec<Arc<Crl>>,
    pub lists: Vec<Vec<u8>>,
    pub root: Ca,
    pub issuing: Ca,
    pub stranger: Ca,
}

impl Matrix {
    /// Without a row.
    pub fn bare() -> Self {
        let root = Ca::root(authority("Root"), key());
        Self {
            folder: Folder::new(),
            rows: Vec::new(),
            anchors: vec![root.der.clone()],
            intermediates: Vec::new(),
            issuing: root.below(authority("Issuing"), key()),
            stranger: Ca::root(authority("Stranger"), key()),
            crls: Vec::new(),
            lists: Vec::new(),
            root,
        }
    }

    /// The rows that have nothing to do with revocation.
    pub fn of_paths() -> Self {
        let mut matrix = Self::bare();
        matrix.leaves();
        matrix.usages();
        matrix.issuers();
        matrix.intermediates_sent_or_configured();
        matrix.cross_signed();
        matrix.renewed();
        matrix.algorithms();
        matrix.made_by_openssl();
        matrix
    }

    pub fn served(&mut self, what: &'static str, shown: Shown) -> &mut Row {
        self.row(what, shown, Served, Served)
    }

    pub fn refused(
        &mut self,
        what: &'static str,
        shown: Shown,
        reason: &'static str,
        alert: u8,
    ) -> &mut Row {
        self.row(what, shown, Refused(reason), Alert(alert, reason))
    }

    pub fn row(
        &mut self,
        what: &'static str,
        shown: Shown,
        answered: Outcome,
        alerted: Outcome,
    ) -> &mut Row {
        self.rows.push(Row {
            what,
            shown,
            pkcs1_only: false,
            at_backend: false,
            answered: [answered; 2],
            alerted: [alerted; 2],
        });
        self.rows.last_mut().unwrap()
    }

    /// A client of the trusted intermediate, which is sent.
    fn of_issuing(&self, file: &str, params: &rcgen::CertificateParams) -> Shown {
        let rest = [&self.issuing.der];
        self.folder
            .client(file, &self.issuing, params, &key(), &rest)
    }

    fn leaves(&mut self) {
        let day = Duration::from_secs(86_400);
        let shown = self.of_issuing("valid", &client("pc.corp.test"));
        self.served("valid", shown);
        let mut expired = client("pc.corp.test");
        expired.not_before = (SystemTime::now() - 9 * day).into();
        expired.not_after = (SystemTime::now() - day).into();
        let shown = self.of_issuing("expired", &expired);
        self.refused("expired", shown, "certificate-expired", EXPIRED);
        let mut future = client("pc.corp.test");
        future.not_before = (SystemTime::now() + day).into();
        let shown = self.of_issuing("future", &future);
        self.refused("not yet valid", shown, "certificate-not-yet-valid", EXPIRED);
        let mut of_ca = authority("pc.corp.test");
        of_ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let shown = self.of_issuing("ca-as-leaf", &of_ca);
        self.refused(
            "a CA certificate as leaf",
            shown,
            "certificate-invalid",
            BAD_CERTIFICATE,
        );

        let (params, reason) = (client("pc.corp.test"), "certificate-unknown-issuer");
        let shown = self
            .folder
            .client("unrelated", &self.stranger, &params, &key(), &[]);
        self.refused("of an unknown CA", shown.clone(), reason, UNKNOWN_CA);
        let what = "unrelated, on an endpoint that the backend judges";
        let row = self.refused(what, shown, reason, UNKNOWN_CA);
        row.at_backend = true;
        row.answered = [Served; 2];
    }

    fn usages(&mut self) {
        let usage = |usages: &[ExtendedKeyUsagePurpose]| {
            let mut params = client("pc.corp.test");
            params.extended_key_usages = usages.to_vec();
            params
        };
        let shown = self.of_issuing("no-usage", &usage(&[]));
        self.served("without extended key usage", shown);
        let wrong = [
            (
                "for servers only",
                "server-usage",
                ExtendedKeyUsagePurpose::ServerAuth,
            ),
            (
                "for any usage but not for clients",
                "any-usage",
                ExtendedKeyUsagePurpose::Any,
            ),
        ];
        for (what, file, purpose) in wrong {
            let shown = self.of_issuing(file, &usage(&[purpose]));
            self.refused(
                what,
                shown,
                "certificate-wrong-usage",
                UNSUPPORTED_CERTIFICATE,
            );
        }
    }

    /// A client below a CA of its own, which the trusted intermediate has certified; all are sent.
    fn below_own(&mut self, file: &str, params: rcgen::CertificateParams, leaf: &str) -> Shown {
        let ca = self.issuing.below(params, key());
        self.folder.client(
            file,
            &ca,
            &client(leaf),
            &key(),
            &[&ca.der, &self.issuing.der],
        )
    }

    fn issuers(&mut self) {
        let mut not_ca = authority("Not a CA");
        not_ca.is_ca = IsCa::ExplicitNoCa;
        not_ca.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let shown = self.below_own("under-a-leaf", not_ca, "pc.corp.test");
        self.refused(
            "an issuer with CA:false",
            shown,
            "certificate-invalid",
            BAD_CERTIFICATE,
        );

        let mut may_not_sign = authority("May not sign");
        may_not_sign.key_usages = vec![KeyUsagePurpose::CrlSign];
        let shown = self.below_own("no-cert-sign", may_not_sign, "pc.corp.test");
        self.refused(
            "an issuer without keyCertSign",
            shown,
            "certificate-invalid",
            BAD_CERTIFICATE,
        );

        let mut flat = authority("Flat");
        flat.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let flat = self.issuing.below(flat, key());
        let deep = flat.below(authority("Deep"), key());
        let rest = [&deep.der, &flat.der, &self.issuing.der];
        let shown = self
            .folder
            .client("too-deep", &deep, &client("pc.corp.test"), &key(), &rest);
        self.refused(
            "deeper than its CA's path length",
            shown,
            "certificate-invalid",
            BAD_CERTIFICATE,
        );
        let rest = [&flat.der, &self.issuing.der];
        let shown =
            self.folder
                .client("deep-enough", &flat, &client("pc.corp.test"), &key(), &rest);
        self.served("as deep as its CA's path length", shown);

        let mut constrained = authority("Constrained");
        constrained.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("corp.test".to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let shown = self.below_own("within", constrained.clone(), "pc.corp.test");
        self.served("within its CA's name constraints", shown);
        let shown = self.below_own("outside", constrained, "pc.elsewhere.test");
        self.refused(
            "outside its CA's name constraints",
            shown,
            "certificate-invalid",
            BAD_CERTIFICATE,
        );

        let mut for_servers = authority("Servers only");
        for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let shown = self.below_own("under-servers-only", for_servers, "pc.corp.test");
        self.refused(
            "an issuer for servers only",
            shown,
            "certificate-wrong-usage",
            UNSUPPORTED_CERTIFICATE,
        );

        let mut old = authority("Old");
        old.not_after = (SystemTime::now() - Duration::from_secs(60)).into();
        let shown = self.below_own("under-expired", old, "pc.corp.test");
        self.refused(
            "an issuer that has expired",
            shown,
            "certificate-expired",
            EXPIRED,
        );
    }

    fn intermediates_sent_or_configured(&mut self) {
        let configured = self.root.below(authority("Configured"), key());
        self.intermediates.push(configured.der.clone());
        let (params, folder) = (client("pc.corp.test"), &self.folder);
        let not_sent = folder.client("not-sent", &configured, &params, &key(), &[]);
        let missing = folder.client("missing", &self.issuing, &params, &key(), &[]);
        let disorder = [
            &self.stranger.der,
            &self.root.der,
            &configured.der,
            &self.issuing.der,
        ];
        let disorder = folder.client("disorder", &self.issuing, &params, &key(), &disorder);
        self.served("its intermediate configured, not sent", not_sent);
        self.refused(
            "its intermediate neither sent nor configured",
            missing,
            "certificate-unknown-issuer",
            UNKNOWN_CA,
        );
        self.served("in the wrong order, with strangers among it", disorder);
    }

    fn cross_signed(&mut self) {
        let params = authority("Cross");
        let sent = self.stranger.below(params.clone(), key());
        let by_root = sent.certified_again_by(&self.root, &params);
        let rest = [&sent.der, &by_root];
        let shown = self
            .folder
            .client("cross-sent", &sent, &client("pc.corp.test"), &key(), &rest);
        self.served("cross-signed, both sent, the stranger's first", shown);

        let params = authority("Cross configured");
        let half = self.stranger.below(params.clone(), key());
        self.intermediates
            .push(half.certified_again_by(&self.root, &params));
        let rest = [&half.der, &self.stranger.der];
        let shown = self
            .folder
            .client("cross-half", &half, &client("pc.corp.test"), &key(), &rest);
        self.served("cross-signed, the stranger's sent, ours configured", shown);
    }

    fn renewed(&mut self) {
        let roots = [key(), key()].map(|key| Ca::root(authority("Renewed Root"), key));
        let issuing = [key(), key()].map(|key| self.root.below(authority("Renewed"), key));
        self.anchors.extend(roots.iter().map(|ca| ca.der.clone()));
        self.intermediates
            .extend(issuing.iter().map(|ca| ca.der.clone()));
        let half = [key(), key()].map(|key| self.root.below(authority("Half renewed"), key));
        self.intermediates.push(half[0].der.clone());
        let (params, folder) = (client("pc.corp.test"), &self.folder);
        let shown = |file, ca, rest: &[&_]| folder.client(file, ca, &params, &key(), rest);
        let [old_root, new_root] = [("old-root", &roots[0]), ("new-root", &roots[1])]
            .map(|(file, ca)| shown(file, ca, &[]));
        let [old, new] = [("old-ca", &issuing[0]), ("new-ca", &issuing[1])]
            .map(|(file, ca)| shown(file, ca, &[]));
        let unknown = shown("new-unknown", &half[1], &[]);
        let sent = shown("new-sent", &half[1], &[&half[1].der]);
        self.served("under a root renewed with a new key, the old key", old_root);
        self.served("under a root renewed with a new key, the new key", new_root);
        self.served(
            "under an intermediate renewed with a new key, the old key",
            old,
        );
        self.served(
            "under an intermediate renewed with a new key, the new key",
            new,
        );
        self.refused(
            "under an intermediate's new key that is unknown here",
            unknown,
            "certificate-unknown-issuer",
            UNKNOWN_CA,
        );
        self.served("under an intermediate's new key, sent", sent);
    }

    fn algorithms(&mut self) {
        let kinds = [
            ("a P-384 key", "p384", &rcgen::PKCS_ECDSA_P384_SHA384),
            ("a P-521 key", "p521", &rcgen::PKCS_ECDSA_P521_SHA512),
            (
                "an RSA key of 2048 bits",
                "rsa2048",
                &rcgen::PKCS_RSA_SHA256,
            ),
        ];
        for (what, file, algorithm) in kinds {
            // The CA has such a key as well, so that its signature is one of the kind.
            let ca = self.root.below(authority(file), key_of(algorithm));
            let key = key_of(algorithm);
            let shown = self
                .folder
                .client(file, &ca, &client("pc.corp.test"), &key, &[&ca.der]);
            self.served(what, shown);
        }
        let last = self.rows.last().unwrap();
        let shown = last.shown.clone();
        let row = self.served("RSA, and a client that signs with PKCS#1 v1.5 only", shown);
        row.pkcs1_only = true;
        // TLS 1.3 knows no such signature in handshakes, so that the client presents no certificate.
        row.answered[1] = Refused("certificate-missing");
        row.alerted[1] = Refused("certificate-missing");
    }

    fn made_by_openssl(&mut self) {
        let root = Ca::root(authority("RSA Root"), key_of(&rcgen::PKCS_RSA_SHA256));
        self.folder.authority("rsa-root", &root);
        self.anchors.push(root.der);
        let pss = "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest";
        let by_root = |folder: &Folder, name: &str, key: &str, sign: &str| {
            let der = folder.openssl(name, key, "rsa-root", CLIENT_EXTENSIONS, sign);
            folder.shown(name, &der, folder.path(&format!("{name}.key")), &[])
        };
        let folder = &self.folder;
        let signed_with_pss = by_root(folder, "signed-with-pss", RSA_2048, pss);
        let sha1 = by_root(folder, "sha1", RSA_2048, "-sha1");
        let rsa1024 = by_root(folder, "rsa1024", RSA_1024, "-sha256");
        let weak = folder.openssl("weak-ca", RSA_1024, "rsa-root", CA_EXTENSIONS, "-sha256");
        let der = folder.openssl(
            "under-weak",
            RSA_2048,
            "weak-ca",
            CLIENT_EXTENSIONS,
            "-sha256",
        );
        let under_weak = folder.shown("under-weak", &der, folder.path("under-weak.key"), &[&weak]);
        let ed25519 = folder.openssl("ed25519-ca", ED25519, "rsa-root", CA_EXTENSIONS, "-sha256");
        let der = folder.openssl(
            "under-ed25519",
            ED25519,
            "ed25519-ca",
            CLIENT_EXTENSIONS,
            "",
        );
        let under_ed25519 = folder.shown(
            "under-ed25519",
            &der,
            folder.path("under-ed25519.key"),
            &[&ed25519],
        );
        let pss_key = "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048";
        let pss_key = by_root(folder, "pss-key", pss_key, "-sha256");
        self.served("signed with RSA-PSS", signed_with_pss);
        self.served("an Ed25519 key", under_ed25519);
        self.refused(
            "signed with SHA-1",
            sha1,
            "certificate-invalid",
            BAD_CERTIFICATE,
        );
        // With such a key nobody can prove that it is his.
        let unproven = Alert(CERTIFICATE_UNKNOWN, "certificate-invalid");
        let judged = Alert(BAD_CERTIFICATE, "certificate-invalid");
        self.row("an RSA key of 1024 bits", rsa1024, unproven, judged);
        self.refused(
            "an issuer with an RSA key of 1024 bits",
            under_weak,
            "certificate-invalid",
            BAD_CERTIFICATE,
        );
        // No such signature is asked for, so that the client presents no certificate.
        let missing = Refused("certificate-missing");
        self.row("a key for RSASSA-PSS only", pss_key, missing, missing);
    }
}
