//! A member's beginning that is expected to come next.

use wide::u8x16;

/// How many bytes are compared at once.
const LENGTH: usize = 32;

/// `"NAME":`, as most writers write it; compared without a call.
pub struct Probe {
    text: Box<[u8]>,
    /// The first bytes of the text, and which of them count.
    first: [u8x16; LENGTH / 16],
    masks: [u8x16; LENGTH / 16],
}

impl Probe {
    /// None where the name has to be escaped.
    pub fn new(name: &str) -> Option<Probe> {
        let plain = |character: char| !character.is_control() && !matches!(character, '"' | '\\');
        let text = name.chars().all(plain).then(|| format!("\"{name}\":"))?;
        let (mut first, mut masks) = ([[0; 16]; LENGTH / 16], [[0; 16]; LENGTH / 16]);
        let places = first.as_flattened_mut().iter_mut().zip(masks.as_flattened_mut());
        for ((to, mask), byte) in places.zip(text.bytes()) {
            (*to, *mask) = (byte, 0xFF);
        }
        let (first, masks) = (first.map(u8x16::new), masks.map(u8x16::new));
        Some(Probe { text: text.into_bytes().into(), first, masks })
    }

    /// In bytes.
    #[inline]
    pub fn length(&self) -> usize {
        self.text.len()
    }

    /// Whether `text` begins so.
    #[inline(always)]
    pub fn begins(&self, text: &[u8]) -> bool {
        let parts = text
            .first_chunk::<LENGTH>()
            .and_then(|chunk| Some((chunk.first_chunk::<16>()?, chunk.last_chunk::<16>()?)));
        let Some((low, high)) = parts else { return text.starts_with(&self.text) };
        let ([first, second], [first_mask, second_mask]) = (self.first, self.masks);
        let differ = ((u8x16::new(*low) ^ first) & first_mask)
            | ((u8x16::new(*high) ^ second) & second_mask);
        let same = differ.simd_eq(u8x16::ZERO).to_bitmask() == 0xFFFF;
        same && (self.text.len() <= LENGTH || text.starts_with(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_are_told_apart() {
        for length in 0..80 {
            let name = "aé".repeat(length);
            let probe = Probe::new(&name).unwrap();
            let text = format!("\"{name}\":");
            assert_eq!(probe.length(), text.len());
            for behind in ["", "1", &"1".repeat(50)] {
                let whole = format!("{text}{behind}").into_bytes();
                assert!(probe.begins(&whole));
                for at in 0..text.len() {
                    let mut other = whole.clone();
                    other[at] ^= 1;
                    assert!(!probe.begins(&other), "{at} of {length}");
                    assert!(!probe.begins(&whole[..at]), "{at} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_name_that_is_escaped_has_none() {
        assert!(["a\"", "\\", "\n"].iter().all(|name| Probe::new(name).is_none()));
    }
}
