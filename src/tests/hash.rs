//! Stored hashes: vectors, what verifies and what does not, and a failing random source.

use proptest::prelude::*;
use rand::rngs::SysRng;

use super::{Script, cases, ring_led_by, text, unhex, vectors};
use crate::hash::{Cost, HashError, Scheme, check, hash, needs_rehash, verify};
use crate::secrets::{Kid, SecretRing};

const TOKEN: &[u8] = b"a token";
/// The cheapest that the policy allows.
const CHEAP: (u32, u32, u32) = (7168, 1, 1);

fn argon2id((memory_kib, iterations, parallelism): (u32, u32, u32)) -> Scheme {
    Scheme::Argon2id(Cost::new(memory_kib, iterations, parallelism).unwrap())
}

/// The ring of the vectors, cut down to one secret.
fn ring_of(kid: &str) -> SecretRing {
    let vectors = vectors();
    let entries = text(&vectors, "secret_ring").split(',');
    let mut entries = entries.filter(|entry| entry.starts_with(&format!("{kid}:")));
    SecretRing::parse(entries.next().unwrap()).unwrap()
}

/// Every stored hash of the vectors verifies its own token, and no other one.
#[test]
fn hmac_vectors_verify_their_own_token_only() {
    let ring = ring_led_by("k1");
    let hashes = cases(&vectors(), "hashes");
    for case in &hashes {
        for other in &hashes {
            let own = text(case, "token") == text(other, "token");
            let token = text(other, "token").as_bytes();
            assert_eq!(verify(&ring, token, text(case, "stored")), Ok(own));
        }
    }
}

/// With the salt of the vectors, the hash is that of the vectors to the letter.
#[test]
fn hmac_vectors_are_made_again_from_their_salt() {
    for case in cases(&vectors(), "hashes") {
        let mut salt = Script::of(&[&unhex(text(&case, "salt_hex"))]);
        let ring = ring_led_by(text(&case, "kid"));
        let made = hash(Scheme::HmacSha256, &ring, text(&case, "token").as_bytes(), &mut salt);
        assert_eq!(made.unwrap(), text(&case, "stored"));
    }
}

/// Every argon2id string of the vectors verifies its own token, with a keyid or without.
#[test]
fn argon2id_vectors_verify_their_own_token_only() {
    let ring = ring_led_by("k1");
    for case in cases(&vectors(), "argon2id") {
        let (token, stored) = (text(&case, "token"), text(&case, "stored"));
        assert_eq!(verify(&ring, token.as_bytes(), stored), Ok(true));
        assert_eq!(verify(&ring, &token.as_bytes()[1..], stored), Ok(false));
    }
}

/// A hash whose server secret has left the ring is an error, not a "no".
#[test]
fn a_hash_without_its_secret_is_an_error() {
    let (ring, vectors) = (ring_of("k1"), vectors());
    for case in [cases(&vectors, "hashes"), cases(&vectors, "argon2id")].concat() {
        let stored = text(&case, "stored");
        let kid = case["kid"].as_str().filter(|kid| *kid != "k1");
        let expected = kid.map(|kid| HashError::UnknownKid(Kid::parse(kid).unwrap()));
        assert_eq!(check(&ring, stored).err(), expected);
        assert_eq!(verify(&ring, text(&case, "token").as_bytes(), stored).err(), expected);
    }
}

/// Without a keyid the secret of the ring has no part in an argon2id hash.
#[test]
fn argon2id_without_a_keyid_verifies_in_any_ring() {
    let vectors = vectors();
    let case = cases(&vectors, "argon2id").into_iter().find(|case| case["kid"].is_null()).unwrap();
    for kid in ["k1", "k2", "prod2026"] {
        let verified =
            verify(&ring_of(kid), text(&case, "token").as_bytes(), text(&case, "stored"));
        assert_eq!(verified, Ok(true));
    }
}

/// A hash is due anew under another secret, scheme, cost or length of salt, and only then.
#[test]
fn needs_rehash_tells_what_changed() {
    let ring = ring_led_by("k1");
    let salt = "A".repeat(22);
    let tag = "A".repeat(43);
    let hmac = |kid: &str| format!("$hmac-sha256$v=1$kid={kid}${salt}${tag}");
    let argon2 = |cost: &str| format!("$argon2id$v=19${cost}${salt}${tag}");
    let due = |scheme, stored: &str| needs_rehash(scheme, &ring, stored).unwrap();
    assert!(!due(Scheme::HmacSha256, &hmac("k1")));
    assert!(due(Scheme::HmacSha256, &hmac("k2")));
    assert!(due(Scheme::HmacSha256, &hmac("gone")));
    assert!(due(Scheme::HmacSha256, &argon2("m=7168,t=1,p=1,keyid=azE")));
    assert!(due(argon2id(CHEAP), &hmac("k1")));
    assert!(!due(argon2id(CHEAP), &argon2("m=7168,t=1,p=1,keyid=azE")));
    for other in
        ["m=7169,t=1,p=1,keyid=azE", "m=7168,t=2,p=1,keyid=azE", "m=7168,t=1,p=2,keyid=azE"]
    {
        assert!(due(argon2id(CHEAP), &argon2(other)));
    }
    assert!(due(argon2id(CHEAP), &argon2("m=7168,t=1,p=1,keyid=azI")));
    assert!(due(argon2id(CHEAP), &argon2("m=7168,t=1,p=1")));
    let long_salt = format!("$argon2id$v=19$m=7168,t=1,p=1,keyid=azE${salt}AA${tag}");
    assert!(due(argon2id(CHEAP), &long_salt));
}

/// A random source that fails is an error.
#[test]
fn a_failing_random_source_is_an_error() {
    let ring = ring_led_by("k1");
    for scheme in [Scheme::HmacSha256, argon2id(CHEAP)] {
        for given in 0..16 {
            let made = hash(scheme, &ring, TOKEN, &mut Script::of(&[&vec![0; given]]));
            assert_eq!(made, Err(HashError::Random));
        }
    }
}

/// The string that `hash` returns verifies, and is never due anew at once.
#[test]
fn a_new_hash_verifies_and_is_not_due() {
    for kid in ["k1", "prod2026"] {
        let ring = ring_led_by(kid);
        for scheme in [Scheme::HmacSha256, argon2id(CHEAP), argon2id((8192, 2, 4))] {
            let stored = hash(scheme, &ring, TOKEN, &mut SysRng).unwrap();
            assert_eq!(verify(&ring, TOKEN, &stored), Ok(true));
            assert_eq!(verify(&ring, b"another token", &stored), Ok(false));
            assert_eq!(needs_rehash(scheme, &ring, &stored), Ok(false));
            assert_ne!(hash(scheme, &ring, TOKEN, &mut SysRng).unwrap(), stored);
        }
    }
}

proptest! {
    /// A hash verifies the bytes it was made of, and no others.
    #[test]
    fn a_hash_verifies_its_own_token_only(
        token in prop::collection::vec(any::<u8>(), 1..200),
        other in prop::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(), flip in 1..=255_u8,
    ) {
        let ring = ring_led_by("k1");
        let stored = hash(Scheme::HmacSha256, &ring, &token, &mut SysRng).unwrap();
        let mut near = token.clone();
        near[at.index(token.len())] ^= flip;
        prop_assert_eq!(verify(&ring, &token, &stored), Ok(true));
        prop_assert_eq!(verify(&ring, &near, &stored), Ok(false));
        prop_assert_eq!(verify(&ring, &token[1..], &stored), Ok(false));
        prop_assert_eq!(verify(&ring, &other, &stored), Ok(token == other));
    }

    /// A stored hash with any one character changed never verifies.
    #[test]
    fn a_changed_hash_never_verifies(at in any::<prop::sample::Index>(), other: char) {
        let ring = ring_led_by("k1");
        for case in cases(&vectors(), "hashes") {
            let stored = text(&case, "stored");
            let (front, back) = stored.split_at(at.index(stored.len()));
            let inserted = format!("{front}{other}{back}");
            let replaced = format!("{front}{other}{}", &back[1..]);
            for changed in [inserted, replaced].iter().filter(|changed| *changed != stored) {
                prop_assert_ne!(verify(&ring, text(&case, "token").as_bytes(), changed), Ok(true));
            }
        }
    }

    /// Any text is a stored hash or an error, and never a panic.
    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>(), schema in "(\\$[a-z0-9-]{0,9}){0,2}") {
        let ring = ring_led_by("k1");
        for stored in [text.clone(), format!("{schema}${text}"), format!("$argon2id$v=19${text}")] {
            prop_assert!(check(&ring, &stored).is_err());
            prop_assert!(verify(&ring, TOKEN, &stored).is_err());
            prop_assert!(needs_rehash(Scheme::HmacSha256, &ring, &stored).is_err());
        }
    }
}
