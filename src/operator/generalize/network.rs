//! Internet addresses as their network.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::json::{Value, write_string};
use crate::operator::{Operator, Refusal, Scratch, characters};

/// Keeps the first bits of an address: `203.0.113.0/24`.
pub(super) struct Network {
    /// At most 32.
    pub(super) v4: u32,
    /// At most 128.
    pub(super) v6: u32,
}

impl Operator for Network {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Scratch { text, other, .. } = scratch;
        let address = characters(value, text)?.trim().parse::<IpAddr>();
        other.clear();
        // An IPv4 address mapped into IPv6 is the IPv4 address. Writing to a `String` cannot fail.
        let _ = match address.map_err(|_| Refusal::WrongType)?.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.v4)).unwrap_or(0);
                write!(other, "{}/{}", Ipv4Addr::from_bits(address.to_bits() & mask), self.v4)
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(self.v6)).unwrap_or(0);
                write!(other, "{}/{}", Ipv6Addr::from_bits(address.to_bits() & mask), self.v6)
            }
        };
        write_string(out, other);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_gives, assert_refuses, assert_wrong};
    use super::*;

    #[test]
    fn addresses_become_networks() {
        assert_gives(
            "generalize: { ip_prefix: 24 }",
            &[
                (r#""203.0.113.7""#, "203.0.113.0/24"),
                (r#"" 203.0.113.7 ""#, "203.0.113.0/24"),
                (r#""2001:db8:1:2::7""#, "2001:db8:1::/48"),
                (r#""::ffff:203.0.113.7""#, "203.0.113.0/24"),
            ],
        );
        assert_gives(
            "generalize: { ip_prefix: 0, ip6_prefix: 0 }",
            &[(r#""203.0.113.7""#, "0.0.0.0/0"), (r#""2001:db8::7""#, "::/0")],
        );
        assert_gives(
            "generalize: { ip_prefix: 32, ip6_prefix: 128 }",
            &[(r#""203.0.113.7""#, "203.0.113.7/32"), (r#""2001:db8::7""#, "2001:db8::7/128")],
        );
        assert_gives("generalize: { ip_prefix: 17 }", &[(r#""10.0.255.1""#, "10.0.128.0/17")]);
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for input in [r#""""#, "1", "1.5", r#""203.0.113.7:80""#, r#""fe80::1%eth0""#, r#""张伟""#]
        {
            assert_refuses("generalize: { ip_prefix: 24 }", input, Refusal::WrongType);
        }
    }

    #[test]
    fn mistakes_are_reported() {
        assert_wrong("generalize: { ip_prefix: 33 }", "from 0 to 32");
        assert_wrong("generalize: { ip_prefix: /24 }", "from 0 to 32");
        assert_wrong("generalize: { ip_prefix: 24, ip6_prefix: 129 }", "from 0 to 128");
    }
}
