//! Which addresses may be dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::lookup_host;

use super::{FetchError, Url};
use crate::units::Network;

/// The addresses of a host, asked for once.
pub(super) async fn resolve(url: &Url) -> Result<Vec<SocketAddr>, FetchError> {
    if let Ok(address) = url.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, url.port)]);
    }
    let addresses = lookup_host((url.host.as_str(), url.port)).await;
    let addresses: Vec<_> = addresses
        .map_err(|error| FetchError::Name(error.to_string()))?
        .collect();
    match addresses.is_empty() {
        true => Err(FetchError::Name("it has no address".to_owned())),
        false => Ok(addresses),
    }
}

/// Those of a host's addresses that may be dialled.
pub(super) fn permitted(
    url: &Url,
    addresses: Vec<SocketAddr>,
    allow: &[Network],
) -> Result<Vec<SocketAddr>, FetchError> {
    let may = |address: &SocketAddr| is_permitted(address.ip(), allow);
    let permitted: Vec<_> = addresses.iter().copied().filter(may).collect();
    match (permitted.is_empty(), addresses.first()) {
        (false, _) => Ok(permitted),
        (true, Some(inside)) => Err(FetchError::Inside(inside.ip())),
        (true, None) => Err(FetchError::Name(url.host.clone())),
    }
}

/// Judges a host that is an address, or the proxy's own, where a proxy resolves names.
///
/// # Errors
/// Also if it could be an address in a form that only some resolvers know, such as `0x7f.1` or one with a zone.
pub(super) fn judge_literal(url: &Url, allow: &[Network]) -> Result<(), FetchError> {
    let host = url.host.trim_end_matches('.').to_ascii_lowercase();
    let last = host.rsplit('.').next().unwrap_or_default();
    let address = match host.parse() {
        Ok(address) => address,
        Err(_) if last == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        // No top-level domain begins with a digit.
        Err(_) if host.contains(':') || last.starts_with(|c: char| c.is_ascii_digit()) => {
            let what = "its host is neither a name nor an address in the common form";
            return Err(FetchError::Url(url.to_string(), what.to_owned()));
        }
        Err(_) => return Ok(()),
    };
    match is_permitted(address, allow) {
        true => Ok(()),
        false => Err(FetchError::Inside(address)),
    }
}

fn is_permitted(address: IpAddr, allow: &[Network]) -> bool {
    allow.iter().any(|network| network.contains(address)) || is_public(address)
}

/// Whether an address is one of the internet's: what is reserved, private, local or of many is not.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inside) => is_public_v4(inside),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    /// Where Azure's virtual machines reach their host: as good as link-local, in spite of its number.
    const AZURE_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    let [a, b, c, _] = address.octets();
    let reserved = match a {
        0 | 10 | 127 | 224.. => true,
        100 => (64..128).contains(&b), // shared by providers, RFC 6598
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => b == 168 || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99),
        198 => b == 18 || b == 19 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => false,
    };
    !reserved && address != AZURE_HOST
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Of 2000::/3 all but Teredo, which leads to any IPv4 address, and what is for documentation.
    let global = first & 0xe000 == 0x2000;
    global && !(first == 0x2001 && (second == 0 || second == 0xdb8))
}

/// The IPv4 address that an IPv6 address stands for: mapped, translated (RFC 6052) or 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] if high != 0 => Some(of(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_a_network_are_told_from_those_of_the_internet() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "fec0::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "8.8.8.8",
            "172.32.0.1",
            "168.63.129.17",
            "100.128.0.1",
            "192.0.1.1",
            "2600::1",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
        let loopback = [Network::parse("127.0.0.0/8").unwrap()];
        assert!(is_permitted("127.0.0.1".parse().unwrap(), &loopback));
        assert!(!is_permitted("10.0.0.1".parse().unwrap(), &loopback));
    }

    #[test]
    fn of_several_addresses_only_those_that_may_are_dialled() {
        let url = Url::parse("http://crl.test/").unwrap();
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 80);
        let mixed = vec![address("10.0.0.1"), address("8.8.8.8")];
        assert_eq!(permitted(&url, mixed, &[]).unwrap(), [address("8.8.8.8")]);
        let error = permitted(&url, vec![address("10.0.0.1")], &[]).unwrap_err();
        assert_eq!(error, FetchError::Inside("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_a_proxy_could_take_for_an_address_inside_is_not_asked_of_it() {
        let loopback = [Network::parse("127.0.0.0/8").unwrap()];
        let judge = |host: &str, allow: &[Network]| {
            let url = Url::parse(&format!("http://{host}/")).unwrap();
            judge_literal(&url, allow)
        };
        for own in ["127.0.0.1", "127.0.0.1.", "localhost", "a.LocalHost."] {
            let inside = FetchError::Inside("127.0.0.1".parse().unwrap());
            assert_eq!(judge(own, &[]), Err(inside), "{own}");
            assert_eq!(judge(own, &loopback), Ok(()), "{own}");
        }
        for odd in ["2130706433", "0x7f000001", "0x7f.1", "127.1", "10.0.0.0x1."] {
            let error = judge(odd, &loopback).unwrap_err();
            assert!(matches!(error, FetchError::Url(..)), "{odd}: {error}");
        }
        for outside in ["crl.test", "crl.test.", "8.8.8.8", "3.test"] {
            assert_eq!(judge(outside, &[]), Ok(()), "{outside}");
        }
    }
}
