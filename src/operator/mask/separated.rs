//! Numbers written in groups: phone, payment card, national identifier, IBAN.

use std::ops::RangeInclusive;

use super::{Cover, Masked, Shown};
use crate::operator::text::Text;

/// Shows the first and last digits, or digits and letters, and the separators. All else is hidden.
pub(super) struct Separated {
    first: usize,
    last: usize,
    /// With fewer or more digits and letters it is hidden whole.
    length: RangeInclusive<usize>,
    /// Letters count like digits.
    letters: bool,
    /// What it must look like besides; else it is hidden whole.
    form: Form,
}

#[derive(PartialEq, Eq)]
enum Form {
    Any,
    /// Nothing but digits and separators: of a text around a card number, the last digits may be those of
    /// its security code.
    Digits,
    /// A country and two check digits first.
    Country,
}

impl Separated {
    pub(super) fn phone(first: usize, last: usize) -> Self {
        Separated { first, last, length: 7..=usize::MAX, letters: false, form: Form::Any }
    }

    /// As PCI DSS 3.4.1 wants it, where `first` is at most 6 and `last` at most 4. ISO/IEC 7812 numbers
    /// have 12 to 19 digits in practice.
    pub(super) fn payment_card(first: usize, last: usize) -> Self {
        Separated { first, last, length: 12..=19, letters: false, form: Form::Digits }
    }

    pub(super) fn national_id(first: usize, last: usize) -> Self {
        Separated { first, last, length: 8..=usize::MAX, letters: true, form: Form::Any }
    }

    /// ISO 13616: at most 34 characters; the shortest, of Norway, has 15.
    pub(super) fn iban(first: usize, last: usize) -> Self {
        Separated { first, last, length: 15..=34, letters: true, form: Form::Country }
    }

    #[inline(always)]
    fn class_of_byte(&self, byte: u8) -> Class {
        match byte {
            b'0'..=b'9' => Class::Counted,
            b' ' | b'\t'..=b'\r' | b'+' | b'-' | b'.' | b'(' | b')' | b'/' => Class::Separator,
            _ if self.letters && byte.is_ascii_alphabetic() => Class::Counted,
            _ => Class::Other,
        }
    }

    /// A separator that a mark is combined with may be anything.
    fn class_of(&self, cluster: &str) -> Class {
        if let [byte] = cluster.as_bytes() {
            return self.class_of_byte(*byte);
        }
        if cluster.chars().any(|c| c.is_numeric() || (self.letters && c.is_alphabetic())) {
            return Class::Counted;
        }
        let mut characters = cluster.chars();
        match (characters.next(), characters.next()) {
            (Some(only), None)
                if only.is_whitespace() || matches!(only, '\u{2010}' | '\u{2011}' | '\u{2013}') =>
            {
                Class::Separator
            }
            _ => Class::Other,
        }
    }

    /// The mask of a text, given as the lengths of its characters and what they are.
    #[inline(always)]
    fn mask_all(
        &self,
        whole: &[u8],
        characters: impl Iterator<Item = (usize, Class)> + Clone,
        cover: &Cover,
        out: &mut Masked<'_>,
    ) -> Option<()> {
        let mut total = 0;
        for (_, class) in characters.clone() {
            total += usize::from(class == Class::Counted);
            if class == Class::Other && self.form == Form::Digits {
                return None;
            }
        }
        let hidden_until = total.checked_sub(self.last).filter(|end| *end > self.first)?;
        if !self.length.contains(&total) {
            return None;
        }
        let mut run = Run::default();
        let (mut at, mut counted) = (0, 0);
        for (length, class) in characters {
            let counts = class == Class::Counted;
            let shown = counts && (counted < self.first || counted >= hidden_until);
            counted += usize::from(counts);
            if shown || (cover.length.is_none() && class == Class::Separator) {
                if run.hidden > 0 {
                    run.cover(cover, out);
                    run.from = at;
                }
            } else {
                if run.hidden == 0 {
                    out.show(whole.get(run.from..at)?);
                }
                run.hidden += 1;
                run.counts |= counts;
            }
            at += length;
        }
        match run.hidden {
            0 => out.show(whole.get(run.from..at)?),
            _ => run.cover(cover, out),
        }
        Some(())
    }
}

/// Characters that are all shown, or all hidden.
#[derive(Default)]
struct Run {
    /// Where those that are shown begin.
    from: usize,
    hidden: usize,
    /// Some of the hidden are of those that are counted.
    counts: bool,
    /// A mask of fixed length stands already, for all that is hidden, wherever it stood.
    covered: bool,
}

impl Run {
    fn cover(&mut self, cover: &Cover, out: &mut Masked<'_>) {
        if cover.length.is_none() {
            cover.hide(self.hidden, out);
        } else if self.counts && !std::mem::replace(&mut self.covered, true) {
            cover.hide(0, out);
        }
        (self.hidden, self.counts) = (0, false);
    }
}

/// What a character is to the mask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// One of those that are counted and may be shown.
    Counted,
    Separator,
    Other,
}

impl Shown for Separated {
    fn mask(&self, whole: Text<'_>, cover: &Cover, out: &mut Masked<'_>) -> Option<()> {
        if self.form == Form::Country && !begins_with_country(whole.whole) {
            return None;
        }
        match whole.bytes() {
            Some(bytes) => {
                let of = |byte: &u8| (1, self.class_of_byte(*byte));
                self.mask_all(bytes, bytes.iter().map(of), cover, out)
            }
            None => {
                let of = |cluster: &str| (cluster.len(), self.class_of(cluster));
                self.mask_all(whole.whole.as_bytes(), whole.clusters().map(of), cover, out)
            }
        }
    }
}

/// Two letters and two digits, whatever white space is between them.
fn begins_with_country(whole: &str) -> bool {
    let mut characters = whole.chars().filter(|character| !character.is_whitespace());
    let mut next = |is: fn(&char) -> bool| characters.next().as_ref().is_some_and(is);
    next(char::is_ascii_alphabetic)
        && next(char::is_ascii_alphabetic)
        && next(char::is_ascii_digit)
        && next(char::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_masks;

    #[test]
    fn phone_shows_four_digits_and_the_separators() {
        assert_masks(
            "mask: phone",
            &[
                ("+1 (555) 123-4567", "+* (***) ***-4567"),
                ("+49.30/1234567", "+**.**/***4567"),
                ("5551234", "***1234"),
                ("555 123 4567 ext", "*** *** 4567 ***"),
                ("٠١٢٣٤٥٦٧٨٩", "******٦٧٨٩"),
                ("555\u{a0}1234", "***\u{a0}1234"),
                ("555-123-4\u{301}567", "***-***-4\u{301}567"),
                ("555-\u{301}123-4567", "*******-4567"),
            ],
        );
    }

    #[test]
    fn a_short_phone_is_hidden_whole() {
        let hidden = [("", ""), ("1", "*"), ("555-123", "*******"), ("+ - ()", "******")];
        assert_masks("mask: phone", &hidden);
        assert_masks("mask: phone", &[("anonymous", "*********"), ("张伟", "**")]);
        // All digits would be shown.
        assert_masks("mask: { kind: phone, keep_first: 3 }", &[("555-1234", "********")]);
        assert_masks("mask: { kind: phone, keep_last: 1000 }", &[("555-1234", "********")]);
        assert_masks("mask: { kind: phone, length: 6 }", &[("555-123", "******"), ("", "******")]);
    }

    #[test]
    fn a_fixed_length_hides_the_groups_too() {
        assert_masks(
            "mask: { kind: phone, with: '#', length: 3 }",
            &[("+1 (555) 123-4567", "###4567"), ("call 5551234 Bob", "###1234")],
        );
        assert_masks(
            "mask: { kind: phone, keep_first: 2, length: 3 }",
            &[("+49 30 1234567", "49***4567")],
        );
    }

    #[test]
    fn payment_card_shows_what_pci_dss_allows() {
        assert_masks(
            "mask: payment_card",
            &[
                ("4111 1111 1111 1234", "**** **** **** 1234"),
                ("4111-1111-1111-1234", "****-****-****-1234"),
                ("411111111111", "********1111"),
                ("41111111111", "***********"),
                ("4111 1111 111", "*************"),
                ("41111111111111111234", "********************"),
                ("411111111111 cvv 123", "********************"),
            ],
        );
        assert_masks(
            "mask: { kind: payment_card, keep_first: 6, keep_last: 0 }",
            &[("4111 1111 1111 1234", "4111 11** **** ****")],
        );
    }

    #[test]
    fn national_id_counts_letters_too() {
        assert_masks(
            "mask: national_id",
            &[
                ("123-45-6789", "***-**-6789"),
                ("AB 12 34 56 C", "** ** *4 56 C"),
                ("1234567", "*******"),
                ("123-45-67", "*********"),
                ("11010519491231002X", "**************002X"),
            ],
        );
        let policy = "mask: { kind: national_id, keep_last: 4, with: X, length: 5 }";
        assert_masks(policy, &[("123-45-6789", "XXXXX6789")]);
    }

    #[test]
    fn iban_shows_the_country() {
        assert_masks(
            "mask: iban",
            &[
                ("NO9386011117947", "NO*********7947"),
                ("NO93 8601 1117 947", "NO** **** ***7 947"),
                ("NO938601111794", "**************"),
                ("1234567890123456", "****************"),
                ("N 0123456789012345", "******************"),
                ("Desmond Johannes Vries", "**********************"),
            ],
        );
        let policy = "mask: { kind: iban, keep_first: 0, length: 4 }";
        assert_masks(policy, &[("DE89 3704 0044 0532 0130 00", "****3000")]);
    }
}
