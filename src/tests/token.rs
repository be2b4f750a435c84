//! The token format: vectors, every kind of damage, and a random source that misbehaves.

use proptest::prelude::*;
use rand::rngs::SysRng;

use super::{Script, cases, ring_led_by, text, vectors};
use crate::secrets::{RandomError, SecretRing};
use crate::token::{Prefix, Token, TokenError};

const KEY_ID: [u8; 10] = [0; 10];

fn mint(prefix: &str, ring: &SecretRing, random: &mut Script) -> Result<Token, RandomError> {
    Token::mint(&Prefix::parse(prefix).unwrap(), ring, random)
}

/// The secret of a token: 43 characters, in front of seal and checksum.
fn secret(token: &Token) -> &str {
    let end = token.as_str().len() - 12;
    &token.as_str()[end - 43..end]
}

/// Every token of the vectors falls into the parts that the vectors name.
#[test]
fn vectors_parse_to_their_parts() {
    let ring = ring_led_by("k1");
    for case in cases(&vectors(), "tokens") {
        let token = Token::parse(text(&case, "token")).unwrap();
        assert_eq!(token.as_str(), text(&case, "token"));
        assert_eq!(token.prefix(), text(&case, "prefix"));
        assert_eq!(token.key_id().as_str(), text(&case, "key_id"));
        assert_eq!(token.sealed_by(&ring).unwrap().as_str(), text(&case, "sealed_by"));
        let tail = format!("{}{}", text(&case, "seal"), text(&case, "checksum"));
        assert!(token.as_str().ends_with(&tail));
    }
}

/// A seal is told by the ring that has its secret, and by no other.
#[test]
fn a_seal_needs_its_secret() {
    let vectors = vectors();
    for entry in text(&vectors, "secret_ring").split(',') {
        let ring = SecretRing::parse(entry).unwrap();
        let kid = ring.active().kid().to_string();
        for case in cases(&vectors, "tokens") {
            let sealed_by = Token::parse(text(&case, "token")).unwrap().sealed_by(&ring);
            let expected = (text(&case, "sealed_by") == kid).then_some(ring.active().kid());
            assert_eq!(sealed_by, expected);
        }
    }
}

/// The malformed tokens of the vectors are refused.
#[test]
fn malformed_vectors_are_refused() {
    for case in cases(&vectors(), "malformed") {
        assert!(Token::parse(text(&case, "token")).is_err(), "{}", text(&case, "why"));
    }
}

/// The forged tokens of the vectors have a right checksum, and no secret of ours sealed them.
#[test]
fn forged_vectors_parse_and_are_sealed_by_none() {
    let ring = ring_led_by("k1");
    for case in cases(&vectors(), "forged") {
        let token = Token::parse(text(&case, "token")).unwrap();
        assert_eq!(token.prefix(), text(&case, "prefix"));
        assert_eq!(token.sealed_by(&ring), None);
    }
}

/// No ASCII character can stand for another, be added or be left out, anywhere in a token.
#[test]
fn any_ascii_change_of_one_character_is_refused() {
    for case in cases(&vectors(), "tokens").iter().take(8) {
        let token = text(case, "token");
        for at in 0..=token.len() {
            let (front, back) = token.split_at(at);
            let rest = back.get(1..);
            for other in (0..=127).map(char::from) {
                assert!(Token::parse(&format!("{front}{other}{back}")).is_err());
                if let Some(rest) = rest.filter(|_| !back.starts_with(other)) {
                    assert!(Token::parse(&format!("{front}{other}{rest}")).is_err());
                }
            }
            if let Some(rest) = rest {
                assert!(Token::parse(&format!("{front}{rest}")).is_err());
            }
        }
    }
}

/// The prefix format holds at each edge.
#[test]
fn prefixes_are_held_to_their_format() {
    let longest = "abcdefghijklmnopqrstuvwx";
    for right in ["a", "Z", "a0", "a_0", "acme_live", "MV_SECRET", "a1_b2_c3", longest] {
        assert!(Prefix::parse(right).is_ok(), "{right}");
    }
    let too_long = format!("{longest}y");
    let wrong =
        ["", "_", "0", "0a", "_a", "a_", "a__b", "a-b", "a b", "a\n", "\0", "ä", "a\u{661}"];
    for wrong in wrong.into_iter().chain([too_long.as_str()]) {
        assert_eq!(Prefix::parse(wrong).err(), Some(TokenError::Prefix), "{wrong:?}");
    }
}

/// The key id is 80 random bits, most significant first.
#[test]
fn the_key_id_spells_its_bits() {
    let ring = ring_led_by("k1");
    let key_id = |bytes: [u8; 10]| {
        mint("k", &ring, &mut Script::of(&[&bytes, &[0; 64]])).unwrap().key_id().as_str().to_owned()
    };
    assert_eq!(key_id([0; 10]), "0000000000000000");
    assert_eq!(key_id([255; 10]), "zzzzzzzzzzzzzzzz");
    assert_eq!(key_id([128, 0, 0, 0, 0, 0, 0, 0, 0, 1]), "g000000000000001");
    // Five bits a character, 0 to 15 and then 16 to 31, are the alphabet itself.
    assert_eq!(key_id([0, 68, 50, 20, 199, 66, 84, 182, 53, 207]), "0123456789abcdef");
    assert_eq!(key_id([132, 101, 58, 86, 215, 198, 117, 190, 119, 223]), "ghjkmnpqrstvwxyz");
}

/// Of the 256 bytes, four make each digit of a secret and eight make none: no digit is favoured.
#[test]
fn every_digit_of_a_secret_is_as_likely() {
    let ring = ring_led_by("k1");
    let mut times = std::collections::BTreeMap::new();
    for byte in 0..=255 {
        let minted = mint("k", &ring, &mut Script::of(&[&KEY_ID, &[byte; 64]]));
        assert_eq!(minted.is_ok(), byte < 248, "{byte}");
        if let Ok(token) = minted {
            let digit = secret(&token).chars().next().unwrap();
            assert!(secret(&token).chars().all(|other| other == digit));
            *times.entry(digit).or_insert(0) += 1;
        }
    }
    assert_eq!(times.keys().filter(|digit| digit.is_ascii_alphanumeric()).count(), 62);
    assert!(times.values().all(|times| *times == 4));
}

/// Bytes that would favour a digit are passed over for as long as they come.
#[test]
fn biased_bytes_are_drawn_again() {
    let ring = ring_led_by("k1");
    let biased: Vec<u8> = (248..=255).cycle().take(64 * 5 + 63).collect();
    let digits: Vec<u8> = (0..64).collect();
    let token = mint("k", &ring, &mut Script::of(&[&KEY_ID, &biased, &digits, &[0; 63]])).unwrap();
    assert_eq!(secret(&token), "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg");
    assert_eq!(token.sealed_by(&ring), Some(ring.active().kid()));
}

/// A random source that fails, at whatever point, is an error.
#[test]
fn a_failing_random_source_is_an_error() {
    let ring = ring_led_by("k1");
    for given in 0..10 + 64 {
        assert_eq!(mint("k", &ring, &mut Script::of(&[&vec![0; given]])).err(), Some(RandomError));
    }
    let starved = [255; 10 + 64 * 8];
    assert_eq!(mint("k", &ring, &mut Script::of(&[&starved])).err(), Some(RandomError));
    assert!(mint("k", &ring, &mut Script::of(&[&[0; 10 + 64]])).is_ok());
}

proptest! {
    /// What was minted parses to what it was minted from.
    #[test]
    fn mint_then_parse_is_the_identity(
        prefix in "[A-Za-z][A-Za-z0-9]{0,6}(_[A-Za-z0-9]{1,7}){0,2}", kid in "k1|k2|prod2026",
    ) {
        let ring = ring_led_by(&kid);
        let minted = Token::mint(&Prefix::parse(&prefix).unwrap(), &ring, &mut SysRng).unwrap();
        let parsed = Token::parse(minted.as_str()).unwrap();
        prop_assert_eq!(parsed.as_str(), minted.as_str());
        prop_assert_eq!(parsed.prefix(), &prefix);
        prop_assert_eq!(parsed.prefix(), minted.prefix());
        prop_assert_eq!(parsed.key_id(), minted.key_id());
        prop_assert_eq!(parsed.sealed_by(&ring).unwrap().to_string(), kid);
        prop_assert_eq!(parsed.as_str().len(), prefix.len() + 73);
    }

    /// No character of all Unicode can stand for another or be added.
    #[test]
    fn any_change_of_one_character_is_refused(at in any::<prop::sample::Index>(), other: char) {
        for case in cases(&vectors(), "tokens") {
            let token = text(&case, "token");
            let at = at.index(token.len());
            let (front, back) = token.split_at(at);
            assert!(Token::parse(&format!("{front}{other}{back}")).is_err());
            if !back.starts_with(other) {
                assert!(Token::parse(&format!("{front}{other}{}", &back[1..])).is_err());
            }
        }
    }

    /// Any text at all is a token or an error, and never a panic.
    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>()) {
        let _ = Token::parse(&text);
        let _ = Prefix::parse(&text);
    }

    /// Nor does a token panic with any text in the place of some of it.
    #[test]
    fn a_token_damaged_at_will_is_read_without_a_panic(
        text in any::<String>(), from in 0..=82_usize, to in 0..=82_usize,
    ) {
        let token = "acme_live_jgx5hwj83p7wsea0_FvIRgMG6jlJugNvmoYLXI42U6wdNidb2Hrx935RgtFjhsbdPg3Myscw";
        let damaged = format!("{}{text}{}", &token[..from.min(to)], &token[from.max(to)..]);
        prop_assert_eq!(Token::parse(&damaged).is_ok(), damaged == token);
    }
}
