//! Lists on disk, so that a restart needs no network.
//!
//! A list is signed, and is checked again when it is read; the certificate of its CA beside it is taken for no more than the
//! key that the list must be signed with. Nothing here fails a fetch: a disk that is full costs a fetch after the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::target::{Target, read};
use super::{Key, MAX_TARGETS};
use crate::fetch::Validators;
use crate::pki::{Certificate, CertificateDer, IssuerKey, UnixTime};

/// The folder, if there is one.
pub(super) struct Cache(Option<PathBuf>);

/// What lies beside a list.
#[derive(Serialize, Deserialize)]
struct Entry {
    urls: Vec<String>,
    /// The CA, DER as Base64; none for a URL of the settings.
    issuer: Option<String>,
    etag: Option<String>,
    last_modified: Option<String>,
    /// Of which list: SHA-256 in hexadecimal. What was said of another means nothing.
    #[serde(default)]
    of: String,
}

impl Cache {
    /// Takes a folder, which is made when something is kept.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self(folder)
    }

    /// Keeps a list.
    pub(super) fn keep(
        &self,
        key: &Key,
        urls: &[String],
        issuer: Option<&CertificateDer<'_>>,
        body: &[u8],
        validators: &Validators,
    ) {
        let Some(folder) = &self.0 else { return };
        let entry = Entry {
            urls: urls.to_vec(),
            issuer: issuer.map(|der| STANDARD.encode(der)),
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
            of: hash(body),
        };
        let written = fs::create_dir_all(folder).and_then(|()| {
            let entry = serde_json::to_vec(&entry)?;
            put(&folder.join(format!("{}.crl", name(key))), body)?;
            put(&folder.join(format!("{}.json", name(key))), &entry)
        });
        if let Err(error) = written {
            warn!(%error, folder = %folder.display(), "a CRL cannot be kept on disk");
        }
    }

    /// Takes a list off the disk.
    pub(super) fn forget(&self, target: &Target) {
        let Some(folder) = &self.0 else { return };
        for end in ["json", "crl"] {
            // What is gone already is gone.
            let _ = fs::remove_file(folder.join(format!("{}.{end}", name(&target.key))));
        }
    }

    /// Everything that is kept and still reads as it should.
    pub(super) fn load(&self, authorities: &[CertificateDer<'static>]) -> Vec<Target> {
        let Some(folder) = &self.0 else {
            return Vec::new();
        };
        let files = match fs::read_dir(folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                warn!(%error, folder = %folder.display(), "the CRLs on disk cannot be read");
                return Vec::new();
            }
        };
        let paths = files.filter_map(|file| Some(file.ok()?.path()));
        let entries = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let mut targets = Vec::new();
        for path in entries.take(MAX_TARGETS) {
            match restore(&path, authorities) {
                Ok(target) => targets.push(target),
                Err(error) => warn!(error, file = %path.display(), "a CRL on disk is passed over"),
            }
        }
        targets
    }
}

fn restore(path: &Path, authorities: &[CertificateDer<'static>]) -> Result<Target, String> {
    let entry = fs::read(path).map_err(|error| error.to_string())?;
    let entry: Entry = serde_json::from_slice(&entry).map_err(|error| error.to_string())?;
    let body = fs::read(path.with_extension("crl")).map_err(|error| error.to_string())?;
    let validators = match entry.of == hash(&body) {
        true => Validators {
            etag: entry.etag,
            last_modified: entry.last_modified,
        },
        // The process ended between the one and the other: the list is asked for anew.
        false => Validators::default(),
    };
    let target = match entry.issuer {
        None => Target::of_settings(entry.urls.first().ok_or("it names no URL")?),
        Some(issuer) => {
            let der = STANDARD.decode(issuer).map_err(|error| error.to_string())?;
            let issuer = CertificateDer::from(der);
            let facts = Certificate::parse(&issuer).map_err(|error| error.to_string())?;
            Target::discovered(IssuerKey::of(&facts), issuer, entry.urls)
        }
    };
    let crls = match &target.issuer {
        Some(issuer) => read(
            &body,
            &target.key,
            std::slice::from_ref(issuer),
            UnixTime::now(),
        )?,
        None => read(&body, &target.key, authorities, UnixTime::now())?,
    };
    Ok(target.with_kept(crls.into_iter().collect::<Vec<Arc<_>>>(), validators))
}

/// Puts a file in its place whole.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}

fn name(key: &Key) -> String {
    let issuer = key.issuer.map(|issuer| issuer.to_string());
    let known_by = [
        issuer.unwrap_or_default().as_bytes(),
        &[0],
        key.url.as_bytes(),
    ]
    .concat();
    hash(&known_by)[..32].to_owned()
}

fn hash(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes);
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}
