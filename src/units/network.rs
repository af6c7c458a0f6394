//! Networks in CIDR notation.

use std::net::IpAddr;

/// A network in CIDR notation; a single address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: u128,
    mask: u128,
}

impl Network {
    /// Parses `192.0.2.0/24`, `2001:db8::/32` or a single address; no bit may be set beyond the prefix.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let (address, before): (_, u32) = match address.parse().ok()? {
            IpAddr::V4(address) => (IpAddr::V6(address.to_ipv6_mapped()), 96),
            IpAddr::V6(address) => (IpAddr::V6(address), 0),
        };
        let length = length.unwrap_or(128 - before);
        let host = 128_u32.checked_sub(before + length)?;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        let address = number_of(address);
        (address & !mask == 0).then_some(Self { address, mask })
    }

    /// Whether an address lies in the network; an IPv4-mapped address is its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        number_of(address) & self.mask == self.address
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let contains = |network: &str, address: &str| {
            let network = Network::parse(network).unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(!contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("2001:db8::/32", "2001:db8:1::1"));
        assert!(contains("0.0.0.0/0", "192.0.2.1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "2001:db8::1"));
        for wrong in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "a/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
