//! Server certificates of every kind of key and file, as openssl as a client sees them.

use std::path::Path;

use opencmg::pki::{load_pem, load_pfx};
use opencmg::tls::NameSettings;

use super::server::{Pki, Server, openssl};
use crate::trust_matrix::pki::{Ca, Folder, authority, key, run};

const EXTENSIONS: &str = "basicConstraints=critical,CA:false\nextendedKeyUsage=serverAuth\n\
                          subjectAltName=DNS:gw.test,DNS:*.gw.test\n";

#[tokio::test]
async fn server_certificates_of_every_kind_of_key_and_file_are_served_and_verified() {
    let (pki, folder) = (Pki::new(), Folder::new());
    let root = Ca::root(authority("Server Root"), key());
    let [outer, inner] = ["Outer", "Inner"].map(authority);
    let outer = root.below(outer, key());
    let inner = outer.below(inner, key());
    for (name, ca) in [("root", &root), ("outer", &outer), ("inner", &inner)] {
        folder.authority(name, ca);
    }
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    let above = [read("root.pem"), read("outer.pem"), read("inner.pem")].concat();
    std::fs::write(folder.path("above.pem"), &above).unwrap();
    for (kind, algorithm, files) in [
        (
            "rsa2048",
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            " -legacy",
        ),
        (
            "rsa4096",
            "-algorithm RSA -pkeyopt rsa_keygen_bits:4096",
            "",
        ),
        ("p256", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256", ""),
        (
            "p384",
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
            " -legacy -descert",
        ),
    ] {
        folder.openssl(kind, algorithm, "inner", EXTENSIONS, "-sha256");
        let [certificate, private] = [format!("{kind}.pem"), format!("{kind}.key")];
        let export = "-certfile above.pem -out server.pfx -passout pass:secret";
        run(
            folder.0.path(),
            &format!("pkcs12 -export -inkey {private} -in {certificate} {export}{files}"),
        );
        let from_pfx = load_pfx(&read("server.pfx"), "secret").unwrap();
        // The root first, the leaf last, and the issuers the wrong way round.
        let from_pem = load_pem(
            &[above.clone(), read(&certificate)].concat(),
            &read(&private),
        )
        .unwrap();
        assert_eq!(from_pfx, from_pem, "{kind}");
        assert_eq!(from_pem.chain.len(), 3, "{kind}: leaf, inner, outer");
        let settings = NameSettings {
            key_pairs: vec![from_pfx],
            ..NameSettings::default()
        };
        let server = Server::start(&pki, vec![settings], true).await;
        let root = folder.path("root.pem");
        verify(&server, &root, kind).await;
        server.stop().await;
    }
}

/// Asks with openssl for names that the certificate covers, and for one that it does not.
async fn verify(server: &Server, root: &Path, kind: &str) {
    for version in ["-tls1_2", "-tls1_3"] {
        for (host, verified) in [
            ("gw.test", true),
            ("a.gw.test", true),
            ("b.a.gw.test", false),
        ] {
            let arguments = [
                "-verify_return_error",
                "-verify_hostname",
                host,
                "-CAfile",
                root.to_str().unwrap(),
            ];
            // An unknown name would be refused; what a client makes of the certificate is asked here.
            let out = openssl(
                server,
                &[&arguments[..], &["-servername", "gw.test", version]].concat(),
            )
            .await;
            assert_eq!(
                out.contains("Verification: OK"),
                verified,
                "{kind} {host}: {out}"
            );
        }
    }
}
