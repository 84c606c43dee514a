//! What is sealed opens as it was; nothing else opens, and nothing panics.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use veilstream::crypto::ciphertext::{Algorithm, Sealer, label, open, open_text};
use veilstream::crypto::{DataKey, KeyId, Secret};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    siv: bool,
    plain: &'a [u8],
    domain: &'a str,
    path: &'a str,
    /// A place of the ciphertext, and what is changed of it.
    place: u16,
    change: u8,
    cut: u16,
    text: &'a str,
}

fuzz_target!(|input: Input<'_>| {
    let Input { plain, domain, path, .. } = input;
    if domain.len() > usize::from(u16::MAX) {
        return;
    }
    let key = DataKey { id: KeyId([7; 16]), version: 3, secret: Secret::new([9; 32]) };
    let mut sealed = Vec::new();
    let algorithm = [Algorithm::Aes256Gcm, Algorithm::Aes256Siv][usize::from(input.siv)];
    Sealer::new(&key, algorithm, domain, path).seal(plain, &mut sealed);
    assert_eq!(open(&key, domain, path, &sealed).expect("it was sealed").expose(), plain);

    let mut other = sealed.clone();
    let place = usize::from(input.place) % other.len();
    other[place] ^= input.change;
    other.truncate(other.len() - usize::from(input.cut) % other.len());
    assert_eq!(open(&key, domain, path, &other).is_ok(), other == sealed);
    let elsewhere = open(&key, domain, input.text, &sealed);
    assert_eq!(elsewhere.is_ok(), path == input.text);

    // Anything at all.
    let _ = label(plain);
    assert!(open(&key, domain, path, plain).is_err());
    assert!(open_text(&key, domain, path, input.text).is_err());
});
