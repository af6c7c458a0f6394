//! Wraps the older forms of private keys as PKCS#8 (RFC 5208 §5), the one form that the platform's TLS takes.

/// `rsaEncryption` with NULL parameters.
const RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
/// `id-ecPublicKey`.
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// Private key length and curve: P-256, P-384, P-521.
const CURVES: [(u8, &[u8]); 3] = [
    (
        32,
        &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
    ),
    (48, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]),
    (66, &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23]),
];

/// Wraps an RSA private key (RFC 8017 A.1.2).
pub(super) fn from_pkcs1(der: &[u8]) -> Vec<u8> {
    wrap(RSA.to_vec(), der)
}

/// Wraps an elliptic-curve private key (RFC 5915 §3); `None` for a curve that is not known.
pub(super) fn from_sec1(der: &[u8]) -> Option<Vec<u8>> {
    // SEQUENCE { INTEGER 1, OCTET STRING key, … }: the length of the key tells the curve.
    let version = der
        .windows(3)
        .position(|bytes| bytes == [0x02, 0x01, 0x01])?;
    let (0x04, length) = (*der.get(version + 3)?, *der.get(version + 4)?) else {
        return None;
    };
    let (_, curve) = CURVES.iter().find(|(known, _)| *known == length)?;
    Some(wrap(tagged(0x30, &[EC, curve].concat()), der))
}

fn wrap(algorithm: Vec<u8>, key: &[u8]) -> Vec<u8> {
    let version = vec![0x02, 0x01, 0x00];
    tagged(0x30, &[version, algorithm, tagged(0x04, key)].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let used: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | used.len() as u8);
            out.extend(used);
        }
    }
    out.extend_from_slice(content);
    out
}
