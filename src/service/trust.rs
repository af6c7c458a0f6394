//! `[trust]` and `[connection-points]`: the CAs that clients and connection points are verified against, and the CRLs.

use std::path::Path;
use std::sync::Arc;

use super::files::Files;
use crate::pki::{self, Anchors, CertificateDer, Crl, CrlError, Doubt, Limits, Policy};
use crate::revocation;
use crate::settings::Reader;

/// The CAs of the clients.
#[derive(Debug, Default)]
pub(super) struct Trust {
    pub(super) anchors: Vec<CertificateDer<'static>>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) limits: Limits,
    /// The set that both make; nothing after a fault.
    pub(super) built: Option<Anchors>,
    pub(super) revocation: Policy,
    pub(super) fetching: revocation::Settings,
    pub(super) crls: Vec<Arc<Crl>>,
    /// Which CRLs were passed over, and why.
    pub(super) notes: Vec<String>,
}

const WITHOUT_CRLS: &str = "trust.revocation: every client is refused, since no CRL can be had \
    (give crls, urls or discover = true; unknown = \"allow\" or check = false lets clients in that may be revoked)";

/// A CRL of a million entries that each give a reason has some 50 MB.
const MAX_CRL: u64 = 128 << 20;

/// Reads `[trust]`.
pub(super) fn read(reader: &Reader<'_>, files: &mut Files) -> Trust {
    let limits = Limits::read(reader);
    let (anchors, anchors_whole) = certificates(reader, "anchors", files);
    let (intermediates, intermediates_whole) = certificates(reader, "intermediates", files);
    let revocation = reader.table("revocation");
    let policy = Policy::read(&revocation);
    let fetching = revocation::Settings::read(&revocation, policy.check);
    let (crls, notes) = match anchors_whole && intermediates_whole {
        true => read_crls(&revocation, &anchors, &intermediates, files),
        false => (drop_crls(&revocation), Vec::new()),
    };
    if !reader.has("anchors") {
        let needed = "files with the root certificates of the clients' PKI are needed";
        reader.fault("anchors", format!("is missing ({needed})"));
        return Trust::default();
    }
    let whole = anchors_whole && intermediates_whole;
    let mut notes = notes;
    let is_without = crls.is_empty() && fetching.urls.is_empty() && !fetching.discover;
    if policy.check && policy.unknown == Doubt::Deny && is_without {
        notes.push(WITHOUT_CRLS.to_owned());
    }
    let built = whole.then(|| Anchors::build(&anchors, &intermediates, limits));
    let built = match built {
        Some(Ok(built)) => Some(built),
        Some(Err(faults)) => {
            for fault in faults {
                reader.fault("anchors", fault);
            }
            None
        }
        None => None,
    };
    Trust {
        anchors,
        intermediates,
        limits,
        built,
        revocation: policy,
        fetching,
        crls,
        notes,
    }
}

/// The CRLs of all files of `crls`, and which were passed over.
fn read_crls(
    reader: &Reader<'_>,
    anchors: &[CertificateDer<'static>],
    intermediates: &[CertificateDer<'static>],
    files: &mut Files,
) -> (Vec<Arc<Crl>>, Vec<String>) {
    let issuers: Vec<_> = anchors.iter().chain(intermediates).cloned().collect();
    let (mut crls, mut notes) = (Vec::new(), Vec::new());
    for (index, path) in reader.paths("crls").into_iter().enumerate() {
        let named = |what: String| format!("{}: {what}", path.display());
        let fault = |what: String| reader.fault(&format!("crls[{index}]"), named(what));
        let bytes = match files.read_large(&path, MAX_CRL) {
            Ok(bytes) => bytes,
            Err(what) => {
                fault(what);
                continue;
            }
        };
        let lists = pki::read_crl_file(&bytes).map_err(|error| error.to_string());
        for der in lists.map_err(fault).unwrap_or_default() {
            match Crl::read(&der, &issuers) {
                Ok(crl) => crls.push(Arc::new(crl)),
                Err(error) if error.is_skipped() => notes.push(named(error.to_string())),
                // Taking a CA out is never held up by a CRL of it that was left.
                Err(error @ CrlError::UnknownIssuer(_)) => {
                    notes.push(named(format!("{error}: ignored")));
                }
                Err(error) => fault(error.to_string()),
            }
        }
    }
    (crls, notes)
}

/// Asks for the key, whose files cannot be judged while the CAs that signed them are not known.
fn drop_crls(reader: &Reader<'_>) -> Vec<Arc<Crl>> {
    reader.paths("crls").clear();
    Vec::new()
}

/// Reads `[connection-points]`: the CA that connection points' certificates chain to.
pub(super) fn read_connection_points(
    reader: &Reader<'_>,
    files: &mut Files,
) -> Vec<CertificateDer<'static>> {
    let (ca, whole) = certificates(reader, "ca", files);
    if !reader.has("ca") {
        let needed = "files with the certificates of the connection-point CA are needed";
        reader.fault("ca", format!("is missing ({needed})"));
    } else if whole && let Err(faults) = Anchors::build(&ca, &[], Limits::MAX) {
        for fault in faults {
            reader.fault("ca", fault);
        }
    }
    ca
}

/// The certificates of all files of a list, and whether every file could be read.
fn certificates(
    reader: &Reader<'_>,
    key: &'static str,
    files: &mut Files,
) -> (Vec<CertificateDer<'static>>, bool) {
    let mut certificates = Vec::new();
    let mut whole = true;
    for (index, path) in reader.paths(key).into_iter().enumerate() {
        match read_file(&path, files) {
            Ok(read) => certificates.extend(read),
            Err(what) => {
                whole = false;
                reader.fault(&format!("{key}[{index}]"), what);
            }
        }
    }
    (certificates, whole)
}

fn read_file(path: &Path, files: &mut Files) -> Result<Vec<CertificateDer<'static>>, String> {
    let named = |what: String| format!("{}: {what}", path.display());
    let bytes = files.read(path).map_err(named)?;
    pki::read_certificates(&bytes).map_err(|error| named(error.to_string()))
}
