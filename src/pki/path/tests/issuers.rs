//! What a certificate must be to have issued another.

use super::*;

/// A CA below `root` made with rcgen, for what an [`Ca`] does not make.
fn raw_ca(
    parent: &rcgen::Issuer<'_, rcgen::KeyPair>,
    name: &str,
    is_ca: IsCa,
) -> (
    CertificateDer<'static>,
    rcgen::Issuer<'static, rcgen::KeyPair>,
) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = is_ca;
    params.not_before = time::OffsetDateTime::from_unix_timestamp(0).unwrap();
    let made = params.signed_by(&key, parent).unwrap();
    (made.der().clone(), rcgen::Issuer::new(params, key))
}

fn raw_root() -> (
    CertificateDer<'static>,
    rcgen::Issuer<'static, rcgen::KeyPair>,
) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).unwrap();
    (made.der().clone(), rcgen::Issuer::new(params, key))
}

#[test]
fn an_issuer_that_is_no_ca_is_named() {
    let (root, issuer) = raw_root();
    let (middle, issuer) = raw_ca(&issuer, "No CA", IsCa::ExplicitNoCa);
    let (leaf, _) = raw_ca(&issuer, "pc-1.test", IsCa::ExplicitNoCa);
    let anchors = Anchors::build(&[root], &[], Limits::default()).unwrap();
    assert_fault(
        verify(&anchors, &[leaf, middle]),
        Reason::CertificateInvalid,
        "CN=No CA",
        "is not a CA's",
    );
}

#[test]
fn an_issuer_that_may_not_sign_certificates_is_named() {
    let (root, issuer) = raw_root();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Only CRLs");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let middle = params.signed_by(&key, &issuer).unwrap().der().clone();
    let (leaf, _) = raw_ca(
        &rcgen::Issuer::new(params, key),
        "pc-1.test",
        IsCa::ExplicitNoCa,
    );
    let anchors = Anchors::build(&[root], &[], Limits::default()).unwrap();
    assert_fault(
        verify(&anchors, &[leaf, middle]),
        Reason::CertificateInvalid,
        "CN=Only CRLs",
        "is not a CA's",
    );
}

#[test]
fn a_path_longer_than_a_ca_allows_is_refused() {
    let (root, issuer) = raw_root();
    let (first, issuer) = raw_ca(&issuer, "Short", IsCa::Ca(BasicConstraints::Constrained(0)));
    let (second, issuer) = raw_ca(&issuer, "Deep", IsCa::Ca(BasicConstraints::Unconstrained));
    let (leaf, _) = raw_ca(&issuer, "pc-1.test", IsCa::ExplicitNoCa);
    let anchors = Anchors::build(&[root], &[], Limits::default()).unwrap();
    assert_fault(
        verify(&anchors, &[leaf, second, first]),
        Reason::CertificateInvalid,
        "CN=Short",
        "allows 0 CA certificates below it",
    );
}
