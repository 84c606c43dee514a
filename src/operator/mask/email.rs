//! Addresses of electronic mail (RFC 5321): the domain is shown, and the beginning of the local part.

use super::{Cover, Masked, Shown};
use crate::operator::text::Text;

/// Shows the domain and the first characters of a local part that is longer than those.
pub(super) struct Email {
    pub(super) first: usize,
}

impl Shown for Email {
    fn mask(&self, whole: Text<'_>, cover: &Cover, out: &mut Masked<'_>) -> Option<()> {
        let (local, domain) = parts(whole.whole.trim())?;
        if !is_domain(whole.part(domain.strip_prefix('@')?)) {
            return None;
        }
        let (beginning, rest) = whole.part(local).split(self.first);
        // The first character of a quoted local part is the quote.
        if !rest.whole.is_empty() && !local.starts_with('"') {
            out.show(beginning.whole);
        }
        cover.hide(rest.length(), out);
        out.show(domain);
        Some(())
    }
}

/// The local part of an address, and the rest from the at sign on.
fn parts(address: &str) -> Option<(&str, &str)> {
    let first = address.bytes().position(|byte| matches!(byte, b'@' | b'"'))?;
    let at_sign = match address.as_bytes().get(first) {
        Some(b'"') => after_quotes(address)?,
        _ => first,
    };
    address.split_at_checked(at_sign).filter(|(local, _)| !local.is_empty())
}

/// The only at sign that is not in quotes.
fn after_quotes(address: &str) -> Option<usize> {
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
    at_sign
}

/// Letters, digits and what separates labels or stands in an address literal: nothing that begins another
/// address or a remark.
fn is_domain(domain: Text<'_>) -> bool {
    let separates = |byte| matches!(byte, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    let ascii = |byte: u8| byte.is_ascii_alphanumeric() || separates(byte);
    let all = match domain.bytes() {
        Some(bytes) => bytes.iter().all(|byte| ascii(*byte)),
        // Some letters take the sign or space behind them into their cluster.
        None => {
            let fits =
                |c: char| !c.is_whitespace() && c != '＠' && (!c.is_ascii() || ascii(c as u8));
            let begins = |c: char| c.is_alphanumeric() || c.is_ascii();
            domain.whole.chars().all(fits)
                && domain.clusters().all(|cluster| cluster.chars().next().is_some_and(begins))
        }
    };
    all && !domain.whole.is_empty()
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
            "bob@x\u{d4e}@example.com",
            "bob@example.com\u{d4e} alice",
            "bob@example.com\u{d4e}\u{3000}alice",
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
