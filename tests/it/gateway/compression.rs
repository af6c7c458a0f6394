//! What the gateway lets into the compression table of a tunnel (RFC 7541), read from the bytes of the tunnel.

use super::rig::{Plan, mutual, seen};

/// The header blocks of what an HTTP/2 client sent: of each HEADERS frame its fragment.
fn header_blocks(mut sent: &[u8]) -> Vec<&[u8]> {
    const HEADERS: u8 = 1;
    const END_HEADERS: u8 = 4;
    const PADDED_OR_PRIORITY: u8 = 0x28;
    let mut blocks = Vec::new();
    sent = sent
        .strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    while let Some((head, rest)) = sent.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        if kind == HEADERS {
            assert_eq!(
                (flags & PADDED_OR_PRIORITY, flags & END_HEADERS),
                (0, END_HEADERS)
            );
            blocks.push(payload);
        }
        sent = rest;
    }
    blocks
}

/// RFC 7541 §5.1.
fn integer(block: &mut &[u8], prefix: u32) -> usize {
    let most = (1 << prefix) - 1;
    let mut value = usize::from(block[0]) & most;
    *block = &block[1..];
    if value == most {
        let mut shift = 0;
        loop {
            let byte = usize::from(block[0]);
            *block = &block[1..];
            value += (byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    value
}

/// RFC 7541 §5.2; returns the encoded length.
fn string(block: &mut &[u8]) -> usize {
    let length = integer(block, 7);
    *block = &block[length..];
    length
}

/// The lengths of the values in a block that enter the table (RFC 7541 §6.2.1), and of the other literal ones.
fn literals(mut block: &[u8]) -> (Vec<usize>, Vec<usize>) {
    let (mut kept, mut other) = (Vec::new(), Vec::new());
    while let Some(first) = block.first() {
        let prefix = match first {
            0x80.. => {
                integer(&mut block, 7);
                continue;
            }
            0x40.. => 6,
            0x20.. => {
                integer(&mut block, 5);
                continue;
            }
            _ => 4,
        };
        let into = match first {
            0x40.. => &mut kept,
            _ => &mut other,
        };
        if integer(&mut block, prefix) == 0 {
            string(&mut block);
        }
        into.push(string(&mut block));
    }
    (kept, other)
}

#[tokio::test]
async fn a_client_certificate_goes_through_a_tunnel_once_and_is_a_reference_from_then_on() {
    let rig = Plan::new().start().await;
    let web = rig.client().named("web.opencmg.test");
    for _ in 0..12 {
        let seen = seen(&web.get("/app/x").await);
        assert!(seen.fields.contains_key("client-cert"));
        assert!(seen.fields.contains_key("client-cert-chain"));
    }
    seen(&rig.client().get(&mutual("SMS_MP/x")).await);
    let heard = rig.heard.lock().unwrap().clone();
    let (mut sent, mut count) = (0, 0);
    for tunnel in &heard {
        let mut certificates = 0;
        for (kept, other) in header_blocks(tunnel).into_iter().map(literals) {
            count += 1;
            // A certificate takes far more room than any other field of these requests.
            assert!(other.iter().all(|length| *length < 200), "{other:?}");
            certificates += kept.iter().filter(|length| **length > 200).count();
        }
        // The leaf and its issuers, or no request came this way.
        assert!(matches!(certificates, 0 | 2), "{certificates}");
        sent += certificates;
    }
    assert!(sent >= 2, "the certificate was not sent");
    assert!(count >= 15, "hellos, roles and 13 requests, not {count}");
    rig.finish().await;
}
