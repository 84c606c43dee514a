//! Wycheproof's test vectors, and OpenSSL's answers for SIV, through the crate's own primitives: valid ones agree, invalid ones are refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails here fails where it should"
)]

use aes::cipher::{BlockCipher, BlockEncrypt, Key, KeyInit};
use serde_json::Value;
use veilstream::crypto::aead::{Cipher, NONCE, SivCipher, TAG};
use veilstream::crypto::ff1::Ff1;
use veilstream::crypto::mac::Digester;
use veilstream::crypto::{Secret, derive};

/// What became of the vectors of one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    valid: usize,
    invalid: usize,
    /// Reasons, each with how many it kept out.
    skipped: Vec<(&'static str, usize)>,
}

impl Counts {
    fn skip(&mut self, reason: &'static str) {
        match self.skipped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.skipped.push((reason, 1)),
        }
    }

    fn all(&self) -> usize {
        self.valid + self.invalid + self.skipped.iter().map(|(_, count)| count).sum::<usize>()
    }

    fn ran(&mut self, valid: bool) {
        if valid {
            self.valid += 1;
        } else {
            self.invalid += 1;
        }
    }
}

/// Runs `each` over every vector of a file: the group, the vector, whether it is valid.
fn run(file: &str, each: impl Fn(&Value, &Value, bool, &mut Counts)) -> Counts {
    let path = format!("{}/tests/data/wycheproof/{file}", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut counts = Counts::default();
    for group in file["testGroups"].as_array().unwrap() {
        for vector in group["tests"].as_array().unwrap() {
            let valid = match vector["result"].as_str().unwrap() {
                "valid" => true,
                "invalid" => false,
                // The three files have none; one that appears must be judged by hand.
                other => panic!("a vector that is {other}"),
            };
            each(group, vector, valid, &mut counts);
        }
    }
    println!("{counts:?}");
    assert_eq!(counts.all() as u64, file["numberOfTests"].as_u64().unwrap());
    counts
}

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    let text = vector[name].as_str().unwrap();
    assert_eq!(text.len() % 2, 0);
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn aes_256_gcm_agrees_with_wycheproof() {
    let counts = run("aes_gcm_test.json", |group, vector, valid, counts| {
        let size = |name: &str| group[name].as_u64().unwrap() as usize / 8;
        if size("keySize") != 32 {
            return counts.skip("a key of other than 256 bits");
        }
        if size("ivSize") != NONCE {
            return counts.skip("a nonce of other than 96 bits");
        }
        if size("tagSize") != TAG {
            return counts.skip("a tag of other than 128 bits");
        }
        let of = |name| bytes(vector, name);
        let cipher = Cipher::new(of("key").as_slice().try_into().unwrap());
        let nonce: [u8; NONCE] = of("iv").try_into().unwrap();
        let (aad, message) = (of("aad"), of("msg"));
        let sealed = [of("ct"), of("tag")].concat();
        let case = &vector["tcId"];
        match (valid, cipher.open(&nonce, &aad, &sealed)) {
            (true, Ok(opened)) => assert_eq!(opened, message, "{case}"),
            (true, Err(_)) => panic!("{case} does not open"),
            (false, opened) => assert!(opened.is_err(), "{case} opens"),
        }
        // What stands in front of the message stays as it is.
        let mut buffer = [b"front".as_slice(), &message].concat();
        cipher.seal(&nonce, &aad, &mut buffer, 5);
        assert_eq!(&buffer[..5], b"front");
        assert_eq!(buffer[5..] == sealed, valid, "{case}");
        counts.ran(valid);
    });
    let skipped =
        vec![("a key of other than 256 bits", 211), ("a nonce of other than 96 bits", 39)];
    assert_eq!(counts, Counts { valid: 39, invalid: 27, skipped });
}

#[test]
fn aes_256_siv_agrees_with_openssl() {
    let path = format!("{}/tests/data/siv/vectors.json", env!("CARGO_MANIFEST_DIR"));
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vectors = vectors.as_array().unwrap();
    assert_eq!(vectors.len(), 9);
    for vector in vectors {
        let of = |name| bytes(vector, name);
        let key = Secret::new(of("key").try_into().unwrap());
        let cipher = SivCipher::new(key);
        let (aad, sealed) = (of("aad"), of("sealed"));
        let mut made = Vec::new();
        cipher.seal(&aad, &of("plaintext"), &mut made);
        assert_eq!(made, sealed);
        assert_eq!(cipher.open(&aad, &sealed), Ok(of("plaintext")));
        assert!(cipher.open(b"another place", &sealed).is_err());
        let mut changed = sealed.clone();
        changed[0] ^= 1;
        assert!(cipher.open(&aad, &changed).is_err());
    }
}

/// Numerals of a text in the alphabet of NIST's samples, and back.
fn numerals(text: &str) -> Vec<u16> {
    text.chars().map(|digit| digit.to_digit(36).unwrap() as u16).collect()
}

fn ff1<C: BlockCipher + BlockEncrypt + KeyInit + Clone>(sample: &Value) {
    let (key, tweak) = (bytes(sample, "key"), bytes(sample, "tweak"));
    let radix = sample["radix"].as_u64().unwrap() as u32;
    let cipher = Ff1::<C>::new(Key::<C>::from_slice(&key), radix, tweak).unwrap();
    let of = |name: &str| numerals(sample[name].as_str().unwrap());
    assert_eq!(cipher.encrypt(of("plaintext")), Ok(of("ciphertext")), "{sample}");
    assert_eq!(cipher.decrypt(of("ciphertext")), Ok(of("plaintext")), "{sample}");
    assert!(cipher.encrypt(vec![1; 513]).is_err());
    // Of five digits and of three of 36 there are fewer than a million.
    assert!(cipher.encrypt(vec![1; if radix == 10 { 5 } else { 3 }]).is_err());
}

#[test]
fn ff1_agrees_with_the_samples_of_nist() {
    let path = format!("{}/tests/data/ff1/nist-ff1-samples.json", env!("CARGO_MANIFEST_DIR"));
    let samples: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let samples = samples.as_array().unwrap();
    assert_eq!(samples.len(), 9);
    for sample in samples {
        match sample["key"].as_str().unwrap().len() / 2 {
            16 => ff1::<aes::Aes128>(sample),
            24 => ff1::<aes::Aes192>(sample),
            32 => ff1::<aes::Aes256>(sample),
            other => panic!("a key of {other} bytes"),
        }
    }
}

#[test]
fn hmac_sha256_agrees_with_wycheproof() {
    let counts = run("hmac_sha256_test.json", |group, vector, valid, counts| {
        let (key, message, tag) =
            (bytes(vector, "key"), bytes(vector, "msg"), bytes(vector, "tag"));
        assert_eq!(tag.len() as u64 * 8, group["tagSize"].as_u64().unwrap());
        let digest = Digester::from_key(&key).digest(&message);
        assert_eq!(digest[..tag.len()] == tag, valid, "{}", vector["tcId"]);
        counts.ran(valid);
    });
    assert_eq!(counts, Counts { valid: 66, invalid: 108, skipped: vec![] });
}

#[test]
fn hkdf_sha256_agrees_with_wycheproof() {
    let counts = run("hkdf_sha256_test.json", |_, vector, valid, counts| {
        let of = |name| bytes(vector, name);
        let (salt, info, expected) = (of("salt"), of("info"), of("okm"));
        let mut made = vec![0; vector["size"].as_u64().unwrap() as usize];
        let derived =
            hkdf::Hkdf::<sha2::Sha256>::new(Some(&salt), &of("ikm")).expand(&info, &mut made);
        assert_eq!(derived.is_ok(), valid, "{}", vector["tcId"]);
        if valid {
            assert_eq!(made, expected, "{}", vector["tcId"]);
        }
        counts.ran(valid);
    });
    assert_eq!(counts, Counts { valid: 83, invalid: 3, skipped: vec![] });
}

#[test]
fn key_derivation_agrees_with_wycheproof() {
    let counts = run("hkdf_sha256_test.json", |_, vector, valid, counts| {
        if !bytes(vector, "salt").is_empty() {
            return counts.skip("a salt");
        }
        let (key, info, expected) =
            (bytes(vector, "ikm"), bytes(vector, "info"), bytes(vector, "okm"));
        // A longer output begins with the shorter one (RFC 5869 section 2.3).
        let length = expected.len().min(32);
        assert_eq!(
            derive(&key, &[&info]).expose()[..length],
            expected[..length],
            "{}",
            vector["tcId"]
        );
        // The parts of the info are put together, wherever they are cut.
        for cut in 0..=info.len() {
            let (front, back) = info.split_at(cut);
            assert_eq!(
                derive(&key, &[front, back]).expose()[..length],
                expected[..length],
                "{}",
                vector["tcId"]
            );
        }
        counts.ran(valid);
    });
    assert_eq!(counts, Counts { valid: 23, invalid: 0, skipped: vec![("a salt", 63)] });
}

/// RFC 5297, appendix A: of AES-SIV with keys of 256 bits, the library's; the worker uses it with 512.
#[test]
fn the_examples_of_rfc_5297_come_out() {
    use aes_siv::siv::Aes128Siv;
    let unhex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    };
    for (key, headers, plaintext, sealed) in [
        (
            "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0 f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
            vec!["101112131415161718191a1b1c1d1e1f2021222324252627"],
            "112233445566778899aabbccddee",
            "85632d07c6e8f37f950acd320a2ecc93 40c02b9690c4dc04daef7f6afe5c",
        ),
        (
            "7f7e7d7c7b7a79787776757473727170 404142434445464748494a4b4c4d4e4f",
            vec![
                "00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100",
                "102030405060708090a0",
                "09f911029d74e35bd84156c5635688c0",
            ],
            "7468697320697320736f6d6520706c61696e7465787420746f20656e6372797074207573696e67205349562d414553",
            "7bdb6e3b432667eb06f4d14bff2fbd0f cb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d",
        ),
    ] {
        let key: [u8; 32] = unhex(key).try_into().unwrap();
        let headers: Vec<Vec<u8>> = headers.into_iter().map(unhex).collect();
        let mut cipher = <Aes128Siv as aes_siv::KeyInit>::new(&key.into());
        let made = cipher.encrypt(&headers, &unhex(plaintext)).unwrap();
        assert_eq!(made, unhex(sealed));
        assert_eq!(cipher.decrypt(&headers, &made).unwrap(), unhex(plaintext));
    }
}

/// What the worker seals, another implementation opens: docs/examples/decrypt.py, with Python's `cryptography`.
#[test]
fn the_decryptor_of_the_documentation_opens_what_is_sealed_and_nothing_else() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use veilstream::crypto::ciphertext::{Algorithm, Sealer};
    use veilstream::crypto::{KeySource, Purpose};
    use veilstream::keys::Keyset;

    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let mut keys = Keyset::generate();
    keys.rotate(Purpose::Field).unwrap();
    keys.create(&file).unwrap();
    let decrypt = |keys: &std::path::Path, domain: &str, path: &str, input: &str| {
        let mut python = Command::new("python3")
            .arg(root.join("docs/examples/decrypt.py"))
            .arg(keys)
            .args([domain, path])
            .env("PYTHONPATH", root.join("target/python"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = python.wait_with_output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success() || stderr == "line 1 does not open\n", "{stderr}");
        done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
    };
    let values =
        ["\"ann@example.com\"", "12.50", "\"caf\\u00e9 \u{1f600}\"", "{\"a\": [null]}", "\"\""];
    let seal = |algorithm, purpose| {
        let key = keys.primary(purpose).unwrap();
        let sealer = Sealer::new(&key, algorithm, "crm/fraud/é", "contacts[].email");
        let of = |value: &&str| {
            let mut out = Vec::new();
            sealer.seal_text(value.as_bytes(), &mut Vec::new(), &mut out);
            String::from_utf8(out).unwrap()
        };
        values.iter().map(of).collect::<Vec<String>>()
    };
    let gcm = seal(Algorithm::Aes256Gcm, Purpose::Field);
    let siv = seal(Algorithm::Aes256Siv, Purpose::Deterministic);
    let all: Vec<String> = gcm.iter().chain(&siv).cloned().collect();
    let opened = decrypt(&file, "crm/fraud/é", "contacts[].email", &all.join("\n")).unwrap();
    assert!(opened.lines().eq(values.iter().chain(&values).copied()));
    for (number, sealed) in [&gcm[0], &siv[0]].into_iter().enumerate() {
        assert!(decrypt(&file, "crm/fraud/e", "contacts[].email", sealed).is_none());
        assert!(decrypt(&file, "crm/fraud/é", "contacts[].emai", sealed).is_none());
        let last = sealed.chars().rev().nth(1).unwrap();
        let changed = sealed.replace(last, if last == 'A' { "B" } else { "A" });
        assert!(decrypt(&file, "crm/fraud/é", "contacts[].email", &changed).is_none(), "{number}");
        let cut: String = sealed.chars().take(60).collect();
        assert!(decrypt(&file, "crm/fraud/é", "contacts[].email", &cut).is_none());
    }
    // The documented vectors.
    let page = std::fs::read_to_string(root.join("docs/ciphertext.md")).unwrap();
    let lines: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let texts: Vec<String> = lines.chunks(2).map(|parts| parts.concat()).collect();
    assert_eq!(texts.len(), 2);
    let key: Vec<u8> = (0..32).collect();
    let documented = serde_json::json!({ "keys": [{
        "id": "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf", "version": 3,
        "key": base64_simd::STANDARD.encode_to_string(key),
    }] });
    std::fs::write(&file, documented.to_string()).unwrap();
    let opened = decrypt(&file, "crm-customers/fraud/email", "contacts[].email", &texts.join("\n"));
    assert_eq!(opened.as_deref(), Some("\"ann@example.com\"\n\"ann@example.com\"\n"));
}

/// RFC 9180, appendix A.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, mode base. Of the library: the worker
/// uses AES-256-GCM.
#[test]
fn the_example_of_rfc_9180_opens() {
    use hpke::{
        Deserializable, Kem, OpModeR, aead::AesGcm128, kdf::HkdfSha256, kem::X25519HkdfSha256,
    };
    let unhex = |text: &str| -> Vec<u8> {
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        text.as_bytes().chunks(2).map(byte).collect()
    };
    let private = unhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
    let encapsulated = unhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
    let mut context = hpke::setup_receiver::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &<X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&private).unwrap(),
        &<X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&encapsulated).unwrap(),
        b"Ode on a Grecian Urn",
    )
    .unwrap();
    let sealed = unhex(
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
    );
    assert_eq!(context.open(&sealed, b"Count-0").unwrap(), b"Beauty is truth, truth beauty");
    let mut exported = [0; 32];
    context.export(b"TestContext", &mut exported).unwrap();
    let expected = "e9e43065102c3836401bed8c3c3c75ae46be1639869391d62c61f1ec7af54931";
    assert_eq!(exported.as_slice(), unhex(expected));
}

/// What is sealed to a public key opens with the private one, at its place, by another implementation as well.
#[test]
fn what_is_sealed_to_a_recipient_opens_for_the_owner_alone() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use veilstream::crypto::ciphertext::{Place, open_text, seal_to};
    use veilstream::crypto::recipient::Recipient;
    use veilstream::crypto::{DataKey, Secret};

    let unhex = |text: &str| -> [u8; 32] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    };
    // Made by another implementation.
    let private: [u8; 32] = std::array::from_fn(|at| at as u8);
    let public = unhex("8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f");
    let recipient = Recipient::new(&public).unwrap();
    let mut sealed = Vec::new();
    let place = Place::new("crm/fraud/email", "email");
    seal_to(&recipient, &place, b"\"ann@example.com\"", &mut sealed);
    let sealed = String::from_utf8(sealed).unwrap();
    let key = |secret| DataKey { id: recipient.id(), version: 0, secret: Secret::new(secret) };
    let open = |secret, domain, path, text: &str| {
        let opened = open_text(&key(secret), domain, path, text).ok()?;
        Some(String::from_utf8(opened.expose().clone()).unwrap())
    };
    let right = open(private, "crm/fraud/email", "email", &sealed);
    assert_eq!(right.as_deref(), Some("\"ann@example.com\""));
    assert_eq!(open(private, "crm/fraud/email", "emai", &sealed), None);
    assert_eq!(open(private, "crm/fraud/emai", "email", &sealed), None);
    assert_eq!(open([9; 32], "crm/fraud/email", "email", &sealed), None);
    let bytes = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(&sealed).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // The highest bit of an encapsulated key does not count (RFC 7748, section 5), and is not flipped here.
        let changed = base64_simd::URL_SAFE_NO_PAD.encode_to_string(changed);
        assert_eq!(open(private, "crm/fraud/email", "email", &changed), None, "byte {at}");
    }
    // Points of low order are no keys.
    assert!(Recipient::new(&[0; 32]).is_none());

    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let keys = serde_json::json!({ "keys": [{
        "id": recipient.id().to_string(), "version": 0,
        "key": base64_simd::STANDARD.encode_to_string(private),
    }] });
    std::fs::write(&file, keys.to_string()).unwrap();
    let mut python = Command::new("python3")
        .arg(root.join("docs/examples/decrypt.py"))
        .arg(&file)
        .args(["crm/fraud/email", "email"])
        .env("PYTHONPATH", root.join("target/python"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(sealed.as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "\"ann@example.com\"\n");
}
