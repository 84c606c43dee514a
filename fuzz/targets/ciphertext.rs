//! What is sealed opens as it was; nothing else opens, and nothing panics.
#![no_main]

use base64_simd::URL_SAFE_NO_PAD;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use veilstream::crypto::ciphertext::{Algorithm, Place, Sealer, label, open, open_text, seal_to};
use veilstream::crypto::recipient::Recipient;
use veilstream::crypto::{DataKey, KeyId, Secret};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    how: u8,
    plain: &'a [u8],
    domain: &'a str,
    path: &'a str,
    /// A place of the ciphertext, and what is changed of it.
    place: u16,
    change: u8,
    cut: u16,
    text: &'a str,
}

/// The public key to the private key of 32 bytes 9.
const PUBLIC: [u8; 32] = [
    87, 219, 75, 53, 159, 35, 174, 94, 20, 110, 78, 37, 18, 5, 103, 4, 114, 37, 6, 52, 140, 21, 12,
    20, 117, 61, 12, 147, 61, 4, 212, 33,
];

fuzz_target!(|input: Input<'_>| {
    let Input { plain, domain, path, .. } = input;
    if domain.len() > usize::from(u16::MAX) {
        return;
    }
    let key = DataKey { id: KeyId([7; 16]), version: 3, secret: Secret::new([9; 32]) };
    let mut sealed = Vec::new();
    match input.how % 3 {
        0 => Sealer::new(&key, Algorithm::Aes256Gcm, domain, path).seal(plain, &mut sealed),
        1 => Sealer::new(&key, Algorithm::Aes256Siv, domain, path).seal(plain, &mut sealed),
        _ => {
            let recipient = Recipient::new(&PUBLIC).expect("a public key");
            seal_to(&recipient, &Place::new(domain, path), plain, &mut sealed);
            sealed = URL_SAFE_NO_PAD.decode_to_vec(&sealed).expect("base64url");
        }
    }
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
