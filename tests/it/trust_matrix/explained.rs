//! `opencmg explain-certificate`: it says of each row what the gateway says, and what is wrong with a file.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use opencmg::pki::issue::certificates_to_pem;

use super::clients::Outcome;
use super::pki::{Ca, Folder, authority, client, key};
use super::rows::Matrix;

fn explain(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencmg"));
    command
        .arg("explain-certificate")
        .args(arguments)
        .current_dir(folder);
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A `service.toml` that holds a trust and nothing else, which is enough to be judged by.
fn service(
    folder: &Folder,
    anchors: &[opencmg::pki::CertificateDer<'static>],
    intermediates: &[opencmg::pki::CertificateDer<'static>],
    lists: &[Vec<u8>],
) {
    std::fs::create_dir(folder.path("service")).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(folder.path(&format!("service/{name}")), text).unwrap()
    };
    write("anchors.pem", certificates_to_pem(anchors));
    write("intermediates.pem", certificates_to_pem(intermediates));
    for (index, list) in lists.iter().enumerate() {
        std::fs::write(folder.path(&format!("service/{index}.crl")), list).unwrap();
    }
    let crls: Vec<_> = (0..lists.len())
        .map(|index| format!("\"{index}.crl\""))
        .collect();
    let revocation = match lists.is_empty() {
        true => "check = false".to_owned(),
        false => format!("stale = \"deny\"\ncrls = [{}]", crls.join(", ")),
    };
    let files = "anchors = [\"anchors.pem\"]\nintermediates = [\"intermediates.pem\"]";
    write(
        "service.toml",
        format!(
            "name = \"gw.opencmg.test\"\n[trust]\nmax-anchors = 16\nmax-intermediates = 64\n{files}\n[trust.revocation]\n{revocation}\n"
        ),
    );
}

#[test]
fn explain_certificate_says_of_each_kind_of_certificate_what_the_gateway_says() {
    for (matrix, rows) in [(Matrix::of_paths(), 35), (Matrix::of_revocation(), 8)] {
        assert!(matrix.rows.len() >= rows, "only {} rows", matrix.rows.len());
        service(
            &matrix.folder,
            &matrix.anchors,
            &matrix.intermediates,
            &matrix.lists,
        );
        for row in &matrix.rows {
            let file = row.shown.chain.to_str().unwrap();
            let out = explain(
                matrix.folder.0.path(),
                &[file, "--config", "service/service.toml"],
            );
            let said = text(&out.stdout);
            let all = format!("{}: {said}{}", row.what, text(&out.stderr));
            let reason = match row.alerted[0] {
                Outcome::Served => None,
                // A key that the client is not even asked for.
                Outcome::Refused("certificate-missing") => Some("certificate-invalid"),
                Outcome::Refused(reason) | Outcome::Alert(_, reason) => Some(reason),
            };
            assert_eq!(
                out.status.code(),
                Some(i32::from(reason.is_some())),
                "{all}"
            );
            let failed = said
                .lines()
                .filter(|line| line.starts_with("FAIL "))
                .count();
            match reason {
                None => {
                    assert!(said.contains("\naccepted until "), "{all}");
                    assert_eq!(failed, 0, "{all}");
                }
                Some(reason) => {
                    assert!(
                        said.contains(&format!("\nrefused: {reason}: certificate \"")),
                        "{all}"
                    );
                    assert!(
                        said.contains("\nthe client is answered 403 CMGService_ClientCertificate"),
                        "{all}"
                    );
                    assert!(failed >= 1, "no check says why: {all}");
                }
            }
        }
    }
}

#[test]
fn a_missing_intermediate_is_named_with_the_place_where_it_may_be_had() {
    let folder = Folder::new();
    let root = Ca::root(authority("Root"), key());
    let issuing = root.below(authority("Issuing"), key());
    service(&folder, std::slice::from_ref(&root.der), &[], &[]);
    folder.authority("issuing", &issuing);
    let extensions = "basicConstraints=critical,CA:false\nextendedKeyUsage=clientAuth\n\
                      authorityInfoAccess=caIssuers;URI:http://pki.corp.test/issuing.crt\n";
    folder.openssl(
        "pc",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "issuing",
        extensions,
        "-sha256",
    );
    let out = explain(
        folder.0.path(),
        &["pc.pem", "--config", "service/service.toml"],
    );
    let said = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{said}");
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].starts_with(
            "pc.pem: 1 certificate, judged as those of a client by the trust of gw.opencmg.test at "
        ),
        "{said}"
    );
    let tail = &lines[lines.len() - 10..];
    assert_eq!(
        tail,
        [
            "FAIL path        \"CN=pc\" is issued by \"CN=Issuing\", which is not known here with the key that signed",
            tail[1],
            "ok   usage       for client authentication, or for anything",
            "ok   issuers     every issuer is a CA that may sign certificates",
            "ok   path length no CA has more CAs below it than it allows",
            "ok   algorithms  every key and signature is of a kind and strength that is accepted",
            "     the missing certificate may be had at http://pki.corp.test/issuing.crt",
            "",
            "refused: certificate-unknown-issuer: certificate \"CN=pc\" is issued by \"CN=Issuing\", which is no trust anchor \
             or intermediate here and was not presented",
            "the client is answered 403 CMGService_ClientCertificateUnknownIssuer",
        ]
    );
    assert!(
        tail[1].starts_with("ok   dates       valid now, all of them until 20"),
        "{said}"
    );
    // With the intermediate behind it, and in front of it, it is accepted.
    let [leaf, intermediate] =
        ["pc.pem", "issuing.pem"].map(|name| std::fs::read_to_string(folder.path(name)).unwrap());
    for chain in [
        format!("{leaf}{intermediate}"),
        format!("{intermediate}{leaf}"),
    ] {
        std::fs::write(folder.path("chain.pem"), chain).unwrap();
        let out = explain(
            folder.0.path(),
            &["chain.pem", "--config", "service/service.toml"],
        );
        assert!(out.status.success(), "{}", text(&out.stdout));
        assert!(
            text(&out.stdout).contains("\n3  \"CN=Root\", a trust anchor\n"),
            "{}",
            text(&out.stdout)
        );
    }
}

#[test]
fn a_certificate_to_explain_may_be_pem_der_or_pfx_and_anything_else_is_told() {
    let folder = Folder::new();
    let root = Ca::root(authority("Root"), key());
    folder.client("pc", &root, &client("pc.corp.test"), &key(), &[&root.der]);
    let run = |arguments: &str| super::pki::run(folder.0.path(), arguments);
    run("x509 -in pc.leaf.pem -outform der -out pc.der");
    run("pkcs12 -export -in pc.pem -inkey pc.key -out pc.pfx -passout pass:secret");
    run("pkcs12 -export -legacy -nokeys -in pc.pem -out nokey.pfx -passout pass:");
    std::fs::write(folder.path("password"), "secret\n").unwrap();
    std::fs::write(folder.path("wrong"), "other\n").unwrap();
    std::fs::write(folder.path("page.cer"), "<html>404 Not Found</html>").unwrap();
    std::fs::write(
        folder.path("cut.pem"),
        "-----BEGIN CERTIFICATE-----\nMIIB\n",
    )
    .unwrap();
    std::fs::write(folder.path("cp.toml"), "[connection-point]\n[[gateway]]\n").unwrap();
    // Roots that the file holds stand in for the trust that is not named.
    for (arguments, code, said) in [
        (&["pc.pem"] as &[&str], 0, "accepted until "),
        (&["nokey.pfx"], 0, "accepted until "),
        (
            &["pc.pfx", "--password-file", "password"],
            0,
            "accepted until ",
        ),
        (&["pc.der"], 1, "refused: certificate-unknown-issuer: "),
        (
            &["pc.pfx"],
            1,
            "opencmg: pc.pfx: the PFX file has a password (--password-file is needed)\n",
        ),
        (
            &["pc.pfx", "--password-file", "wrong"],
            1,
            "opencmg: pc.pfx\n  wrong password\n",
        ),
        (
            &["page.cer"],
            1,
            "opencmg: page.cer: holds no certificate that can be read (PEM, DER and PFX are allowed)\n",
        ),
        (
            &["cut.pem"],
            1,
            "opencmg: cut.pem\n  the PEM file cannot be read: ",
        ),
        (
            &["absent"],
            1,
            "opencmg: absent cannot be read\n  No such file",
        ),
        (
            &["pc.pem", "--config", "absent.toml"],
            78,
            "absent.toml: cannot be read: ",
        ),
        (
            &["pc.pem", "--config", "cp.toml"],
            78,
            "cp.toml: configures a connection point, which verifies no client (gateway.toml or service.toml is needed)\n",
        ),
    ] {
        let out = explain(folder.0.path(), arguments);
        let all = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(all.contains(said), "{arguments:?}: {all}");
    }
}
