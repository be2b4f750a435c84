//! The core's own files, as they stand in `src`, and plain readings of the same rules beside them.
//! Knows nothing of Python, and nothing of how libFuzzer runs it.

// What the core offers to its other modules, and no target needs, is no mistake here.
#[allow(dead_code, clippy::pedantic)]
#[path = "../../src/cookies.rs"]
pub mod cookies;
#[allow(dead_code, clippy::pedantic)]
#[path = "../../src/hash.rs"]
pub mod hash;
#[allow(dead_code, clippy::pedantic)]
#[path = "../../src/headers.rs"]
pub mod headers;
#[allow(dead_code, clippy::pedantic)]
#[path = "../../src/query.rs"]
pub mod query;
#[allow(dead_code, clippy::pedantic)]
#[path = "../../src/secrets.rs"]
pub mod secrets;
#[allow(dead_code, clippy::pedantic)]
#[path = "../../src/token.rs"]
pub mod token;

pub mod plain_headers;
pub mod plain_stored;
pub mod plain_token;

use core::convert::Infallible;
use core::fmt;

use rand::{TryCryptoRng, TryRng};

/// The server secrets of `tests/vectors/keylatch-v1.json`, as the environment has them.
pub const RING: &str = "k1:iqU9wVzaYpNiW8Hlp9_69jLnrKfn3G1-gQTwKI-IYyw,\
                        k2:3LAV0HZ2e48yF7wWnpsRioGfZ9p6Rp5g-m59Y5S6Z7w,\
                        prod2026:YwCWL97Ahwd-64unKGez-ntP5xKVJtUZ1eSsbF91Eqc";

/// The first of them.
pub const ACTIVE: [u8; 32] = [
    0x8a, 0xa5, 0x3d, 0xc1, 0x5c, 0xda, 0x62, 0x93, 0x62, 0x5b, 0xc1, 0xe5, 0xa7, 0xdf, 0xfa, 0xf6,
    0x32, 0xe7, 0xac, 0xa7, 0xe7, 0xdc, 0x6d, 0x7e, 0x81, 0x04, 0xf0, 0x28, 0x8f, 0x88, 0x63, 0x2c,
];

/// A random source that plays an input, and after it counts, so that it never repeats for long.
pub struct Played<'a> {
    input: &'a [u8],
    after: u8,
}

impl<'a> Played<'a> {
    /// Plays these bytes.
    #[must_use]
    pub fn of(input: &'a [u8]) -> Self {
        Self { input, after: 0 }
    }

    fn next(&mut self) -> u8 {
        if let Some((first, rest)) = self.input.split_first() {
            self.input = rest;
            return *first;
        }
        self.after = self.after.wrapping_add(1);
        self.after
    }
}

impl fmt::Debug for Played<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Played({})", self.input.len())
    }
}

impl TryRng for Played<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(core::array::from_fn(|_| self.next())))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(core::array::from_fn(|_| self.next())))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill_with(|| self.next());
        Ok(())
    }
}

impl TryCryptoRng for Played<'_> {}
