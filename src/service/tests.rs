use std::fs;
use std::time::Duration;

use super::*;
use crate::message::headers::CertificateFields;
use crate::pki::issue::{
    Authority, Key, KeyAlgorithm, Leaf, Validity, certificates_to_pem, to_pfx,
};
use crate::role::Scheme;
use crate::settings::samples;
use crate::tls::ClientCertificates;

const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

const START: &str = "name = \"cmg.contoso.com\"\n\
    [[certificate]]\nfile = \"server.pfx\"\npassword-file = \"server.password\"\n\
    [trust]\nanchors = [\"root.pem\"]\n[connection-points]\nca = [\"connection-point-ca.pem\"]\n\
    [[connection-point]]\nname = \"CP-1\"\n[[connection-point]]\nname = \"cp-2\"\n";

/// A folder with the files that the sample names.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let validity = Validity::days(NOW, 30);
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let key = |algorithm| Key::generate(algorithm).unwrap();
    let new = || key(KeyAlgorithm::EcdsaP256);
    let root = Authority::root("Contoso Root CA", new(), validity).unwrap();
    let intermediate = root.intermediate("Contoso CA", new(), validity).unwrap();
    let ca = Authority::root("Contoso connection points", new(), validity).unwrap();
    write("root.pem", root.to_pem().as_bytes());
    write("intermediate.pem", intermediate.to_pem().as_bytes());
    write("connection-point-ca.pem", ca.to_pem().as_bytes());
    for (name, host, algorithm) in [
        ("server", "cmg.contoso.com", KeyAlgorithm::EcdsaP256),
        ("server-rsa", "cmg.contoso.com", KeyAlgorithm::Rsa2048),
        ("portal", "portal.contoso.com", KeyAlgorithm::EcdsaP256),
    ] {
        let key = key(algorithm);
        let leaf = Leaf::server(&[host], validity);
        let pair = intermediate.issue(&leaf, &key).unwrap();
        let chain = certificates_to_pem(&pair.chain);
        write(&format!("{name}.pem"), chain.as_bytes());
        write(&format!("{name}.key"), key.to_pem().as_bytes());
        write(
            &format!("{name}.pfx"),
            &to_pfx(&pair, name, "secret").unwrap(),
        );
    }
    write("server.password", b"secret\n");
    dir
}

fn load_text(folder: &Path, text: &str) -> Definition {
    fs::write(folder.join(FILE), text).unwrap();
    load(folder, NOW).unwrap()
}

#[test]
fn the_sample_shows_every_key_with_its_default() {
    let folder = folder();
    let not_set = "sample: certificate[1].password-env: names the variable OPENCMG_PFX_PASSWORD, which is not set";
    let read = |root: &Reader<'_>| format!("{:?}", read(root, &mut Files::default(), NOW));
    let name = "service/service.toml";
    let keys = samples::assert_complete(name, folder.path(), &[not_set], read);
    assert_eq!(keys, 58);
    let (_, text) = samples::sample(name);
    let definition = load_text(folder.path(), &text);
    assert_eq!(definition.name, "cmg.contoso.com");
    assert_eq!(definition.tls.tunnel_server_name, "tunnel.cmg.contoso.com");
    assert_eq!(definition.roles.len(), 3);
    let [first, second] = definition.tls.names.as_slice() else {
        panic!("{:?}", definition.tls.names);
    };
    assert_eq!(first.hints.len(), 2);
    assert_eq!(second.hints.len(), 1);
    assert_eq!(second.client_certificates, ClientCertificates::Never);
}

#[test]
fn an_rsa_and_an_ecdsa_certificate_of_one_name_are_served_together() {
    let folder = folder();
    let rsa = "[[certificate]]\nfile = \"server-rsa.pem\"\nkey = \"server-rsa.key\"\n";
    let role = "[[role]]\nid = \"5\"\nkind = \"management-point\"\n";
    let definition = load_text(folder.path(), &format!("{START}{rsa}{role}"));
    assert_eq!(definition.tls.names.len(), 1);
    assert_eq!(definition.tls.names[0].key_pairs.len(), 2);
}

#[test]
fn a_role_has_what_its_kind_brings_and_what_the_file_changes() {
    let folder = folder();
    let roles = "[[role]]\nid = \"5\"\nkind = \"management-point\"\nconnection-points = [\"Cp-2\"]\n\
        [[role.endpoint]]\nname = \"ccm_sts\"\nscheme = \"backend\"\n\
        [[role.endpoint]]\nname = \"BGB\"\noff = true\n\
        [[role.endpoint]]\nname = \"CCM_System_AltAuth/request\"\nmethods = [\"CCM_POST\"]\nbody-limit = \"1 MiB\"\n\
        [[role]]\nid = \"6\"\nkind = \"web\"\nroot-host = \"Portal.contoso.com\"\nrate-per-address = 0\n\
        [[role.endpoint]]\nname = \"app\"\nscheme = \"public\"\n";
    let definition = load_text(folder.path(), &format!("{START}{roles}"));
    let [point, web] = definition.roles.as_slice() else {
        panic!("{:?}", definition.roles);
    };
    assert_eq!(point.connection_points, ["cp-2"]);
    assert_eq!(point.client_certificate, CertificateFields::None);
    assert_eq!((point.via, point.rate_per_address), (false, Some(200)));
    let endpoint = |name: &str| {
        point
            .endpoints
            .iter()
            .find(|endpoint| endpoint.name == name)
    };
    // The spelling of the catalogue stays; what is not named stays as it was.
    let sts = endpoint("CCM_STS").unwrap();
    assert_eq!((sts.scheme, sts.body_limit), (Scheme::Backend, 64 << 10));
    assert_eq!(endpoint("BGB"), None);
    let added = endpoint("CCM_System_AltAuth/request").unwrap();
    assert_eq!((added.scheme, added.body_limit), (Scheme::Token, 1 << 20));
    assert_eq!(web.connection_points, ["cp-1", "cp-2"]);
    assert_eq!(web.root_host.as_deref(), Some("portal.contoso.com"));
    assert_eq!((web.via, web.rate_per_address), (true, None));
    assert_eq!(web.client_certificate, CertificateFields::Leaf);
}

#[test]
fn every_file_that_a_definition_names_is_watched() {
    let folder = folder();
    let role = "[[role]]\nid = \"5\"\nkind = \"management-point\"\n";
    fs::write(folder.path().join(FILE), format!("{START}{role}")).unwrap();
    let (files, definition) = load_with_files(folder.path(), NOW);
    definition.unwrap();
    let named = [
        FILE,
        "server.pfx",
        "server.password",
        "root.pem",
        "connection-point-ca.pem",
    ];
    for name in named {
        let path = folder.path().join(name);
        let kept = fs::read(&path).unwrap();
        fs::write(&path, "another").unwrap();
        assert_ne!(files.again(), files, "{name}");
        fs::write(&path, kept).unwrap();
    }
    assert_eq!(files.again(), files);
}
