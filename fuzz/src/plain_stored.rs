//! Stored hashes, read field by field out of the format's description, and written again: what
//! comes out has to be what went in. Knows nothing of how the core reads them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// A stored hash in its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// Memory in KiB, iterations and lanes; `None` for HMAC-SHA256.
    pub cost: Option<(u32, u32, u32)>,
    pub kid: Option<String>,
    pub salt: Vec<u8>,
    pub tag: Vec<u8>,
}

/// Reads a stored hash; `None` if it is outside the format or the policy.
#[must_use]
pub fn read(text: &str) -> Option<Stored> {
    let fields: Vec<&str> = text.split('$').collect();
    let ["", scheme, version, parameters, salt, tag] = fields[..] else { return None };
    let (cost, kid) = match (scheme, version) {
        ("hmac-sha256", "v=1") => (None, Some(parameters.strip_prefix("kid=")?.to_owned())),
        ("argon2id", "v=19") => {
            let (cost, kid) = match parameters.split_once(",keyid=") {
                Some((cost, kid)) => (cost, Some(String::from_utf8(decoded(kid)?).ok()?)),
                None => (parameters, None),
            };
            let numbers: Vec<&str> = cost.split(',').collect();
            let [memory, iterations, lanes] = numbers[..] else { return None };
            let memory = number(memory.strip_prefix("m=")?, 7 * 1024, 128 * 1024)?;
            let iterations = number(iterations.strip_prefix("t=")?, 1, 10)?;
            (Some((memory, iterations, number(lanes.strip_prefix("p=")?, 1, 4)?)), kid)
        }
        _ => return None,
    };
    let stored = Stored { cost, kid, salt: decoded(salt)?, tag: decoded(tag)? };
    let salt_fits = match cost {
        None => stored.salt.len() == 16,
        Some(_) => (8..=64).contains(&stored.salt.len()),
    };
    let kid_fits = stored.kid.as_ref().is_none_or(|kid| {
        (1..=8).contains(&kid.len()) && kid.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9'))
    });
    (salt_fits && kid_fits && stored.tag.len() == 32).then_some(stored)
}

impl Stored {
    /// The one way to write it.
    #[must_use]
    pub fn written(&self) -> String {
        let (salt, tag) = (STANDARD_NO_PAD.encode(&self.salt), STANDARD_NO_PAD.encode(&self.tag));
        let kid = self.kid.clone().unwrap_or_default();
        match self.cost {
            None => format!("$hmac-sha256$v=1$kid={kid}${salt}${tag}"),
            Some((memory, iterations, lanes)) => {
                let keyid = self.kid.as_ref().map(|kid| STANDARD_NO_PAD.encode(kid));
                let keyid = keyid.map(|keyid| format!(",keyid={keyid}")).unwrap_or_default();
                format!("$argon2id$v=19$m={memory},t={iterations},p={lanes}{keyid}${salt}${tag}")
            }
        }
    }
}

/// A decimal number within its bounds, written as it is printed.
fn number(text: &str, low: u32, high: u32) -> Option<u32> {
    let number = text.parse().ok()?;
    ((low..=high).contains(&number) && number.to_string() == text).then_some(number)
}

/// B64: six bits a letter, no padding, and zeros in what is left over.
fn decoded(text: &str) -> Option<Vec<u8>> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = Vec::new();
    for letter in text.bytes() {
        let value = LETTERS.iter().position(|known| *known == letter)?;
        bits.extend((0..6).rev().map(|place| value >> place & 1));
    }
    let left_over = bits.split_off(bits.len() / 8 * 8);
    if left_over.len() > 5 || left_over.contains(&1) {
        return None;
    }
    let byte = |eight: &[usize]| eight.iter().fold(0, |sum, bit| sum * 2 + bit);
    bits.chunks(8).map(|eight| u8::try_from(byte(eight)).ok()).collect()
}
