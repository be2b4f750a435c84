//! The token format: mint, parse, seal and checksum of `<prefix>_<key_id>_<secret><seal><checksum>`.
//! Knows nothing of stored hashes, headers or Python.

use core::fmt;
use core::ops::RangeInclusive;

use hmac::Mac;
use rand::{TryCryptoRng, TryRng};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::secrets::{Kid, RandomError, SecretRing, ServerSecret, fill_random};

pub const MAX_PREFIX_LEN: usize = 24;
pub const KEY_ID_LEN: usize = 16;
/// Five bits a character.
const KEY_ID_BYTES: usize = 10;
const SECRET_LEN: usize = 43;
const DIGITS_LEN: usize = 6;
/// Secret, seal and checksum: all that follows the last `_`.
pub const BODY_LEN: usize = SECRET_LEN + DIGITS_LEN + DIGITS_LEN;
/// `_`, key id, `_`, secret, seal and checksum: all that follows the prefix.
const TAIL_LEN: usize = 1 + KEY_ID_LEN + 1 + BODY_LEN;
pub const MAX_TOKEN_LEN: usize = MAX_PREFIX_LEN + TAIL_LEN;
/// How long a token of another format may be.
const FOREIGN_LEN: RangeInclusive<usize> = 8..=512;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Crockford's base 32, lower case: no i, l, o or u.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 62^6: what six base-62 digits can tell apart.
const DIGITS_RANGE: u64 = 62_u64.pow(6);
/// The largest multiple of 62 in a byte: bytes from here on are drawn again, or `0` to `7` would
/// come up more often than the other digits.
const UNBIASED: u8 = 248;

/// What is wrong with a text that should have been a token. Never holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    Prefix,
    Shape,
    Checksum,
    Foreign,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefix => {
                "a prefix is 1 to 24 letters and digits that begin with a letter, with single \
                 underscores between words, such as acme_live"
            }
            Self::Shape => {
                "not a keylatch token, which reads <prefix>_<key id>_<secret>: copy all of it, \
                 without spaces or quotes"
            }
            Self::Checksum => {
                "the token's checksum is wrong: it was mistyped or cut, copy it again"
            }
            Self::Foreign => {
                "a token of another format is 8 to 512 visible ASCII characters: others cannot \
                 be sent in a header"
            }
        })
    }
}

/// The name in front of a token: `[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*`, at most 24 characters.
pub struct Prefix<'a>(&'a str);

impl<'a> Prefix<'a> {
    /// A prefix out of its text.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        let words_are_whole = text
            .split('_')
            .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()));
        let starts_with_letter = text.starts_with(|first: char| first.is_ascii_alphabetic());
        if text.len() <= MAX_PREFIX_LEN && starts_with_letter && words_are_whole {
            Ok(Self(text))
        } else {
            Err(TokenError::Prefix)
        }
    }
}

/// The public name of a key: 16 characters of `BASE32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId([u8; KEY_ID_LEN]);

impl KeyId {
    /// A key id out of its text, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; KEY_ID_LEN] = text.as_bytes().try_into().ok()?;
        all(&bytes, is_base32).then_some(Self(bytes))
    }

    /// The key id that ten bytes make.
    fn of_bytes<'a>(bytes: impl Iterator<Item = &'a u8>) -> Self {
        let mut bits = bytes.fold(0, |bits: u128, byte| (bits << 8) | u128::from(*byte));
        let mut key_id = [0; KEY_ID_LEN];
        for digit in key_id.iter_mut().rev() {
            *digit = digit_of(BASE32, bits & 31);
            bits >>= 5;
        }
        Self(key_id)
    }

    /// The key id's text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// A number that is spread as evenly as the key ids, which are random: they are multiplied by
    /// the golden ratio, as Fibonacci hashing has it (Knuth, volume 3, section 6.4).
    pub fn spread(self) -> u64 {
        const GOLDEN: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let product = u128::from_ne_bytes(self.0).wrapping_mul(GOLDEN);
        u64::try_from(product >> 64).unwrap_or_default()
    }

    /// What stands in a credential where a token of one of these prefixes has its key id. It is not
    /// read: a row of that id tells, by its hash, of the whole credential.
    pub fn claimed(credential: &[u8], prefixes: &[String]) -> Option<Self> {
        let (prefix, tail) =
            credential.split_at_checked(credential.len().checked_sub(TAIL_LEN)?)?;
        let known = prefixes.iter().any(|known| known.as_bytes() == prefix);
        let (key_id, rest) = tail.strip_prefix(b"_")?.split_first_chunk()?;
        (known && rest.starts_with(b"_")).then_some(Self(*key_id))
    }
}

/// A whole token, well-formed and with a right checksum, or a foreign one, of another format, whose
/// prefix is empty. Whether it opens anything is not known.
/// `T` is a text of its own, which is wiped when it goes, or one that stands elsewhere.
#[derive(Clone, Copy)]
pub struct Token<T = Zeroizing<String>> {
    text: T,
    prefix_len: usize,
    key_id: KeyId,
}

impl<'a> Token<&'a str> {
    /// Reads a token, from the right, by fixed lengths.
    pub fn read(text: &'a str) -> Result<Self, TokenError> {
        let (prefix_len, key_id) = parts(text)?;
        Ok(Self { text, prefix_len, key_id })
    }

    /// A token of another format. Its key id is a digest under a server secret, so that whoever has
    /// the database alone cannot try tokens against it.
    pub fn foreign(text: &'a str, secret: &ServerSecret) -> Result<Self, TokenError> {
        let fits = FOREIGN_LEN.contains(&text.len());
        if !fits || !all(text.as_bytes(), |byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Foreign);
        }
        let tag = secret.import_mac().chain_update(text).finalize().into_bytes();
        Ok(Self { text, prefix_len: 0, key_id: KeyId::of_bytes(tag.iter().take(KEY_ID_BYTES)) })
    }

    /// The same with a text of its own.
    pub fn to_owned(self) -> Token {
        let Self { text, prefix_len, key_id } = self;
        Token { text: Zeroizing::new(text.to_owned()), prefix_len, key_id }
    }
}

impl Token {
    /// Reads a token and keeps its text.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        Ok(Token::read(text)?.to_owned())
    }

    /// Makes a new token: 80 random bits of key id, 256 of secret, sealed by the active secret.
    pub fn mint<R: TryRng + TryCryptoRng>(
        prefix: &Prefix<'_>,
        ring: &SecretRing,
        random: &mut R,
    ) -> Result<Self, RandomError> {
        let mut text = Zeroizing::new(String::with_capacity(MAX_TOKEN_LEN));
        text.push_str(prefix.0);
        text.push('_');
        let key_id = random_key_id(random)?;
        text.push_str(key_id.as_str());
        text.push('_');
        push_secret(&mut text, random)?;
        let seal = seal(ring.active(), &text);
        push_ascii(&mut text, &seal);
        let checksum = checksum(&text);
        push_ascii(&mut text, &checksum);
        Ok(Self { text, prefix_len: prefix.0.len(), key_id })
    }

    /// The same, as one whose text stands elsewhere.
    pub fn borrow(&self) -> Token<&str> {
        Token { text: &self.text, prefix_len: self.prefix_len, key_id: self.key_id }
    }
}

impl<'a> Token<&'a str> {
    /// The text, for as long as it stands where it is.
    pub fn text(self) -> &'a str {
        self.text
    }
}

impl<T: AsRef<str>> Token<T> {
    /// The whole token. A secret: it goes to the client or into a hash, and nowhere else.
    pub fn as_str(&self) -> &str {
        self.text.as_ref()
    }

    /// Whether it is of another format.
    pub fn is_foreign(&self) -> bool {
        self.prefix_len == 0
    }

    /// The prefix, such as `acme_live`; empty if it is foreign.
    pub fn prefix(&self) -> &str {
        self.as_str().get(..self.prefix_len).unwrap_or_default()
    }

    /// The key's public name.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Which server secret of the ring sealed this token, if any did. None seals a foreign one.
    pub fn sealed_by(&self, ring: &SecretRing) -> Option<Kid> {
        if self.is_foreign() {
            return None;
        }
        let text = self.as_str();
        let (rest, _checksum) = text.split_at_checked(text.len().checked_sub(DIGITS_LEN)?)?;
        let (sealed, found) = rest.split_at_checked(rest.len().checked_sub(DIGITS_LEN)?)?;
        ring.iter()
            .find(|secret| seal(secret, sealed).ct_eq(found.as_bytes()).into())
            .map(ServerSecret::kid)
    }
}

/// Checks every part of a token and tells where its prefix ends, and its key id.
fn parts(text: &str) -> Result<(usize, KeyId), TokenError> {
    if text.len() > MAX_TOKEN_LEN || !text.is_ascii() {
        return Err(TokenError::Shape);
    }
    let prefix_len = text.len().checked_sub(TAIL_LEN).ok_or(TokenError::Shape)?;
    let (prefix, tail) = text.split_at_checked(prefix_len).ok_or(TokenError::Shape)?;
    let key_id_and_rest = tail.strip_prefix('_').ok_or(TokenError::Shape)?;
    let (key_id, rest) = key_id_and_rest.split_at_checked(KEY_ID_LEN).ok_or(TokenError::Shape)?;
    let digits = rest.strip_prefix('_').ok_or(TokenError::Shape)?;
    let key_id = KeyId::parse(key_id).ok_or(TokenError::Shape)?;
    let well_formed = Prefix::parse(prefix).is_ok()
        && all(digits.as_bytes(), |digit| digit.is_ascii_alphanumeric());
    if !well_formed {
        return Err(TokenError::Shape);
    }
    if has_right_checksum(text) { Ok((prefix_len, key_id)) } else { Err(TokenError::Checksum) }
}

/// Whether the last six characters are the checksum of all before them.
pub fn has_right_checksum(text: &str) -> bool {
    let parts = text.len().checked_sub(DIGITS_LEN).and_then(|end| text.split_at_checked(end));
    parts.is_some_and(|(summed, found)| checksum(summed).as_slice() == found.as_bytes())
}

fn random_key_id<R: TryRng + TryCryptoRng>(random: &mut R) -> Result<KeyId, RandomError> {
    let mut bytes = [0; KEY_ID_BYTES];
    fill_random(random, &mut bytes)?;
    Ok(KeyId::of_bytes(bytes.iter()))
}

fn push_secret<R: TryRng + TryCryptoRng>(
    text: &mut String,
    random: &mut R,
) -> Result<(), RandomError> {
    let end = text.len() + SECRET_LEN;
    // 64 bytes hold 43 unbiased digits but for once in 10^16 times; then it draws again.
    let mut bytes = Zeroizing::new([0; 64]);
    while text.len() < end {
        fill_random(random, bytes.as_mut_slice())?;
        let unbiased = bytes.iter().filter(|byte| **byte < UNBIASED);
        for byte in unbiased.take(end - text.len()) {
            push_digit(text, BASE62, u128::from(byte % 62));
        }
    }
    Ok(())
}

/// A digit of `BASE32`: a range test, since searching the alphabet took a quarter of a parse.
pub fn is_base32(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'h' | b'j' | b'k' | b'm' | b'n' | b'p'..=b't' | b'v'..=b'z')
}

/// Whether all bytes pass: without a way out, so that many of them are looked at in one step.
pub fn all(bytes: &[u8], passes: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & passes(*byte))
}

/// Six characters that only a holder of the server secret can compute.
fn seal(secret: &ServerSecret, sealed: &str) -> [u8; DIGITS_LEN] {
    let tag = secret.seal_mac().chain_update(sealed).finalize().into_bytes();
    let head = tag.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte));
    base62_digits(head % DIGITS_RANGE)
}

/// Six characters that anyone can compute: CRC-32, as zlib has it.
fn checksum(summed: &str) -> [u8; DIGITS_LEN] {
    base62_digits(crc32fast::hash(summed.as_bytes()).into())
}

fn base62_digits(mut number: u64) -> [u8; DIGITS_LEN] {
    let mut digits = [b'0'; DIGITS_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = digit_of(BASE62, u128::from(number % 62));
        number /= 62;
    }
    digits
}

fn digit_of(alphabet: &[u8], value: u128) -> u8 {
    usize::try_from(value).ok().and_then(|value| alphabet.get(value)).copied().unwrap_or(b'0')
}

fn push_digit(text: &mut String, alphabet: &[u8], value: u128) {
    text.push(char::from(digit_of(alphabet, value)));
}

fn push_ascii(text: &mut String, ascii: &[u8]) {
    text.extend(ascii.iter().copied().map(char::from));
}
