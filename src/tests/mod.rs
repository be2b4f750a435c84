//! Tests of the core without Python, a file for each module; here, what they share.

#[cfg(not(feature = "shuttle"))]
mod cache;
#[cfg(not(feature = "shuttle"))]
mod clock;
#[cfg(not(feature = "shuttle"))]
mod engine;
mod hash;
mod hash_policy;
mod headers;
#[cfg(not(feature = "shuttle"))]
mod imported;
#[cfg(feature = "shuttle")]
mod interleavings;
#[cfg(not(feature = "shuttle"))]
mod ledger;
#[cfg(not(feature = "shuttle"))]
mod limiter;
mod masking;
mod rules;
mod scan;
mod secrets;
mod sources;
mod token;

use core::fmt;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::{TryCryptoRng, TryRng};
use serde_json::Value;

use crate::cache::Row;
use crate::hash::StoredHash;
use crate::secrets::SecretRing;
use crate::token::KeyId;

/// The vectors of format 1, which an independent implementation wrote.
fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/keylatch-v1.json")).unwrap()
}

/// The list of that name in the vectors.
fn cases(vectors: &Value, name: &str) -> Vec<Value> {
    let cases = vectors[name].as_array().unwrap();
    assert!(!cases.is_empty());
    cases.clone()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| core::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// The ring of the vectors with the secret of that kid in front.
fn ring_led_by(kid: &str) -> SecretRing {
    let vectors = vectors();
    let (mut active, mut retired) = (Vec::new(), Vec::new());
    for entry in text(&vectors, "secret_ring").split(',') {
        let leads = entry.starts_with(&format!("{kid}:"));
        if leads { active.push(entry) } else { retired.push(entry) }
    }
    SecretRing::parse(&[active, retired].concat().join(",")).unwrap()
}

/// An entry of a ring that holds these bytes.
fn entry(kid: &str, secret: &[u8]) -> String {
    format!("{kid}:{}", URL_SAFE_NO_PAD.encode(secret))
}

/// As many different bytes as are asked for.
fn bytes(count: u8) -> Vec<u8> {
    (0..count).collect()
}

/// A random source that plays these bytes and then fails.
struct Script(std::vec::IntoIter<u8>);

impl Script {
    fn of(parts: &[&[u8]]) -> Self {
        Self(parts.concat().into_iter())
    }
}

#[derive(Debug)]
struct Exhausted;

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no random bytes are left")
    }
}

impl core::error::Error for Exhausted {}

impl TryRng for Script {
    type Error = Exhausted;

    fn try_next_u32(&mut self) -> Result<u32, Exhausted> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Exhausted> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Exhausted> {
        bytes.iter_mut().try_for_each(|byte| {
            *byte = self.0.next().ok_or(Exhausted)?;
            Ok(())
        })
    }
}

impl TryCryptoRng for Script {}

/// A key id for each number.
fn key_id(number: u32) -> KeyId {
    let alphabet = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digits = (0..16).rev().map(|place: u32| {
        let digit = number.checked_shr(5 * place).unwrap_or(0) & 31;
        char::from(alphabet[digit as usize])
    });
    KeyId::parse(&digits.collect::<String>()).unwrap()
}

/// A row of a key without scopes, that never ends.
fn row(key_id: KeyId, epoch: u64) -> Row<()> {
    static STORED: OnceLock<String> = OnceLock::new();
    let stored = || text(&cases(&vectors(), "hashes")[0], "stored").to_owned();
    Row {
        key_id,
        key: Some(()),
        hash: StoredHash::parse(STORED.get_or_init(stored)).unwrap(),
        expires_at: None,
        revoked: false,
        good_until: u64::MAX,
        remembered: OnceLock::new(),
        outdated: None,
        epoch,
    }
}
