//! `[trust]` and `[connection-points]`: the CAs that clients and connection points are verified against.

use std::path::Path;

use super::files::Files;
use crate::pki::{self, Anchors, CertificateDer, Limits};
use crate::settings::Reader;

/// The CAs of the clients.
#[derive(Debug, Default)]
pub(super) struct Trust {
    pub(super) anchors: Vec<CertificateDer<'static>>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) limits: Limits,
    /// The set that both make; nothing after a fault.
    pub(super) built: Option<Anchors>,
}

/// Reads `[trust]`.
pub(super) fn read(reader: &Reader<'_>, files: &mut Files) -> Trust {
    let limits = Limits::read(reader);
    let (anchors, anchors_whole) = certificates(reader, "anchors", files);
    let (intermediates, intermediates_whole) = certificates(reader, "intermediates", files);
    if !reader.has("anchors") {
        let needed = "files with the root certificates of the clients' PKI are needed";
        reader.fault("anchors", format!("is missing ({needed})"));
        return Trust::default();
    }
    let whole = anchors_whole && intermediates_whole;
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
    }
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
