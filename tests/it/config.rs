//! Bad configuration: the exact message of each case, from the files as an administrator has them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use opencmg::pki::issue::{
    Authority, Key, KeyAlgorithm, Leaf, Validity, certificates_to_pem, to_pfx,
};
use opencmg::pki::{KeyPair, UnixTime};
use opencmg::settings::Problem;
use opencmg::{config, service};

/// The instant at which the cases are read; their certificates are made around it, so that messages never change.
const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

const PASSWORD: &str = "correct horse battery staple";

/// A folder with everything that the cases point to: `pki` filled, `service` empty.
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("pki")).unwrap();
    fs::create_dir_all(dir.path().join("service")).unwrap();
    write_pki(&dir.path().join("pki"));
    dir
}

fn key() -> Key {
    Key::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn write_pki(folder: &Path) {
    let years = Validity::days(NOW, 3650);
    let month = Validity::days(NOW, 30);
    let past = Validity {
        not_before: UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000)),
        not_after: UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000)),
    };
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    let write_pair = |name: &str, pair: &KeyPair, key: &Key| {
        write(
            &format!("{name}.pem"),
            certificates_to_pem(&pair.chain).as_bytes(),
        );
        write(&format!("{name}.key"), key.to_pem().as_bytes());
    };
    let root = Authority::root("Test root", key(), years).unwrap();
    let intermediate = root
        .intermediate("Test intermediate", key(), years)
        .unwrap();
    write("root.pem", root.to_pem().as_bytes());
    write("intermediate.pem", intermediate.to_pem().as_bytes());
    // Made by keytool of Java 17.
    write("two-keys.pfx", include_bytes!("keytool/two-keys.p12"));
    write("two-keys.password", b"changeit\n");
    for number in [2, 3] {
        let name = format!("Test root {number}");
        let root = Authority::root(&name, key(), years).unwrap();
        write(&format!("root-{number}.pem"), root.to_pem().as_bytes());
    }
    for (name, leaf) in [
        ("server", Leaf::server(&["*.opencmg.test"], month)),
        ("expired", Leaf::server(&["*.opencmg.test"], past)),
        ("pc-1", Leaf::client("pc-1.opencmg.test", month)),
    ] {
        let key = key();
        let pair = intermediate.issue(&leaf, &key).unwrap();
        write_pair(name, &pair, &key);
        if name == "server" {
            write("server.pfx", &to_pfx(&pair, "server", PASSWORD).unwrap());
        }
    }
    write("server.password", format!("{PASSWORD}\n").as_bytes());
    write("wrong.password", b"incorrect\n");
    write("other.key", key().to_pem().as_bytes());
    let ca = Authority::root("Test connection points", key(), years).unwrap();
    write("connection-point-ca.pem", ca.to_pem().as_bytes());
    for (name, validity) in [("cp-1", month), ("cp-expired", past)] {
        let key = key();
        let leaf = Leaf::connection_point("cp-1.opencmg.test", validity);
        write_pair(name, &ca.issue(&leaf, &key).unwrap(), &key);
    }
}

/// Every problem of the files that a case has, one a line, with the folder as `DIR`.
fn problems_of(case: &Path, folder: &Path) -> String {
    let mut problems: Vec<Problem> = Vec::new();
    let copy = |name: &str, to: &Path| {
        case.join(name)
            .exists()
            .then(|| fs::copy(case.join(name), to).unwrap())
    };
    let service_file = folder.join("service/service.toml");
    if copy("service.toml", &service_file).is_some() {
        problems.extend(
            service::load(&folder.join("service"), NOW)
                .err()
                .unwrap_or_default(),
        );
    }
    let gateway = folder.join("gateway.toml");
    if copy("gateway.toml", &gateway).is_some() {
        problems.extend(config::load_gateway(&gateway).err().unwrap_or_default());
    }
    let point = folder.join("connection-point.toml");
    if copy("connection-point.toml", &point).is_some() {
        let loaded = config::load_connection_point(&point, NOW);
        problems.extend(loaded.err().unwrap_or_default());
    }
    let mut out = String::new();
    for problem in problems {
        writeln!(out, "{problem}").unwrap();
    }
    out.replace(folder.to_str().unwrap(), "DIR")
}

#[test]
fn each_kind_of_bad_input_has_its_exact_message() {
    let invalid = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/invalid");
    let mut cases: Vec<PathBuf> = fs::read_dir(&invalid)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    let mut wrong = String::new();
    for case in &cases {
        let folder = folder();
        let found = problems_of(case, folder.path());
        let expected_file = case.join("expected");
        if std::env::var_os("OPENCMG_OVERWRITE").is_some() {
            fs::write(&expected_file, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if found != expected || found.is_empty() {
            let name = case.file_name().unwrap().display();
            writeln!(wrong, "{name}\nexpected:\n{expected}found:\n{found}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(cases.len(), 33);
}
