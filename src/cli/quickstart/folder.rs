//! The folder of a quickstart: whose it is, and the configuration in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::{
    CONNECTION_POINT_NAME, GATEWAY_NAME, MANAGEMENT_POINT, ROOT_NAME, SOFTWARE_UPDATE_POINT,
};
use crate::cli::files::{Readers, replace};
use crate::gateway::Addresses;

const MARKER: &str = ".opencmg-quickstart";
const MARKER_TEXT: &str =
    "This folder was made by `opencmg quickstart`, which may replace any file in it.\n";

/// Where `service.toml` names the CRLs of the throw-away PKI.
const REVOCATION: &str = "[trust.revocation]\ncrls = [\"root.crl\", \"intermediate.crl\"]\n";

/// A folder that is quickstart's own, and this process's alone as long as this value lives.
pub(super) struct Folder {
    path: PathBuf,
    /// Locked. The system lets go of it however the process ends.
    _marker: File,
}

impl Folder {
    /// Makes the folder, or takes over one that an earlier run made.
    ///
    /// # Errors
    /// If it holds anything and was not made by quickstart, is in use by another process, or cannot be made.
    pub(super) fn take(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() && !path.join(MARKER).is_file() {
                    return Err(anyhow!(
                        "{shown} holds files that quickstart did not make; name another folder with --dir, or empty it"
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{shown} cannot be used")),
        }
        make(path)?;
        let marker = lock(path)?;
        for name in ["pki", "clients", "service", "connection-point"] {
            make(&path.join(name))?;
        }
        let path = fs::canonicalize(path).with_context(|| format!("{shown} cannot be found"))?;
        Ok(Self {
            path,
            _marker: marker,
        })
    }

    /// The path of a file, from the root of the file system.
    pub(super) fn absolute(&self, name: &str) -> PathBuf {
        // Joining nothing would put a slash at the end.
        if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(name)
        }
    }

    /// Puts a file in its place.
    pub(super) fn write(
        &self,
        name: &str,
        bytes: impl AsRef<[u8]>,
        readers: Readers,
    ) -> anyhow::Result<()> {
        replace(&self.absolute(name), bytes, readers)
    }

    /// Writes `gateway.toml` for these addresses.
    pub(super) fn write_gateway(&self, addresses: &Addresses) -> anyhow::Result<PathBuf> {
        let list = |addresses: &[SocketAddr]| {
            let quoted: Vec<_> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
            quoted.join(", ")
        };
        let line = |key: &str, address: Option<SocketAddr>| {
            let line = address.map(|address| format!("{key} = \"{address}\"\n"));
            line.unwrap_or_default()
        };
        let text = format!(
            "# Written by `opencmg quickstart` at every run.\n\n[gateway]\nstore = \"file:service\"\n\
             listen = [{}]\n{}{}drain-deadline = \"10s\"\n",
            list(&addresses.client),
            line("health", addresses.health),
            line("admin", addresses.admin),
        );
        let name = "gateway.toml";
        self.write(name, text, Readers::All)?;
        Ok(self.absolute(name))
    }

    /// Writes `service/service.toml`. Where it is there it may have been edited: it only gets the CRLs that it does not
    /// know of, without which every client is refused.
    pub(super) fn write_service(&self) -> anyhow::Result<PathBuf> {
        let name = "service/service.toml";
        let path = self.absolute(name);
        if path.exists() {
            let kept = fs::read_to_string(&path);
            let kept = kept.with_context(|| format!("{} cannot be read", path.display()))?;
            if !kept.contains("revocation") {
                let text = format!(
                    "{}\n\n# Added by `opencmg quickstart`.\n{REVOCATION}",
                    kept.trim_end()
                );
                self.write(name, text, Readers::All)?;
            }
        } else {
            let text = format!(
                "# Written by `opencmg quickstart` once; changes are in force within two seconds.\n\n\
                 name = \"{GATEWAY_NAME}\" # the certificate is for *.opencmg.test\n\n\
                 [[certificate]]\nfile = \"server.pfx\"\npassword-file = \"server.password\"\n\n\
                 [trust]\nanchors = [\"root.pem\"]\nintermediates = [\"intermediate.pem\"]\n\n\
                 {REVOCATION}\n\
                 [connection-points]\nca = [\"connection-point-ca.pem\"]\n\n\
                 [[connection-point]]\nname = \"{CONNECTION_POINT_NAME}\"\n\n\
                 [[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\n\
                 connection-points = [\"{CONNECTION_POINT_NAME}\"]\nroot-host = \"{ROOT_NAME}\"\n\n\
                 [[role]]\nid = \"{SOFTWARE_UPDATE_POINT}\"\nkind = \"software-update-point\"\n\
                 connection-points = [\"{CONNECTION_POINT_NAME}\"]\n"
            );
            self.write(name, text, Readers::All)?;
        }
        Ok(path)
    }

    /// Writes `connection-point.toml` for a gateway and two backends.
    pub(super) fn write_connection_point(
        &self,
        gateway: SocketAddr,
        admin: SocketAddr,
        management_point: &str,
        software_update_point: &str,
    ) -> anyhow::Result<PathBuf> {
        let text = format!(
            "# Written by `opencmg quickstart` at every run.\n\n[connection-point]\n\
             certificate = \"connection-point/{CONNECTION_POINT_NAME}.pem\"\n\
             key = \"connection-point/{CONNECTION_POINT_NAME}.key\"\nadmin = \"{admin}\"\n\
             drain-deadline = \"10s\"\n\n\
             [[gateway]]\nname = \"{GATEWAY_NAME}\"\naddresses = [\"{gateway}\"]\nca = [\"pki/root.pem\"]\n\n\
             [[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\nurl = {management_point:?}\n\n\
             [[role]]\nid = \"{SOFTWARE_UPDATE_POINT}\"\nkind = \"software-update-point\"\nurl = {software_update_point:?}\n"
        );
        let name = "connection-point.toml";
        self.write(name, text, Readers::All)?;
        Ok(self.absolute(name))
    }
}

fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))
}

/// Takes the marker of a folder for this process. Its file is never replaced: the lock is on the file, not its name.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(MARKER);
    let shown = folder.display();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let opened = options.open(&path);
    let mut marker = opened.with_context(|| format!("{} cannot be written", path.display()))?;
    match marker.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(anyhow!(
                "{shown} is in use by another quickstart; end that one, or name another folder with --dir"
            ));
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| {
                format!("{shown} cannot be locked; name a folder of another file system with --dir")
            });
        }
    }
    let written = marker.write_all(MARKER_TEXT.as_bytes());
    written.with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_files_of_others_is_refused_and_ones_own_is_taken_over() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("q");
        Folder::take(&path).unwrap();
        let folder = Folder::take(&path).unwrap();
        assert!(folder.absolute("pki").is_dir());
        let error = Folder::take(temp.path()).err().unwrap().to_string();
        assert!(error.contains("that quickstart did not make"), "{error}");
        let file = path.join(MARKER);
        assert!(Folder::take(&file).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), MARKER_TEXT);
    }

    #[test]
    fn a_service_definition_that_knows_no_crls_gets_them_once_and_keeps_its_edits() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::take(&temp.path().join("q")).unwrap();
        let path = folder.write_service().unwrap();
        let read = || fs::read_to_string(&path).unwrap();
        let new = read();
        let old = new.replace(REVOCATION, "# edited");
        assert_ne!(old, new);
        fs::write(&path, &old).unwrap();
        folder.write_service().unwrap();
        let mended = read();
        assert!(mended.starts_with(old.trim_end()), "{mended}");
        assert!(mended.ends_with(REVOCATION), "{mended}");
        mended.parse::<toml::Table>().unwrap();
        folder.write_service().unwrap();
        assert_eq!(read(), mended);

        let off = new.replace(REVOCATION, "[trust.revocation]\ncheck = false\n");
        fs::write(&path, &off).unwrap();
        folder.write_service().unwrap();
        assert_eq!(read(), off);
    }
}
