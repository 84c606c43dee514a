//! 64 bytes of a text at a time, classified with vector instructions: a bit for each byte.

use wide::u8x16;

/// A part of a text that begins at a multiple of its length. Behind the end of the text it is filled with zeros,
/// so that everything stops there.
#[derive(Clone, Copy)]
pub(super) struct Block {
    from: usize,
    /// Where a string's plain run ends: quotes, backslashes, control characters.
    stops: u64,
    others: u64,
}

impl Block {
    pub const LENGTH: usize = 64;

    /// Goes to the block that `at` is in.
    #[inline(never)]
    pub fn load(&mut self, text: &[u8], at: usize) {
        *self = Block::of(text, at);
    }

    /// The block that `at` is in.
    #[inline]
    pub fn of(text: &[u8], at: usize) -> Block {
        let from = at & !(Self::LENGTH - 1);
        let rest = text.get(from..).unwrap_or_default();
        match rest.first_chunk() {
            Some(bytes) => Self::classify(from, bytes),
            None => Self::last(from, rest),
        }
    }

    #[cold]
    fn last(from: usize, rest: &[u8]) -> Block {
        let mut bytes = [0; Self::LENGTH];
        for (to, byte) in bytes.iter_mut().zip(rest) {
            *to = *byte;
        }
        Self::classify(from, &bytes)
    }

    #[inline]
    fn classify(from: usize, bytes: &[u8; Self::LENGTH]) -> Block {
        let (mut stops, mut others) = (0, 0);
        let (parts, _) = bytes.as_chunks::<16>();
        for (number, part) in parts.iter().enumerate() {
            let part = u8x16::new(*part);
            let control = part.min(u8x16::splat(0x1F)).simd_eq(part);
            let stop =
                control | part.simd_eq(u8x16::splat(b'"')) | part.simd_eq(u8x16::splat(b'\\'));
            // Less than ten when the code of 0 is taken away.
            let value = part - u8x16::splat(b'0');
            let digit = value.min(u8x16::splat(9)).simd_eq(value);
            stops |= u64::from(stop.to_bitmask()) << (16 * number);
            others |= u64::from((!digit).to_bitmask()) << (16 * number);
        }
        Block { from, stops, others }
    }

    #[inline]
    pub fn holds(&self, at: usize) -> bool {
        at & !(Self::LENGTH - 1) == self.from
    }

    /// How many bytes from `at` on stand in a string as they are.
    #[inline]
    pub fn plain(&self, at: usize) -> usize {
        run(self.stops, at)
    }

    /// How many bytes from `at` on are digits.
    #[inline]
    pub fn digits(&self, at: usize) -> usize {
        run(self.others, at)
    }
}

/// How many bits from `at` on are not set, in this block.
#[inline]
fn run(bits: u64, at: usize) -> usize {
    let rest = bits >> (at % Block::LENGTH);
    match rest {
        0 => Block::LENGTH - at % Block::LENGTH,
        rest => rest.trailing_zeros() as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_and_a_digit_are_found_at_every_place() {
        for at in 0..200 {
            for (byte, stops, digit) in [
                (b'"', true, false),
                (b'\\', true, false),
                (0, true, false),
                (0x1F, true, false),
                (b' ', false, false),
                (b'/', false, false),
                (b'0', false, true),
                (b'9', false, true),
                (b':', false, false),
                (0x7F, false, false),
                (0x80, false, false),
                (0xFF, false, false),
            ] {
                let mut text = vec![b'x'; 200];
                text[at] = byte;
                let block = Block::of(&text, at);
                assert!(block.holds(at));
                let inside = at % Block::LENGTH;
                assert_eq!(block.plain(inside) == 0, stops, "{byte} at {at}");
                assert_eq!(block.digits(inside), usize::from(digit), "{byte} at {at}");
                let end = (text.len() - block.from).min(Block::LENGTH);
                let plain = if stops { inside } else { end };
                assert_eq!(block.plain(0), plain, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn everything_stops_behind_the_end() {
        for length in 0..130 {
            let block = Block::of(&vec![b'1'; length], length);
            assert_eq!(block.plain(length % Block::LENGTH), 0);
            assert_eq!(block.digits(length % Block::LENGTH), 0);
        }
    }
}
