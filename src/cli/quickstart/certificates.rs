//! The throw-away PKI: made once, and renewed where it has expired.

use std::fs;
use std::time::Duration;

use super::folder::Folder;
use super::{CONNECTION_POINT_NAME, GATEWAY_NAME};
use crate::cli::files::Readers;
use crate::pki::issue::{
    Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity, certificates_to_pem, crl_to_pem,
    to_pfx,
};
use crate::pki::{self, Certificate, Crl, KeyPair, PkiError, UnixTime};

const CA_DAYS: u64 = 3650;
const LEAF_DAYS: u64 = 90;
// A run that goes on overnight must not outlive its certificates.
const SPARE: Duration = Duration::from_secs(2 * 86_400);

const PFX: &str = "service/server.pfx";
const PASSWORD_FILE: &str = "service/server.password";

/// Makes what is not there and renews what ends within two days.
pub(super) fn renew(folder: &Folder, now: UnixTime) -> anyhow::Result<()> {
    let renewal = Renewal {
        folder,
        now,
        ca: Validity::days(now, CA_DAYS),
        leaf: Validity::days(now, LEAF_DAYS),
    };
    let (root, new_root) = renewal.authority("pki/root", None, |key, validity| {
        Authority::root("OpenCMG quickstart root", key, validity)
    })?;
    let above = Some(new_root);
    let (intermediate, new) = renewal.authority("pki/intermediate", above, |key, validity| {
        root.intermediate("OpenCMG quickstart intermediate", key, validity)
    })?;
    renewal.server(&intermediate, new)?;
    renewal.leaf(
        "clients/pc-1",
        &intermediate,
        new,
        &Leaf::client("pc-1.opencmg.test", renewal.leaf),
    )?;
    renewal.crl("service/root.crl", &root)?;
    renewal.crl("service/intermediate.crl", &intermediate)?;
    folder.write("service/root.pem", root.to_pem(), Readers::All)?;
    folder.write(
        "service/intermediate.pem",
        intermediate.to_pem(),
        Readers::All,
    )?;

    let (ca, new) = renewal.authority("pki/connection-point-ca", None, |key, validity| {
        Authority::root("OpenCMG quickstart connection points", key, validity)
    })?;
    let leaf = Leaf::connection_point(CONNECTION_POINT_NAME, renewal.leaf);
    let name = format!("connection-point/{CONNECTION_POINT_NAME}");
    renewal.leaf(&name, &ca, new, &leaf)?;
    folder.write("service/connection-point-ca.pem", ca.to_pem(), Readers::All)?;

    let (foreign, new) = renewal.authority("pki/stranger-ca", None, |key, validity| {
        Authority::root("A CA that nobody trusts", key, validity)
    })?;
    renewal.leaf(
        "clients/stranger",
        &foreign,
        new,
        &Leaf::client("stranger.example", renewal.leaf),
    )
}

struct Renewal<'f> {
    folder: &'f Folder,
    now: UnixTime,
    ca: Validity,
    leaf: Validity,
}

impl Renewal<'_> {
    /// An authority from its files, or a new one; and whether it is new. `above` says whether the one above it is.
    fn authority(
        &self,
        name: &str,
        above: Option<bool>,
        make: impl FnOnce(Key, Validity) -> Result<Authority, PkiError>,
    ) -> anyhow::Result<(Authority, bool)> {
        let [certificate, key] = [".pem", ".key"].map(|end| format!("{name}{end}"));
        let kept = || {
            let (certificate, key) = (self.read(&certificate)?, self.read(&key)?);
            let authority = Authority::load(&certificate, &key).ok()?;
            let facts = Certificate::parse(authority.certificate()).ok()?;
            self.lasts(facts.not_after).then_some(authority)
        };
        if above != Some(true)
            && let Some(authority) = kept()
        {
            return Ok((authority, false));
        }
        let authority = make(Key::generate(KeyAlgorithm::EcdsaP256)?, self.ca)?;
        self.folder
            .write(&key, authority.key_to_pem(), Readers::Owner)?;
        self.folder
            .write(&certificate, authority.to_pem(), Readers::All)?;
        Ok((authority, true))
    }

    fn server(&self, authority: &Authority, new: bool) -> anyhow::Result<()> {
        let kept = || {
            let password = String::from_utf8(self.read(PASSWORD_FILE)?).ok()?;
            let pair = pki::load_pfx(&self.read(PFX)?, password.trim_end()).ok()?;
            self.lasts(pair.leaf().ok()?.not_after).then_some(())
        };
        if !new && kept().is_some() {
            return Ok(());
        }
        let (_, domain) = GATEWAY_NAME.split_once('.').unwrap_or_default();
        let leaf = Leaf::server(&[&format!("*.{domain}")], self.leaf);
        let pair = authority.issue(&leaf, &Key::generate(KeyAlgorithm::EcdsaP256)?)?;
        let password = format!("{:032x}", rand::random::<u128>());
        let pfx = to_pfx(&pair, GATEWAY_NAME, &password)?;
        self.folder
            .write(PASSWORD_FILE, format!("{password}\n"), Readers::Owner)?;
        self.folder.write(PFX, pfx, Readers::Owner)
    }

    /// A leaf with its chain in one file, and its key in another.
    fn leaf(
        &self,
        name: &str,
        authority: &Authority,
        new: bool,
        leaf: &Leaf,
    ) -> anyhow::Result<()> {
        let [certificate, key] = [".pem", ".key"].map(|end| format!("{name}{end}"));
        let kept = || {
            let pair = pki::load_pem(&self.read(&certificate)?, &self.read(&key)?).ok()?;
            self.lasts(pair.leaf().ok()?.not_after).then_some(())
        };
        if !new && kept().is_some() {
            return Ok(());
        }
        let fresh = Key::generate(KeyAlgorithm::EcdsaP256)?;
        let KeyPair { chain, .. } = authority.issue(leaf, &fresh)?;
        self.folder.write(&key, fresh.to_pem(), Readers::Owner)?;
        self.folder
            .write(&certificate, certificates_to_pem(&chain), Readers::All)
    }

    /// An authority's list of revoked certificates, with nothing on it. One that was edited since stays.
    fn crl(&self, name: &str, authority: &Authority) -> anyhow::Result<()> {
        let issuer = [authority.certificate().clone()];
        let kept = || {
            let file = self.read(name)?;
            let lists = pki::read_crl_file(&file).ok()?;
            let crl = Crl::read(lists.first()?, &issuer).ok()?;
            self.lasts(crl.next_update()).then_some(())
        };
        if kept().is_some() {
            return Ok(());
        }
        let list = RevocationList::empty(self.now.as_secs(), self.leaf);
        let crl = authority.revoke(&list)?;
        self.folder.write(name, crl_to_pem(&crl), Readers::All)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.absolute(name)).ok()
    }

    fn lasts(&self, not_after: UnixTime) -> bool {
        not_after.as_secs() > self.now.as_secs() + SPARE.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [
        "pki/root.pem",
        "pki/intermediate.pem",
        "clients/pc-1.pem",
        "service/server.pfx",
        "service/intermediate.crl",
    ];

    #[test]
    fn a_second_run_keeps_what_is_valid_and_renews_what_has_expired() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::take(&temp.path().join("q")).unwrap();
        let now = UnixTime::now();
        let later = |days: u64| {
            UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + days * 86_400))
        };
        let files = || NAMES.map(|name| fs::read(folder.absolute(name)).unwrap());
        renew(&folder, now).unwrap();
        let first = files();
        renew(&folder, later(80)).unwrap();
        assert_eq!(files(), first);
        renew(&folder, later(89)).unwrap();
        let second = files();
        assert_eq!(second[..2], first[..2]);
        assert_ne!(second[2], first[2]);
        assert_ne!(second[3], first[3]);
        assert_ne!(second[4], first[4]);
        renew(&folder, later(3650)).unwrap();
        for (new, old) in files().iter().zip(&second) {
            assert_ne!(new, old);
        }
    }
}
