//! Files and bodies that hold several lists, and what stands around them.

use super::*;

#[test]
fn the_lists_of_a_file_are_read_each_once_whatever_stands_around_them() {
    let ca = authority(KeyAlgorithm::EcdsaP256);
    let lists: Vec<_> = (0..=MAX_LISTS as u64)
        .map(|number| ca.revoke(&list(number, &[])).unwrap())
        .collect();
    let pem = |lists: &[Vec<u8>]| -> String { lists.iter().map(|der| crl_to_pem(der)).collect() };
    let (first, second) = (pem(&lists[..1]), pem(&lists[1..2]));
    let printed = "Certificate Revocation List (CRL):\n        Version 2 (0x1)\n";
    for (file, held) in [
        (format!("{first}{}{second}", ca.to_pem()), &lists[..2]),
        (format!("{first}{second}").repeat(1_000), &lists[..2]),
        (format!("{printed}{first}\n{printed}{second}"), &lists[..2]),
        (format!("\u{feff}{first}"), &lists[..1]),
        (format!("\u{feff}\r\n{printed}{first}"), &lists[..1]),
        (pem(&lists[..MAX_LISTS]).repeat(2), &lists[..MAX_LISTS]),
    ] {
        assert_eq!(read_crl_file(file.as_bytes()).unwrap(), held, "{file:.200}");
    }
    assert_eq!(
        read_crl_file(pem(&lists).as_bytes()).unwrap_err(),
        CrlError::TooMany(MAX_LISTS)
    );
}

#[test]
fn a_list_as_pem_is_read_whole_or_not_at_all() {
    let ca = authority(KeyAlgorithm::EcdsaP256);
    for entries in 500..510 {
        let serials: Vec<_> = (0..entries)
            .map(|serial| format!("01{serial:08x}"))
            .collect();
        let serials: Vec<_> = serials.iter().map(String::as_str).collect();
        let der = ca.revoke(&list(1, &serials)).unwrap();
        let pem = crl_to_pem(&der);
        let one_line: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let one_line = format!("-----BEGIN X509 CRL-----\n{one_line}\n-----END X509 CRL-----");
        for pem in [pem.replace('\n', "\r\n"), pem, one_line] {
            assert_eq!(read_crl_file(pem.as_bytes()).unwrap(), [&der[..]]);
        }
    }
    // The padding ends a piece that is decoded.
    let padded = format!("{}\n\n\nQQ==\n{}", "MIIB".repeat(1022), "QUJD".repeat(9));
    for (inside, end, said) in [
        ("QUJD", "", "a section has no end"),
        (
            "QUJD",
            "-----END CERTIFICATE-----",
            "a section does not end as it begins",
        ),
        ("QUJ*", "-----END X509 CRL-----", "nvalid"),
        ("QUJ", "-----END X509 CRL-----", "nvalid"),
        (
            &padded,
            "-----END X509 CRL-----",
            "text follows its padding",
        ),
    ] {
        let file = format!("-----BEGIN X509 CRL-----\n{inside}\n{end}\n");
        let error = read_crl_file(file.as_bytes()).unwrap_err().to_string();
        assert!(
            error.starts_with("is not a well-formed CRL: its PEM cannot be read: "),
            "{error}"
        );
        assert!(error.contains(said), "{error}");
    }
}
