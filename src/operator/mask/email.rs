//! Addresses of electronic mail (RFC 5321): the domain is shown, and the beginning of the local part.

use super::{Cover, Shown};
use crate::operator::text;

/// Shows the domain and the first characters of a local part that is longer than those.
pub(super) struct Email {
    pub(super) first: usize,
}

impl Shown for Email {
    fn mask(&self, whole: &str, cover: &Cover, out: &mut String) -> Option<()> {
        let (local, domain) = parts(whole.trim())?;
        let (beginning, rest) = text::split(local, self.first);
        // The first character of a quoted local part is the quote.
        if !rest.is_empty() && !local.starts_with('"') {
            out.push_str(beginning);
        }
        cover.hide(text::length(rest), out);
        out.push('@');
        out.push_str(domain);
        Some(())
    }
}

/// The local part and the domain of exactly one address.
fn parts(address: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped, mut at_sign) = (false, false, None);
    for (at, byte) in address.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'@' if !quoted && at_sign.replace(at).is_some() => return None,
            _ => {}
        }
    }
    let (local, domain) = address.split_at_checked(at_sign?)?;
    let domain = domain.strip_prefix('@')?;
    (!local.is_empty() && is_domain(domain)).then_some((local, domain))
}

/// Whether a text reads as a domain or an address literal. Of a text around an address, such as
/// `<bob@example.com> and Alice`, nothing may be shown.
fn is_domain(domain: &str) -> bool {
    let fits = |cluster: &str| match cluster.chars().next() {
        Some('-' | '.' | '_' | '[' | ']' | ':') => true,
        first => first.is_some_and(char::is_alphanumeric),
    };
    !domain.is_empty() && text::clusters(domain).all(fits)
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_masks;

    #[test]
    fn the_first_character_and_the_domain_are_shown() {
        assert_masks(
            "mask: email",
            &[
                ("bob@example.com", "b***@example.com"),
                ("ab@x.org", "a***@x.org"),
                (" bob@example.com\n", "b***@example.com"),
                ("bob+tag@[192.0.2.1]", "b***@[192.0.2.1]"),
                ("张伟@例子.公司", "张***@例子.公司"),
                ("e\u{301}mile@exa\u{301}mple.fr", "e\u{301}***@exa\u{301}mple.fr"),
                ("مريم@مثال.مصر", "م***@مثال.مصر"),
            ],
        );
    }

    #[test]
    fn a_short_local_part_is_hidden_whole() {
        assert_masks("mask: email", &[("a@x.org", "***@x.org"), ("张@x.org", "***@x.org")]);
        assert_masks(
            "mask: { kind: email, keep_first: 3 }",
            &[("bob@x.org", "***@x.org"), ("bobo@x.org", "bob***@x.org")],
        );
    }

    #[test]
    fn parameters_adjust_it() {
        assert_masks(
            "mask: { kind: email, keep_first: 0, with: X, length: 5 }",
            &[("cloudysanfrancisco@gmail.com", "XXXXX@gmail.com"), ("nobody", "XXXXX")],
        );
    }

    #[test]
    fn what_is_not_one_address_is_hidden_whole() {
        let others = [
            "",
            "@",
            "a",
            "bob",
            "bob@",
            "@example.com",
            "a@b@example.com",
            "\"bob@example.com",
            "bob@exam ple.com",
            "Bob <bob@example.com>",
            "bob@example.com, al@example.com",
            "bob@\"al@x\"",
            "bob@example.com/Alice",
            "bob@x＠y",
            "bob＠example.com",
        ];
        for other in others {
            assert_masks("mask: email", &[(other, "***")]);
        }
    }

    #[test]
    fn a_quoted_local_part_is_hidden_whole() {
        assert_masks(
            "mask: email",
            &[
                ("\"a@b\"@example.com", "***@example.com"),
                ("\"a\\\"@b\"@example.com", "***@example.com"),
            ],
        );
    }
}
