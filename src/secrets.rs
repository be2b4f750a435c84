//! Server secrets: the ring that a deployment holds, and the subkeys drawn from each secret.
//! Knows nothing of tokens, of stored hashes, or of Python.

use core::fmt;

use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode::Indifferent;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeSliceError, Engine};
use hmac::{Hmac, KeyInit, Mac};
use rand::{TryCryptoRng, TryRng};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// HMAC-SHA256 with its key already absorbed: cloning it saves two of five SHA-256 blocks a use.
pub type KeyedHmac = Hmac<Sha256>;

/// Bytes of a generated secret, and the fewest that are accepted: the strength of HMAC-SHA256.
pub const SECRET_LEN: usize = 32;
/// One block of SHA-256: HMAC would hash a longer key down to 32 bytes.
const MAX_SECRET_LEN: usize = 64;
/// Fewer different bytes than this are not random: 32 random ones have 30 on average, and fewer
/// than 16 less than once in 10^16 secrets.
const MIN_DISTINCT_BYTES: usize = 16;
const MAX_KID_LEN: usize = 8;
/// Written without padding; read without, or with all of it.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(Indifferent),
);

/// Why a ring was refused. Says nothing of what the secret holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    Empty,
    Shape,
    Kid,
    KidTwice(Kid),
    Encoding(Kid),
    Short(Kid),
    Long(Kid),
    NotRandom(Kid),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ADVICE: &str = "make one with `keylatch secret` or SecretRing.generate()";
        match self {
            Self::Empty => write!(f, "the server secret is empty: {ADVICE}"),
            Self::Shape => write!(
                f,
                "a server secret is written kid:base64url, several of them separated by commas, \
                 the active one first: {ADVICE}"
            ),
            Self::Kid => {
                f.write_str("the kid of a server secret is 1 to 8 lower-case letters or digits")
            }
            Self::KidTwice(kid) => {
                write!(f, "the ring names the kid {kid} twice: give each server secret its own")
            }
            Self::Encoding(kid) => {
                write!(f, "the server secret {kid} is not base64url: {ADVICE}")
            }
            Self::Short(kid) => write!(
                f,
                "the server secret {kid} is too short: it needs at least {SECRET_LEN} bytes \
                 (43 characters of base64url); {ADVICE}"
            ),
            Self::Long(kid) => {
                write!(f, "the server secret {kid} is longer than {MAX_SECRET_LEN} bytes: {ADVICE}")
            }
            Self::NotRandom(kid) => write!(
                f,
                "the server secret {kid} is not random (it repeats the same few bytes): {ADVICE}"
            ),
        }
    }
}

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomError;

impl fmt::Display for RandomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the operating system's random source failed; nothing was made, try again")
    }
}

/// Fills `bytes` from `random`, which outside of tests is the operating system's.
pub fn fill_random<R: TryRng + TryCryptoRng>(
    random: &mut R,
    bytes: &mut [u8],
) -> Result<(), RandomError> {
    random.try_fill_bytes(bytes).map_err(|_| RandomError)
}

/// The short public name of a server secret: 1 to 8 of `[a-z0-9]`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kid {
    bytes: [u8; MAX_KID_LEN],
    len: u8,
}

impl Kid {
    /// A kid out of its text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let source = text.as_bytes();
        let mut bytes = [0; MAX_KID_LEN];
        let (Some(target), false) = (bytes.get_mut(..source.len()), source.is_empty()) else {
            return Err(SecretError::Kid);
        };
        if !source.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(SecretError::Kid);
        }
        target.copy_from_slice(source);
        let len = u8::try_from(source.len()).map_err(|_| SecretError::Kid)?;
        Ok(Self { bytes, len })
    }

    /// The kid's text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One server secret, kept only as the subkeys that were derived from it.
pub struct ServerSecret {
    kid: Kid,
    seal: KeyedHmac,
    hash: KeyedHmac,
    argon2: Zeroizing<Vec<u8>>,
    import: KeyedHmac,
}

impl ServerSecret {
    fn derive(kid: Kid, secret: &[u8]) -> Self {
        let root = keyed(secret);
        Self {
            kid,
            seal: keyed(&subkey(&root, b"seal")),
            hash: keyed(&subkey(&root, b"hash")),
            argon2: subkey(&root, b"argon2"),
            import: keyed(&subkey(&root, b"import")),
        }
    }

    /// The secret's public name.
    pub fn kid(&self) -> Kid {
        self.kid
    }

    /// HMAC under the key that seals tokens.
    pub fn seal_mac(&self) -> KeyedHmac {
        self.seal.clone()
    }

    /// HMAC under the key that hashes tokens for storage.
    pub fn hash_mac(&self) -> KeyedHmac {
        self.hash.clone()
    }

    /// HMAC under the key that gives imported tokens their ids.
    pub fn import_mac(&self) -> KeyedHmac {
        self.import.clone()
    }

    /// The secret input K of Argon2.
    pub fn argon2_key(&self) -> &[u8] {
        self.argon2.as_slice()
    }
}

/// Server secrets, the active one first; never empty, no kid twice.
pub struct SecretRing {
    active: ServerSecret,
    retired: Vec<ServerSecret>,
}

impl SecretRing {
    /// Reads `kid:base64url` entries, separated by commas. Blanks around an entry are ignored,
    /// since a secret that is mounted from a file often ends in a newline.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        if text.trim_ascii().is_empty() {
            return Err(SecretError::Empty);
        }
        let mut entries = text.split(',').map(parse_entry);
        let active = entries.next().ok_or(SecretError::Empty)??;
        let mut ring = Self { active, retired: Vec::new() };
        for entry in entries {
            let secret = entry?;
            if ring.get(secret.kid).is_some() {
                return Err(SecretError::KidTwice(secret.kid));
            }
            ring.retired.push(secret);
        }
        Ok(ring)
    }

    /// A new random secret as the text to put into the environment.
    pub fn generate<R: TryRng + TryCryptoRng>(
        kid: Kid,
        random: &mut R,
    ) -> Result<Zeroizing<String>, RandomError> {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        fill_random(random, secret.as_mut_slice())?;
        let encoded = Zeroizing::new(BASE64URL.encode(secret.as_slice()));
        Ok(Zeroizing::new(format!("{kid}:{}", encoded.as_str())))
    }

    /// The secret that mints and hashes.
    pub fn active(&self) -> &ServerSecret {
        &self.active
    }

    /// Every secret, the active one first.
    pub fn iter(&self) -> impl Iterator<Item = &ServerSecret> {
        core::iter::once(&self.active).chain(&self.retired)
    }

    /// The secret of that name, if the ring has it.
    pub fn get(&self, kid: Kid) -> Option<&ServerSecret> {
        self.iter().find(|secret| secret.kid == kid)
    }
}

fn parse_entry(entry: &str) -> Result<ServerSecret, SecretError> {
    let (kid, encoded) = entry.trim_ascii().split_once(':').ok_or(SecretError::Shape)?;
    let kid = Kid::parse(kid)?;
    let mut bytes = Zeroizing::new([0; MAX_SECRET_LEN]);
    let len =
        BASE64URL.decode_slice(encoded, bytes.as_mut_slice()).map_err(|error| match error {
            DecodeSliceError::DecodeError(_) => SecretError::Encoding(kid),
            DecodeSliceError::OutputSliceTooSmall => SecretError::Long(kid),
        })?;
    let secret = bytes.get(..len).unwrap_or_default();
    if secret.len() < SECRET_LEN {
        return Err(SecretError::Short(kid));
    }
    if distinct_bytes(secret) < MIN_DISTINCT_BYTES {
        return Err(SecretError::NotRandom(kid));
    }
    Ok(ServerSecret::derive(kid, secret))
}

fn distinct_bytes(bytes: &[u8]) -> usize {
    (u8::MIN..=u8::MAX).filter(|byte| bytes.contains(byte)).count()
}

/// HMAC under a random key that nobody else has, and that ends with the process.
pub fn random_key<R: TryRng + TryCryptoRng>(random: &mut R) -> Result<KeyedHmac, RandomError> {
    let mut key = Zeroizing::new([0; SECRET_LEN]);
    fill_random(random, key.as_mut_slice())?;
    Ok(keyed(key.as_slice()))
}

/// HMAC keyed with at most one block; zeros behind a shorter key are what RFC 2104 asks for.
fn keyed(key: &[u8]) -> KeyedHmac {
    let mut block = Zeroizing::new([0; MAX_SECRET_LEN]);
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    KeyedHmac::new((&*block).into())
}

/// A key on the heap, so that moving it about leaves no copy behind on the stack.
fn subkey(root: &KeyedHmac, label: &[u8]) -> Zeroizing<Vec<u8>> {
    let mac = root.clone().chain_update(b"keylatch/v1/").chain_update(label);
    let mut tag = mac.finalize().into_bytes();
    let key = Zeroizing::new(tag.to_vec());
    tag.as_mut_slice().zeroize();
    key
}
