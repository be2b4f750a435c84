//! The token format and seals, read letter by letter out of the format's description. Slow on
//! purpose; knows nothing of how the core reads them.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BASE32: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A token in its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts {
    pub prefix: String,
    pub key_id: String,
    pub secret: String,
    pub seal: String,
    pub checksum: String,
}

/// Cuts a text at its last two underscores, and looks at each part; `None` if one is wrong.
#[must_use]
pub fn shape(text: &str) -> Option<Parts> {
    let mut parts = text.rsplitn(3, '_');
    let (digits, key_id, prefix) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = is_prefix(prefix)
        && key_id.len() == 16
        && key_id.bytes().all(|letter| BASE32.contains(&letter))
        && digits.len() == 43 + 6 + 6
        && digits.bytes().all(|digit| BASE62.contains(&digit));
    fits.then(|| Parts {
        prefix: prefix.into(),
        key_id: key_id.into(),
        secret: digits[..43].into(),
        seal: digits[43..49].into(),
        checksum: digits[49..].into(),
    })
}

/// `[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*`, 1 to 24 letters, by a machine of three states.
#[must_use]
pub fn is_prefix(text: &str) -> bool {
    enum Last {
        Nothing,
        Word,
        Underscore,
    }
    let mut last = Last::Nothing;
    for letter in text.chars() {
        last = match (last, letter) {
            (Last::Nothing, 'A'..='Z' | 'a'..='z')
            | (Last::Word | Last::Underscore, 'A'..='Z' | 'a'..='z' | '0'..='9') => Last::Word,
            (Last::Word, '_') => Last::Underscore,
            _ => return false,
        };
    }
    matches!(last, Last::Word) && text.chars().count() <= 24
}

/// The checksum of all that stands in front of it: CRC-32, bit by bit.
#[must_use]
pub fn checksum(summed: &[u8]) -> String {
    let mut register = u32::MAX;
    for byte in summed {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            let low = register & 1;
            register = (register >> 1) ^ (0xEDB8_8320 * low);
        }
    }
    digits(u64::from(!register))
}

/// The seal of all that stands in front of it, under a server secret.
#[must_use]
pub fn seal(secret: &[u8], sealed: &str) -> String {
    let tag = hmac(&hmac(secret, b"keylatch/v1/seal"), sealed.as_bytes());
    let number = tag[..8].iter().fold(0, |number, byte| number * 256 + u64::from(*byte));
    digits(number % 62_u64.pow(6))
}

/// The key id of a token of another format: the first 80 bits of a digest, five at a time.
#[must_use]
pub fn foreign_id(secret: &[u8], text: &str) -> String {
    let tag = hmac(&hmac(secret, b"keylatch/v1/import"), text.as_bytes());
    let bits: Vec<u8> =
        tag[..10].iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let letter = |five: &[u8]| BASE32[five.iter().fold(0, |sum, bit| sum * 2 + usize::from(*bit))];
    bits.chunks(5).map(|five| char::from(letter(five))).collect()
}

/// HMAC-SHA256.
///
/// # Panics
/// Never: a key of any length will do.
#[must_use]
pub fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any key will do");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn digits(number: u64) -> String {
    let digit = |place| BASE62[usize::try_from(number / 62_u64.pow(place) % 62).unwrap_or(0)];
    (0..6).rev().map(|place| char::from(digit(place))).collect()
}
