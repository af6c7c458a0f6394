//! The PROXY protocol v2 header that load balancers put before a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The fixed part: signature, version and command, family and protocol, length.
const FIXED: usize = 16;

/// The longest header taken, in bytes: addresses and a few type-length-value fields.
const MAX: usize = 4096;

/// Reads a header and returns the address that it gives, or `None` where it gives none (a health check of the
/// load balancer, or an address family that is not the internet's). Not a byte behind it is read.
///
/// # Errors
/// The source did not begin with a header of version 2, or the stream failed.
pub(super) async fn read<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; FIXED];
    io.read_exact(&mut header).await?;
    // Without the signature the length means nothing.
    if !header.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(bad("the signature is missing"));
    }
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if FIXED + length > MAX {
        return Err(bad("the header is too long"));
    }
    header.resize(FIXED + length, 0);
    io.read_exact(&mut header[FIXED..]).await?;
    let header = Header::try_from(header.as_slice()).map_err(|error| bad(&error.to_string()))?;
    Ok(match (header.command, header.addresses) {
        (Command::Local, _) => None,
        (Command::Proxy, Addresses::IPv4(ip)) => Some(SocketAddr::new(
            IpAddr::V4(ip.source_address),
            ip.source_port,
        )),
        (Command::Proxy, Addresses::IPv6(ip)) => Some(SocketAddr::new(
            IpAddr::V6(ip.source_address),
            ip.source_port,
        )),
        (Command::Proxy, Addresses::Unspecified | Addresses::Unix(_)) => None,
    })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Protocol, Type, Version};

    use super::*;

    fn header(command: Command, source: &str) -> Vec<u8> {
        let source: SocketAddr = source.parse().unwrap();
        let destination = SocketAddr::new(source.ip(), 443);
        Builder::with_addresses(
            Version::Two | command,
            Protocol::Stream,
            (source, destination),
        )
        .write_tlv(Type::NoOp, &[0; 20])
        .unwrap()
        .build()
        .unwrap()
    }

    async fn read_from(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let mut rest = bytes;
        let read = read(&mut rest).await;
        (read, rest.len())
    }

    #[tokio::test]
    async fn a_header_gives_the_clients_address_and_not_a_byte_behind_it_is_read() {
        for source in ["192.0.2.7:4711", "[2001:db8::7]:4711"] {
            let mut bytes = header(Command::Proxy, source);
            bytes.extend_from_slice(b"\x16\x03\x01");
            let (read, rest) = read_from(&bytes).await;
            assert_eq!(read.unwrap(), Some(source.parse().unwrap()));
            assert_eq!(rest, 3);
        }
    }

    #[tokio::test]
    async fn a_local_connection_keeps_its_own_address() {
        let (read, rest) = read_from(&header(Command::Local, "192.0.2.7:1")).await;
        assert_eq!((read.unwrap(), rest), (None, 0));
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let whole = header(Command::Proxy, "192.0.2.7:1");
        let mut long = whole.clone();
        long[14] = 0xff;
        let mut version = whole.clone();
        version[12] = 0x11;
        let cases: [&[u8]; 5] = [
            b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaa",
            &whole[..20],
            &long,
            &version,
        ];
        for case in cases {
            assert!(read_from(case).await.0.is_err(), "{case:?}");
        }
    }
}
