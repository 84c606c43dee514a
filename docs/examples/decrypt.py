#!/usr/bin/env python3
"""Opens what `encrypt` made (docs/ciphertext.md), with the package `cryptography` (44 or later).

    decrypt.py KEYSET DOMAIN PATH < CIPHERTEXTS > VALUES

KEYSET is a keyset file, or an object {"keys": [{"id", "version", "key"}]}, with the keys in base64. What was sealed to a
recipient opens with the private key of X25519 under version 0 and the id that docs/ciphertext.md says. DOMAIN and PATH
are the place of the field: `crm-customers/fraud/email` and `contacts[].email`. One ciphertext a line in, one JSON value a
line out. What does not open ends the work with status 1; no more is said of it.
"""

import base64
import hashlib
import hmac
import json
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

NAME, HEADER = 22, 54


class DoesNotOpen(Exception):
    """It was not made by this key for this place, or was changed."""


def derive(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 (RFC 5869) without salt, 32 bytes."""
    return HKDF(hashes.SHA256(), 32, None, info).derive(key)


def place(domain: str, path: str) -> bytes:
    """What a ciphertext is bound to beside its key."""
    domain_bytes = domain.encode()
    length = len(domain_bytes).to_bytes(2, "big")
    return hashlib.sha256(length + domain_bytes + path.encode()).digest()


def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    """LabeledExtract of RFC 9180, section 4."""
    return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, "sha256")


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand of RFC 9180, section 4."""
    info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, info).derive(key)


def decrypt_hpke(private: bytes, name: bytes, commitment: bytes, body: bytes, aad: bytes) -> bytes:
    """RFC 9180, mode base: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM."""
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    encapsulated, own = body[:32], X25519PrivateKey.from_private_bytes(private)
    agreed = own.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    both = encapsulated + own.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", agreed), b"shared_secret", both, 32)
    info = b"veilstream/v1/hpke" + name
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    exporter = expand(suite, secret, b"exp", context, 32)
    if expand(suite, exporter, b"sec", b"veilstream/v1/commit", 32) != commitment:
        raise DoesNotOpen
    nonce = expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(expand(suite, secret, b"key", context, 32)).decrypt(nonce, body[32:], aad)


def decrypt(keys: dict, domain: str, path: str, text: str) -> bytes:
    """The JSON text of the value. `keys` gives 32 bytes for (id, version)."""
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise DoesNotOpen from None
    if len(sealed) < HEADER + 16 or sealed[0] != 1:
        raise DoesNotOpen
    name, commitment, body = sealed[:NAME], sealed[NAME:HEADER], sealed[HEADER:]
    key = keys.get((name[2:18].hex(), int.from_bytes(name[18:22], "big")))
    if key is None:
        raise DoesNotOpen
    aad = place(domain, path)
    if name[1] == 3:
        try:
            return decrypt_hpke(key, name, commitment, body, aad)
        except (InvalidTag, ValueError):
            raise DoesNotOpen from None
    # The commitment first: else someone could have made a text that opens under two keys.
    if not hmac.compare_digest(derive(key, b"veilstream/v1/commit" + name), commitment):
        raise DoesNotOpen
    try:
        if name[1] == 1:
            cipher = AESGCM(derive(key, b"veilstream/v1/encrypt" + name))
            return cipher.decrypt(body[:12], body[12:], aad)
        if name[1] == 2:
            halves = [derive(key, b"veilstream/v1/siv/" + half + name) for half in (b"mac", b"ctr")]
            return AESSIV(b"".join(halves)).decrypt(body, [aad])
    except (InvalidTag, ValueError):
        pass
    raise DoesNotOpen


def read_keys(file: str) -> dict:
    with open(file, encoding="utf-8") as text:
        entries = json.load(text)["keys"]
    known = [entry for entry in entries if entry.get("key")]
    return {(entry["id"], entry["version"]): base64.b64decode(entry["key"]) for entry in known}


def main() -> int:
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    keys = read_keys(sys.argv[1])
    for number, line in enumerate(sys.stdin, 1):
        try:
            print(decrypt(keys, sys.argv[2], sys.argv[3], line.strip()).decode())
        except DoesNotOpen:
            print(f"line {number} does not open", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
