//! The rows of revocation: what the CRLs say of a client's certificate and of its CA's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opencmg::pki::{Crl, CrlError};

use super::clients::Outcome::{Alert, Refused};
use super::pki::{Ca, Shown, authority, client, key, revocation_list};
use super::rows::{Matrix, UNKNOWN_CA};

const BAD_CERTIFICATE: u8 = 42;
const REVOKED: u8 = 44;
const HOUR: Duration = Duration::from_secs(3600);

impl Matrix {
    /// The rows of revocation. Stale and unknown status are denied.
    pub fn of_revocation() -> Self {
        let mut matrix = Self::bare();
        matrix.intermediates.push(matrix.issuing.der.clone());
        let mut revoked = Vec::new();
        for (what, name) in [("not revoked", "clean"), ("revoked", "revoked")] {
            let shown = matrix.below_issuing(name);
            if name == "revoked" {
                revoked.push(shown.serial());
                matrix.refused(what, shown, "certificate-revoked", REVOKED);
            } else {
                matrix.served(what, shown);
            }
        }
        let now = SystemTime::now();
        let (past, soon) = (now - HOUR, now + 24 * HOUR);
        let of_issuing = revocation_list(&matrix.issuing, &revoked, past, soon);
        matrix.add(&of_issuing, &[]);

        let ca = matrix.root.below(authority("Revoked CA"), key());
        let of_root = revocation_list(&matrix.root, &[super::pki::serial(&ca.der)], past, soon);
        matrix.add(&of_root, &[]);
        let empty = revocation_list(&ca, &[], past, soon);
        matrix.add(&empty, &[&ca]);
        let shown = matrix.below(&ca, "under-revoked");
        matrix.refused(
            "an intermediate that was revoked",
            shown,
            "certificate-revoked",
            REVOKED,
        );

        let ca = matrix.root.below(authority("Stale"), key());
        matrix.add(&revocation_list(&ca, &[], past - 48 * HOUR, past), &[&ca]);
        let shown = matrix.below(&ca, "stale");
        matrix.row(
            "a CRL that has expired",
            shown,
            Refused("crl-stale"),
            Alert(BAD_CERTIFICATE, "crl-stale"),
        );

        let ca = matrix.root.below(authority("Future"), key());
        matrix.add(&revocation_list(&ca, &[], soon, soon + HOUR), &[&ca]);
        let shown = matrix.below(&ca, "future-crl");
        matrix.unknown("a CRL from the future", shown);

        let ca = matrix.root.below(authority("Without CRL"), key());
        let shown = matrix.below(&ca, "no-crl");
        matrix.unknown("no CRL", shown);
        matrix.not_taken(past, soon);
        matrix
    }

    /// CRLs that are none of their issuer's are not taken, so that there is none.
    fn not_taken(&mut self, past: SystemTime, soon: SystemTime) {
        let ca = self.root.below(authority("Another's"), key());
        let foreign = revocation_list(&self.stranger, &[], past, soon);
        let error = Crl::read(&foreign, std::slice::from_ref(&ca.der)).unwrap_err();
        assert_eq!(error, CrlError::UnknownIssuer("CN=Stranger".to_owned()));
        let shown = self.below(&ca, "foreign-crl");
        self.unknown("a CRL of another issuer", shown);

        let ca = self.root.below(authority("Forged"), key());
        let namesake = self.root.below(authority("Forged"), key());
        let forged = revocation_list(&namesake, &[], past, soon);
        let error = Crl::read(&forged, std::slice::from_ref(&ca.der)).unwrap_err();
        assert_eq!(error, CrlError::Signature("CN=Forged".to_owned()));
        let shown = self.below(&ca, "forged-crl");
        self.unknown("a CRL with a bad signature", shown);
    }

    fn unknown(&mut self, what: &'static str, shown: Shown) {
        self.refused(what, shown, "revocation-unknown", UNKNOWN_CA);
    }

    fn below_issuing(&self, file: &str) -> Shown {
        let rest = [&self.issuing.der];
        self.folder
            .client(file, &self.issuing, &client("pc.corp.test"), &key(), &rest)
    }

    fn below(&self, ca: &Ca, file: &str) -> Shown {
        self.folder
            .client(file, ca, &client("pc.corp.test"), &key(), &[&ca.der])
    }

    fn add(&mut self, list: &[u8], authorities: &[&Ca]) {
        let mut issuers = vec![self.root.der.clone(), self.issuing.der.clone()];
        issuers.extend(authorities.iter().map(|ca| ca.der.clone()));
        self.intermediates
            .extend(authorities.iter().map(|ca| ca.der.clone()));
        let crl = Crl::read(list, &issuers).unwrap();
        self.crls.push(Arc::new(crl));
        self.lists.push(list.to_vec());
    }
}
