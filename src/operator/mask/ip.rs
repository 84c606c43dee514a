//! Internet addresses: the part that names the network.

use std::net::IpAddr;

use super::{Cover, Masked, Shown};
use crate::operator::text::Text;

/// Shows three of the four numbers of an IPv4 address, and the first 48 bits of an IPv6 address.
pub(super) struct Ip;

impl Shown for Ip {
    fn mask(&self, whole: Text<'_>, cover: &Cover, out: &mut Masked<'_>) -> Option<()> {
        let address: IpAddr = whole.whole.trim().parse().ok()?;
        out.show(&match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                format!("{a}.{b}.{c}.")
            }
            IpAddr::V6(address) => {
                let [a, b, c, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:")
            }
        });
        cover.hide(1, out);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_masks;

    #[test]
    fn the_network_is_shown() {
        assert_masks(
            "mask: ip",
            &[
                ("203.0.113.7", "203.0.113.*"),
                (" 203.0.113.255 ", "203.0.113.*"),
                ("2001:db8:1:2:3:4:5:6", "2001:db8:1:*"),
                ("2001:DB8::1", "2001:db8:0:*"),
                ("::1", "0:0:0:*"),
                ("::ffff:203.0.113.7", "203.0.113.*"),
            ],
        );
        let policy = "mask: { kind: ip, with: x, length: 3 }";
        assert_masks(policy, &[("203.0.113.7", "203.0.113.xxx")]);
    }

    #[test]
    fn what_is_not_an_address_is_hidden_whole() {
        let others =
            ["", "1", "203.0.113", "203.0.113.256", "203.0.113.7:80", "fe80::1%eth0", "张伟"];
        for other in others {
            assert_masks("mask: ip", &[(other, "*")]);
        }
    }
}
