//! Stored hashes: what the database keeps of a token, as PHC strings, and the policy for which
//! of them are accepted. Knows nothing of the token format, of headers, or of Python.

use core::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::Mac;
use rand::{TryCryptoRng, TryRng};
use subtle::{Choice, ConstantTimeEq};

use crate::secrets::{Kid, RandomError, SecretRing, ServerSecret, fill_random};

const SALT_LEN: usize = 16;
const TAG_LEN: usize = 32;
/// What Argon2 strings from elsewhere may bring: RFC 9106 asks for 8 bytes or more.
const MIN_FOREIGN_SALT_LEN: usize = 8;
const MAX_FOREIGN_SALT_LEN: usize = 64;
/// The longest string that the policy can accept has 181 characters.
const MAX_STORED_LEN: usize = 256;

/// Why a stored string was refused, or could not be made. Holds nothing of token or tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashError {
    Scheme,
    Malformed,
    Cost,
    UnknownKid(Kid),
    OutOfMemory,
    Random,
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str(
                "the stored hash is of a scheme that keylatch does not accept: it takes \
                 hmac-sha256 (v=1) and argon2id (v=19)",
            ),
            Self::Malformed => f.write_str(
                "the stored hash is malformed: store the whole string that hash() returned, \
                 in a column of at least 255 characters",
            ),
            Self::Cost => write!(
                f,
                "the cost of argon2id is outside the policy: memory_kib {} to {}, iterations \
                 {} to {}, parallelism {} to {}",
                Cost::MIN_MEMORY_KIB,
                Cost::MAX_MEMORY_KIB,
                Cost::MIN_ITERATIONS,
                Cost::MAX_ITERATIONS,
                Cost::MIN_PARALLELISM,
                Cost::MAX_PARALLELISM,
            ),
            Self::UnknownKid(kid) => write!(
                f,
                "the stored hash needs the server secret {kid}, which is not in the ring: \
                 put it back, behind the active one"
            ),
            Self::OutOfMemory => f.write_str("not enough memory for argon2id at this cost"),
            Self::Random => RandomError.fmt(f),
        }
    }
}

impl From<RandomError> for HashError {
    fn from(_: RandomError) -> Self {
        Self::Random
    }
}

/// A cost of Argon2id that the policy accepts; no other can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
}

impl Cost {
    /// 7 MiB, the lowest memory among the settings that OWASP's Password Storage Cheat Sheet
    /// holds to be equal.
    pub const MIN_MEMORY_KIB: u32 = 7 * 1024;
    /// 128 MiB: what a server can spare for one hash.
    pub const MAX_MEMORY_KIB: u32 = 128 * 1024;
    pub const MIN_ITERATIONS: u32 = 1;
    pub const MAX_ITERATIONS: u32 = 10;
    pub const MIN_PARALLELISM: u32 = 1;
    pub const MAX_PARALLELISM: u32 = 4;

    /// A cost, if the policy accepts it.
    pub fn new(memory_kib: u32, iterations: u32, parallelism: u32) -> Result<Self, HashError> {
        let accepted = (Self::MIN_MEMORY_KIB..=Self::MAX_MEMORY_KIB).contains(&memory_kib)
            && (Self::MIN_ITERATIONS..=Self::MAX_ITERATIONS).contains(&iterations)
            && (Self::MIN_PARALLELISM..=Self::MAX_PARALLELISM).contains(&parallelism);
        if accepted {
            Ok(Self { memory_kib, iterations, parallelism })
        } else {
            Err(HashError::Cost)
        }
    }

    fn params(self) -> Result<Params, HashError> {
        Params::new(self.memory_kib, self.iterations, self.parallelism, Some(TAG_LEN))
            .map_err(|_| HashError::Cost)
    }
}

/// How a token becomes a stored hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    HmacSha256,
    Argon2id(Cost),
}

impl Scheme {
    /// Fills `tag` from the token. Only Argon2id is slow, and only it can fail.
    fn tag(
        self,
        secret: Option<&ServerSecret>,
        salt: &[u8],
        token: &[u8],
    ) -> Result<[u8; TAG_LEN], HashError> {
        match (self, secret) {
            (Self::HmacSha256, None) => Err(HashError::Malformed),
            (Self::HmacSha256, Some(secret)) => {
                let mut mac = secret.hash_mac();
                mac.update(salt);
                mac.update(token);
                Ok(mac.finalize().into_bytes().into())
            }
            (Self::Argon2id(cost), secret) => {
                let key = secret.map_or(&[][..], ServerSecret::argon2_key);
                let mut tag = [0; TAG_LEN];
                Argon2::new_with_secret(key, Algorithm::Argon2id, Version::V0x13, cost.params()?)
                    .and_then(|argon2| argon2.hash_password_into(token, salt, &mut tag))
                    .map_err(|error| match error {
                        argon2::Error::OutOfMemory => HashError::OutOfMemory,
                        _ => HashError::Malformed,
                    })?;
                Ok(tag)
            }
        }
    }
}

/// Bytes of a salt. Those that we made need no memory of their own, of which a cache has many.
#[derive(Clone)]
enum Salt {
    Ours([u8; SALT_LEN]),
    Foreign(Box<[u8]>),
}

/// A stored string, parsed: its scheme and cost are within the policy.
#[derive(Clone)]
pub struct StoredHash {
    scheme: Scheme,
    kid: Option<Kid>,
    salt: Salt,
    tag: [u8; TAG_LEN],
}

impl StoredHash {
    /// Reads a stored string, and refuses one that is outside the policy.
    pub fn parse(stored: &str) -> Result<Self, HashError> {
        if stored.len() > MAX_STORED_LEN {
            return Err(HashError::Malformed);
        }
        let mut fields = stored.split('$');
        if fields.next() != Some("") {
            return Err(HashError::Malformed);
        }
        let (scheme, kid) = match (fields.next(), fields.next()) {
            (Some("hmac-sha256"), Some("v=1")) => parse_hmac_parameters(fields.next())?,
            (Some("argon2id"), Some("v=19")) => parse_argon2_parameters(fields.next())?,
            _ => return Err(HashError::Scheme),
        };
        let mut salt = [0; MAX_FOREIGN_SALT_LEN];
        let salt_len = decode(fields.next(), &mut salt)?;
        let mut tag = [0; TAG_LEN];
        let tag_len = decode(fields.next(), &mut tag)?;
        let salt_accepted = match scheme {
            Scheme::HmacSha256 => salt_len == SALT_LEN,
            Scheme::Argon2id(_) => salt_len >= MIN_FOREIGN_SALT_LEN,
        };
        if fields.next().is_some() || tag_len != TAG_LEN || !salt_accepted {
            return Err(HashError::Malformed);
        }
        let salt = salt.get(..salt_len).unwrap_or_default();
        let salt = salt.try_into().map_or_else(|_| Salt::Foreign(salt.into()), Salt::Ours);
        Ok(Self { scheme, kid, salt, tag })
    }

    /// Whether this is the hash of that token. `UnknownKid` is the only error of a fast hash.
    pub fn matches(&self, ring: &SecretRing, token: &[u8]) -> Result<bool, HashError> {
        let tag = self.scheme.tag(self.secret(ring)?, self.salt(), token)?;
        Ok(same(&tag, &self.tag).into())
    }

    /// Whether it takes time and memory that must not be spent on an event loop.
    pub fn is_slow(&self) -> bool {
        matches!(self.scheme, Scheme::Argon2id(_))
    }

    /// Whether it is under another server secret than the active one, or under none.
    pub fn is_outdated(&self, ring: &SecretRing) -> bool {
        self.kid != Some(ring.active().kid())
    }

    /// The server secret that it needs, if it needs one.
    pub fn secret<'a>(&self, ring: &'a SecretRing) -> Result<Option<&'a ServerSecret>, HashError> {
        let found = |kid| ring.get(kid).ok_or(HashError::UnknownKid(kid));
        self.kid.map(found).transpose()
    }

    fn salt(&self) -> &[u8] {
        match &self.salt {
            Salt::Ours(salt) => salt,
            Salt::Foreign(salt) => salt,
        }
    }
}

/// Reads `kid=<kid>`.
fn parse_hmac_parameters(field: Option<&str>) -> Result<(Scheme, Option<Kid>), HashError> {
    let kid = field.and_then(|field| field.strip_prefix("kid=")).ok_or(HashError::Malformed)?;
    Ok((Scheme::HmacSha256, Some(parse_kid(kid)?)))
}

/// Reads `m=<KiB>,t=<iterations>,p=<lanes>`, and `,keyid=<B64 of kid>` if it is there.
fn parse_argon2_parameters(field: Option<&str>) -> Result<(Scheme, Option<Kid>), HashError> {
    let mut parameters = field.ok_or(HashError::Malformed)?.split(',');
    let mut next = |name| parameters.next().and_then(|field| field.strip_prefix(name));
    let memory_kib = parse_number(next("m="))?;
    let iterations = parse_number(next("t="))?;
    let parallelism = parse_number(next("p="))?;
    let kid = match parameters.next() {
        None => None,
        Some(field) => {
            let mut kid = [0; 8];
            let len = decode(field.strip_prefix("keyid="), &mut kid)?;
            let kid = kid.get(..len).and_then(|kid| core::str::from_utf8(kid).ok());
            Some(parse_kid(kid.ok_or(HashError::Malformed)?)?)
        }
    };
    if parameters.next().is_some() {
        return Err(HashError::Malformed);
    }
    Ok((Scheme::Argon2id(Cost::new(memory_kib, iterations, parallelism)?), kid))
}

fn parse_kid(text: &str) -> Result<Kid, HashError> {
    Kid::parse(text).map_err(|_| HashError::Malformed)
}

/// A decimal number as the PHC string format writes it: no sign, no leading zero.
fn parse_number(text: Option<&str>) -> Result<u32, HashError> {
    let digits = text.filter(|text| {
        text.bytes().all(|b| b.is_ascii_digit()) && (*text == "0" || !text.starts_with('0'))
    });
    let digits = digits.filter(|digits| !digits.is_empty()).ok_or(HashError::Malformed)?;
    // Digits only, so what does not fit is a number past every bound.
    Ok(digits.parse().unwrap_or(u32::MAX))
}

/// Decodes B64 into the front of `bytes` and tells how many it filled.
fn decode(text: Option<&str>, bytes: &mut [u8]) -> Result<usize, HashError> {
    let text = text.ok_or(HashError::Malformed)?;
    STANDARD_NO_PAD.decode_slice(text, bytes).map_err(|_| HashError::Malformed)
}

/// Makes a stored hash of a token, by the given scheme and the ring's active secret.
pub fn hash<R: TryRng + TryCryptoRng>(
    scheme: Scheme,
    ring: &SecretRing,
    token: &[u8],
    random: &mut R,
) -> Result<String, HashError> {
    let secret = ring.active();
    let mut salt = [0; SALT_LEN];
    fill_random(random, &mut salt)?;
    let tag = STANDARD_NO_PAD.encode(scheme.tag(Some(secret), &salt, token)?);
    let salt = STANDARD_NO_PAD.encode(salt);
    let kid = secret.kid();
    Ok(match scheme {
        Scheme::HmacSha256 => format!("$hmac-sha256$v=1$kid={kid}${salt}${tag}"),
        Scheme::Argon2id(Cost { memory_kib, iterations, parallelism }) => {
            let keyid = STANDARD_NO_PAD.encode(kid.as_str().as_bytes());
            format!(
                "$argon2id$v=19$m={memory_kib},t={iterations},p={parallelism},keyid={keyid}\
                 ${salt}${tag}"
            )
        }
    })
}

/// Whether `stored` could be verified at all: the errors of `verify` without its work.
pub fn check(ring: &SecretRing, stored: &str) -> Result<(), HashError> {
    StoredHash::parse(stored)?.secret(ring).map(|_| ())
}

/// Whether `stored` is the hash of this token. A string outside the policy is an error, found
/// before memory or time is spent on it.
pub fn verify(ring: &SecretRing, token: &[u8], stored: &str) -> Result<bool, HashError> {
    StoredHash::parse(stored)?.matches(ring, token)
}

/// Compares in constant time, and by words: by bytes it took a sixth of an HMAC's verification.
pub fn same(tag: &[u8; TAG_LEN], other: &[u8; TAG_LEN]) -> Choice {
    let (words, _) = tag.as_chunks::<8>();
    let (others, _) = other.as_chunks::<8>();
    let pairs = words.iter().zip(others);
    pairs.fold(Choice::from(1), |same, (word, other)| {
        same & u64::from_ne_bytes(*word).ct_eq(&u64::from_ne_bytes(*other))
    })
}

/// Whether a new hash by this scheme and the ring's active secret would be made otherwise.
pub fn needs_rehash(scheme: Scheme, ring: &SecretRing, stored: &str) -> Result<bool, HashError> {
    let stored = StoredHash::parse(stored)?;
    let same =
        stored.scheme == scheme && !stored.is_outdated(ring) && stored.salt().len() == SALT_LEN;
    Ok(!same)
}
