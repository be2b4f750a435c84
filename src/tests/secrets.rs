//! Server secrets: the subkeys of the vectors, what a ring refuses, and that it tells nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use rand::rngs::SysRng;
use sha2::Sha256;

use super::{Script, bytes, entry, ring_led_by, text, unhex, vectors};
use crate::secrets::{Kid, RandomError, SecretError, SecretRing};

/// HMAC-SHA256 the plain way, to compare with.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(message);
    mac.finalize().into_bytes().to_vec()
}

fn refusal(ring: &str) -> Option<SecretError> {
    SecretRing::parse(ring).err()
}

/// The subkeys are those of the vectors.
#[test]
fn subkeys_are_those_of_the_vectors() {
    let (vectors, ring) = (vectors(), ring_led_by("k1"));
    for secret in ring.iter() {
        let derived = &vectors["derived_hex"][secret.kid().as_str()];
        let tag = |mac: Hmac<Sha256>| mac.chain_update(b"any").finalize().into_bytes().to_vec();
        assert_eq!(tag(secret.seal_mac()), hmac(&unhex(text(derived, "seal")), b"any"));
        assert_eq!(tag(secret.hash_mac()), hmac(&unhex(text(derived, "hash")), b"any"));
        assert_eq!(secret.argon2_key(), unhex(text(derived, "argon2")));
    }
}

/// Secrets of 32 to 64 bytes are taken as they are; shorter and longer ones are refused.
#[test]
fn secrets_have_32_to_64_bytes() {
    let k1 = Kid::parse("k1").unwrap();
    assert_eq!(refusal("k1:"), Some(SecretError::Short(k1)));
    for len in 0..32 {
        assert_eq!(refusal(&entry("k1", &bytes(len))), Some(SecretError::Short(k1)), "{len}");
    }
    for len in 32..=64 {
        let ring = SecretRing::parse(&entry("k1", &bytes(len))).unwrap();
        assert_eq!(ring.active().argon2_key(), hmac(&bytes(len), b"keylatch/v1/argon2"), "{len}");
    }
    for len in 65..=255 {
        assert_eq!(refusal(&entry("k1", &bytes(len))), Some(SecretError::Long(k1)), "{len}");
    }
}

/// A secret that repeats a few bytes, or is a word written over and over, is not random.
#[test]
fn secrets_are_random() {
    let k1 = Kid::parse("k1").unwrap();
    let repeated: Vec<u8> = bytes(15).into_iter().cycle().take(32).collect();
    let zeros = [0; 32];
    let word = "k1:changemechangemechangemechangemechangemechangeme";
    for ring in [entry("k1", &zeros), entry("k1", &repeated), word.to_owned()] {
        assert_eq!(refusal(&ring), Some(SecretError::NotRandom(k1)));
    }
    let enough: Vec<u8> = bytes(16).into_iter().cycle().take(32).collect();
    assert_eq!(refusal(&entry("k1", &enough)), None);
}

/// A kid is 1 to 8 lower-case letters or digits.
#[test]
fn kids_are_held_to_their_format() {
    for right in ["a", "0", "k1", "prod2026"] {
        assert_eq!(Kid::parse(right).unwrap().as_str(), right);
    }
    for wrong in ["", "prod20261", "K1", "k_1", "k 1", "k1\n", "\0", "é", "\u{ff11}"] {
        assert_eq!(Kid::parse(wrong).err(), Some(SecretError::Kid), "{wrong:?}");
        assert_eq!(refusal(&entry(wrong, &bytes(32))), Some(SecretError::Kid), "{wrong:?}");
    }
}

/// A ring has one secret or more, and each kid once, whether the active one or not.
#[test]
fn a_ring_has_each_kid_once() {
    let k2 = Kid::parse("k2").unwrap();
    let entries = ["k1", "k2", "k3"].map(|kid| entry(kid, &bytes(32)));
    let ring = SecretRing::parse(&entries.join(",")).unwrap();
    let kids: Vec<String> = ring.iter().map(|secret| secret.kid().to_string()).collect();
    assert_eq!(kids, ["k1", "k2", "k3"]);
    assert!(ring.get(Kid::parse("k4").unwrap()).is_none());
    for twice in [["k2", "k2", "k3"], ["k2", "k1", "k2"], ["k1", "k2", "k2"]] {
        let ring = twice.map(|kid| entry(kid, &bytes(32))).join(",");
        assert_eq!(refusal(&ring), Some(SecretError::KidTwice(k2)));
    }
    for empty in ["", " ", "\n", " \t\r\n"] {
        assert_eq!(refusal(empty), Some(SecretError::Empty));
    }
    let entry = &entries[0];
    for shapeless in [",", "k1", &entry[3..], &format!("{entry},"), &format!(",{entry}")] {
        assert_eq!(refusal(shapeless), Some(SecretError::Shape));
    }
}

/// Blanks around an entry do not count; blanks inside one do.
#[test]
fn blanks_around_entries_are_ignored() {
    let (first, second) = (entry("k1", &bytes(32)), entry("k2", &bytes(32)));
    assert_eq!(refusal(&format!(" {first} ,\t{second}\r\n")), None);
    for inside in [format!("k1 :{}", &first[3..]), format!("k1: {}", &first[3..])] {
        assert!(refusal(&inside).is_some());
    }
}

/// A secret is base64url, with its padding or without: no other alphabet, no spare bits.
#[test]
fn secrets_are_base64url() {
    let k1 = Kid::parse("k1").unwrap();
    let secret: Vec<u8> = (0xe0..=0xff).collect();
    let written = entry("k1", &secret);
    assert!(written.contains('-') && written.contains('_'));
    assert_eq!(refusal(&written), None);
    assert_eq!(refusal(&format!("{written}=")), None);
    assert_eq!(refusal(&entry("k1", &bytes(33))), None);
    let spare_bits = format!("{}9", &written[..written.len() - 1]);
    assert!(written.ends_with('8'));
    let others = [
        written.replace('-', "+"),
        written.replace('_', "/"),
        written.replace("Tl5", "Tl "),
        written.replace("Tl5", "Tl="),
        written.replace("Tl5", "Tl\u{e9}"),
        format!("{written}=="),
        format!("{written}===="),
        format!("{}=", entry("k1", &bytes(33))),
        spare_bits,
    ];
    for other in others {
        assert_eq!(refusal(&other), Some(SecretError::Encoding(k1)), "{other}");
    }
}

/// A new secret is 32 bytes of the random source under its kid, and a ring takes it.
#[test]
fn generate_writes_what_a_ring_reads() {
    let kid = Kid::parse("k1").unwrap();
    let made = SecretRing::generate(kid, &mut Script::of(&[&bytes(32)])).unwrap();
    assert_eq!(*made, entry("k1", &bytes(32)));
    for _ in 0..100 {
        assert_eq!(refusal(&SecretRing::generate(kid, &mut SysRng).unwrap()), None);
    }
}

/// A random source that fails is an error.
#[test]
fn generate_without_random_bytes_is_an_error() {
    let kid = Kid::parse("k1").unwrap();
    for given in 0..32 {
        let made = SecretRing::generate(kid, &mut Script::of(&[&bytes(given)]));
        assert_eq!(made.err(), Some(RandomError));
    }
}

proptest! {
    /// Any text is a ring or an error, and never a panic.
    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>()) {
        let _ = Kid::parse(&text);
        let _ = SecretRing::parse(&text);
        let _ = SecretRing::parse(&format!("k1:{text}"));
    }

    /// An error never tells what the secret is, whatever is wrong with it.
    #[test]
    fn errors_hold_nothing_of_a_secret(
        kid in "[a-zA-Z0-9]{0,10}", secret in "[A-Za-z0-9+/_-]{12,100}", tail in "[,: =]{0,2}",
    ) {
        if let Some(error) = refusal(&format!("{kid}:{secret}{tail}")) {
            let told = format!("{error}{error:?}");
            let parts = (0..=secret.len() - 12).map(|at| &secret[at..at + 12]);
            prop_assert_eq!(parts.filter(|part| told.contains(part)).count(), 0);
        }
    }

    /// Every secret of the right length is read back as it was written.
    #[test]
    fn secrets_are_read_back(secret in prop::collection::vec(any::<u8>(), 32..=64)) {
        prop_assume!(secret.iter().collect::<std::collections::BTreeSet<_>>().len() >= 16);
        let ring = SecretRing::parse(&entry("k1", &secret)).unwrap();
        let expected = hmac(&secret, b"keylatch/v1/argon2");
        prop_assert_eq!(ring.active().argon2_key(), expected);
        prop_assert_eq!(URL_SAFE_NO_PAD.decode(&entry("", &secret)[1..]).unwrap(), secret);
    }
}
