//! The request path: what a token opens, out of what is known, or that the database has to be
//! asked. Knows no header, and nothing of Python.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hmac::Mac;
use rand::rngs::SysRng;

use crate::cache::{Cache, Outdated, Row};
use crate::clock::{Budget, Calendar, Moment, SECOND};
use crate::hash::{self, HashError, Scheme, StoredHash};
use crate::ledger::Ledger;
use crate::secrets::{KeyedHmac, RandomError, SecretRing, random_key};
use crate::sync::{Arc, AtomicU64};
use crate::token::{KeyId, Prefix, Token, TokenError};

/// A row is read anew after five minutes, in case that somebody changed it by hand.
const GOOD_FOR: u64 = 300 * SECOND;
/// That there is no such key is believed for five seconds.
const ABSENT_FOR: u64 = 5 * SECOND;

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Of another prefix, of an unknown id, or with a wrong secret: never told apart.
    Invalid,
    Revoked,
    Expired,
    /// The right key; it may not do this.
    Scope,
}

/// What is to be said of a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    Opens(T),
    Denied(Denial),
    /// What it would open, since its secret is right: anyone can write a key id into a token.
    Barred(Denial, T),
    /// Nothing that counts is known: the database has to be asked.
    Unknown,
}

/// How an engine is set up.
pub struct Settings {
    pub prefixes: Vec<String>,
    /// Keys that the cache holds.
    pub capacity: usize,
    /// How long cached rows count after the feed was last heard, in ticks.
    pub max_staleness: u64,
    /// Lookups a second for tokens without a right seal.
    pub unsealed_lookups: u32,
    /// Whether tokens of other formats may be keys.
    pub imported: bool,
}

/// The state of the request path.
pub struct Engine<K> {
    settings: Settings,
    cache: Cache<K>,
    ledger: Ledger,
    unsealed: Budget,
    /// Cached rows count until then, in ticks.
    fresh_until: AtomicU64,
    decoy: StoredHash,
    process_key: KeyedHmac,
    began: Instant,
    calendar: Calendar,
    counts: Counts,
}

/// What happened so far.
#[derive(Default)]
pub struct Counts {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub missing: AtomicU64,
    pub ambiguous: AtomicU64,
    pub invalid: AtomicU64,
    pub revoked: AtomicU64,
    pub expired: AtomicU64,
    pub scope: AtomicU64,
}

/// Why there is no engine.
#[derive(Debug)]
pub enum SetupError {
    Prefix(TokenError),
    Hash(HashError),
}

impl From<RandomError> for SetupError {
    fn from(error: RandomError) -> Self {
        Self::Hash(error.into())
    }
}

impl<K> Engine<K> {
    /// An engine that knows nothing yet.
    pub fn new(ring: &SecretRing, settings: Settings) -> Result<Self, SetupError> {
        let mut decoy = None;
        for prefix in &settings.prefixes {
            let prefix = Prefix::parse(prefix).map_err(SetupError::Prefix)?;
            decoy = Some(Token::mint(&prefix, ring, &mut SysRng)?);
        }
        // What tokens of unknown ids are compared with, so that they cost what a wrong secret does.
        let decoy = decoy.ok_or(SetupError::Prefix(TokenError::Prefix))?;
        let decoy = hash::hash(Scheme::HmacSha256, ring, decoy.as_str().as_bytes(), &mut SysRng)
            .and_then(|stored| StoredHash::parse(&stored))
            .map_err(SetupError::Hash)?;
        Ok(Self {
            cache: Cache::new(settings.capacity),
            ledger: Ledger::new(),
            unsealed: Budget::new(settings.unsealed_lookups),
            fresh_until: AtomicU64::new(0),
            decoy,
            process_key: random_key(&mut SysRng)?,
            began: Instant::now(),
            calendar: Calendar::default(),
            counts: Counts::default(),
            settings,
        })
    }

    /// What tells the time by the calendar.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// Microseconds since the engine was made.
    pub fn ticks(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// What a credential opens, as far as a cached row tells that it names. The row's hash is that
    /// of a whole token, so that what matches it need not be read. `Unknown` says nothing of a
    /// credential, not even that it is a token. What opens counts as a use.
    pub fn check_credential(
        &self,
        ring: &SecretRing,
        credential: &[u8],
        at: Moment,
        permits: impl FnOnce(&K) -> bool,
    ) -> Verdict<Arc<Row<K>>> {
        self.counted(self.recheck_credential(ring, credential, at, permits), at)
    }

    /// The same of a credential that opened before, with no use counted.
    pub fn recheck_credential(
        &self,
        ring: &SecretRing,
        credential: &[u8],
        at: Moment,
        permits: impl FnOnce(&K) -> bool,
    ) -> Verdict<Arc<Row<K>>> {
        let claimed = KeyId::claimed(credential, &self.settings.prefixes);
        let row = claimed.and_then(|key_id| self.cached(key_id, at));
        self.by_row(ring, row, credential, at, permits)
    }

    /// Reads what a client sent: a token, or where these may be keys one of another format or of
    /// another prefix. What names a key of ours is never such a one, however damaged it is.
    pub fn read<'a>(&self, ring: &SecretRing, text: &'a str) -> Result<Token<&'a str>, TokenError> {
        let is_ours = || KeyId::claimed(text.as_bytes(), &self.settings.prefixes).is_some();
        if self.settings.imported && !is_ours() {
            Token::foreign(text, ring.active())
        } else {
            Token::read(text)
        }
    }

    /// Whether a credential names a prefix of ours: a token by its own, and what is none, such as a
    /// damaged token, by how it begins.
    pub fn names_ours(&self, credential: &[u8]) -> bool {
        let token = core::str::from_utf8(credential).ok().map(Token::read);
        if let Some(Ok(token)) = token {
            return self.knows_prefix(token.prefix());
        }
        self.settings.prefixes.iter().any(|prefix| {
            let rest = credential.strip_prefix(prefix.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"_"))
        })
    }

    /// A foreign token as each server secret names it: as it was read, under the active one, first.
    pub fn candidates<'a>(
        &self,
        ring: &SecretRing,
        token: Token<&'a str>,
    ) -> impl Iterator<Item = Token<&'a str>> {
        let imported = self.settings.imported && token.is_foreign();
        let retired = ring.iter().skip(1);
        let others = retired.filter_map(move |secret| Token::foreign(token.text(), secret).ok());
        core::iter::once(token).chain(others).take_while(move |_| imported)
    }

    /// What a token opens, as far as cached rows tell. Once `permits` is asked, and says yes, the
    /// use is counted.
    pub fn check(
        &self,
        ring: &SecretRing,
        token: Token<&str>,
        at: Moment,
        permits: impl FnOnce(&K) -> bool,
    ) -> Verdict<Arc<Row<K>>> {
        self.counted(self.recheck(ring, token, at, permits), at)
    }

    /// The same of a token that opened before, with no use counted.
    pub fn recheck(
        &self,
        ring: &SecretRing,
        token: Token<&str>,
        at: Moment,
        permits: impl FnOnce(&K) -> bool,
    ) -> Verdict<Arc<Row<K>>> {
        let token = if self.knows_prefix(token.prefix()) {
            token
        } else if let Some(candidate) = self.likeliest(ring, token, at) {
            candidate
        } else {
            return Verdict::Denied(self.deny(Denial::Invalid));
        };
        let row = self.cached(token.key_id(), at);
        let verdict = self.by_row(ring, row, token.as_str().as_bytes(), at, permits);
        if matches!(verdict, Verdict::Unknown) {
            self.counts.misses.fetch_add(1, Ordering::Relaxed);
        }
        verdict
    }

    fn by_row(
        &self,
        ring: &SecretRing,
        row: Option<Arc<Row<K>>>,
        credential: &[u8],
        at: Moment,
        permits: impl FnOnce(&K) -> bool,
    ) -> Verdict<Arc<Row<K>>> {
        let Some(row) = row.filter(|row| !row.needs_stretching()) else { return Verdict::Unknown };
        match self.weigh(ring, &row, credential, at, permits) {
            // Whoever is asked instead has its hash made anew.
            Ok(Verdict::Opens(())) if row.awaits_rehash() => Verdict::Unknown,
            Ok(Verdict::Opens(())) => Verdict::Opens(row),
            Ok(Verdict::Denied(denial)) => Verdict::Denied(denial),
            Ok(Verdict::Barred(denial, ())) => Verdict::Barred(denial, row),
            // A row that cannot be verified is read again, and who reads it says why.
            Ok(Verdict::Unknown) | Err(_) => Verdict::Unknown,
        }
    }

    fn counted(&self, verdict: Verdict<Arc<Row<K>>>, at: Moment) -> Verdict<Arc<Row<K>>> {
        if let Verdict::Opens(row) = &verdict {
            self.ledger.record(row.key_id, at.now);
            self.counts.hits.fetch_add(1, Ordering::Relaxed);
        }
        verdict
    }

    /// Whether tokens of this prefix are ours.
    pub fn knows_prefix(&self, prefix: &str) -> bool {
        self.settings.prefixes.iter().any(|known| known == prefix)
    }

    /// Of the names that a foreign token may have, that of a cached key; else one of which nothing
    /// is known; else one of which it is known that there is no key.
    fn likeliest<'a>(
        &self,
        ring: &SecretRing,
        token: Token<&'a str>,
        at: Moment,
    ) -> Option<Token<&'a str>> {
        let (mut unknown, mut absent) = (None, None);
        for candidate in self.candidates(ring, token) {
            match self.cached(candidate.key_id(), at) {
                Some(row) if row.key.is_some() => return Some(candidate),
                Some(_) => absent = Some(candidate),
                None => unknown = unknown.or(Some(candidate)),
            }
        }
        unknown.or(absent)
    }

    /// The cached row of a key id, if it counts.
    pub fn cached(&self, key_id: KeyId, at: Moment) -> Option<Arc<Row<K>>> {
        if at.ticks >= self.fresh_until.load(Ordering::Acquire) {
            return None;
        }
        self.cache.get(key_id).filter(|row| at.ticks < row.good_until)
    }

    /// What a token opens, by a row. `Unknown` if the row was overtaken by a change.
    pub fn judge(
        &self,
        ring: &SecretRing,
        row: &Row<K>,
        token: Token<&str>,
        at: Moment,
        permits: impl FnOnce(&K) -> bool,
    ) -> Result<Verdict<()>, HashError> {
        if row.key_id != token.key_id() {
            return Ok(Verdict::Denied(self.deny(Denial::Invalid)));
        }
        let verdict = self.weigh(ring, row, token.as_str().as_bytes(), at, permits)?;
        if verdict == Verdict::Opens(()) {
            self.ledger.record(row.key_id, at.now);
        }
        Ok(verdict)
    }

    /// The same, with no use counted.
    fn weigh(
        &self,
        ring: &SecretRing,
        row: &Row<K>,
        credential: &[u8],
        at: Moment,
        permits: impl FnOnce(&K) -> bool,
    ) -> Result<Verdict<()>, HashError> {
        let expired = row.expires_at.is_some_and(|end| end <= at.now);
        let matches = match self.matches(ring, row, credential) {
            // Whatever the token is, it opens nothing: the dead need no server secret.
            Err(HashError::UnknownKid(_)) if row.revoked || expired => false,
            matches => matches?,
        };
        // Last, and also for what is not there: the id may have come to be.
        if !self.cache.stands(row) {
            return Ok(Verdict::Unknown);
        }
        let denial = match row.key.as_ref().filter(|_| matches) {
            None => return Ok(Verdict::Denied(self.deny(Denial::Invalid))),
            Some(_) if row.revoked => Denial::Revoked,
            Some(_) if expired => Denial::Expired,
            Some(key) if !permits(key) => Denial::Scope,
            Some(_) => return Ok(Verdict::Opens(())),
        };
        Ok(Verdict::Barred(self.deny(denial), ()))
    }

    /// Whether a token without a right seal may cost the database a lookup now.
    pub fn admits(&self, ring: &SecretRing, token: Token<&str>, at: Moment) -> bool {
        token.sealed_by(ring).is_some() || self.unsealed.spend(at.ticks)
    }

    /// Verifies a token against a slow hash, and remembers it if it was right. Takes long.
    pub fn stretch(
        &self,
        ring: &SecretRing,
        row: &Row<K>,
        token: Token<&str>,
    ) -> Result<(), HashError> {
        let token = token.as_str().as_bytes();
        // Without its server secret there is nothing to do: `judge` says what follows.
        let can = row.needs_stretching() && row.hash.secret(ring).is_ok();
        if can && row.hash.matches(ring, token)? {
            row.remembered.get_or_init(|| Box::new(self.digest(token)));
        }
        Ok(())
    }

    /// A row out of what the database said, under the epoch from before it was asked.
    pub fn row(
        &self,
        ring: &SecretRing,
        said: Said<'_, K>,
        at: Moment,
    ) -> Result<Row<K>, HashError> {
        let (hash, good_for) = match said.key {
            Some(_) => (StoredHash::parse(said.hash)?, GOOD_FOR),
            None => (self.decoy.clone(), ABSENT_FOR),
        };
        // The id of an imported key stays under its server secret, and so does its hash.
        let outdated =
            (!said.imported && hash.is_outdated(ring)).then(|| Box::new(Outdated::new(said.hash)));
        Ok(Row {
            key_id: said.key_id,
            epoch: said.epoch,
            key: said.key,
            hash,
            expires_at: said.expires_at,
            revoked: said.revoked,
            good_until: at.ticks.saturating_add(good_for),
            remembered: OnceLock::new(),
            outdated,
        })
    }

    /// The feed has brought everything that was changed until then, in ticks.
    pub fn heard(&self, ticks: u64) {
        let until = ticks.saturating_add(self.settings.max_staleness);
        self.fresh_until.fetch_max(until, Ordering::AcqRel);
    }

    /// From now on no cached row counts, until the feed is heard again.
    pub fn distrust(&self) {
        self.fresh_until.store(0, Ordering::Release);
        self.cache.flush();
    }

    /// Until when cached rows count, in ticks.
    pub fn fresh_until(&self) -> u64 {
        self.fresh_until.load(Ordering::Acquire)
    }

    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn matches(&self, ring: &SecretRing, row: &Row<K>, token: &[u8]) -> Result<bool, HashError> {
        if row.hash.is_slow() {
            row.hash.secret(ring)?;
            // Another token than the one that verified is wrong, without being stretched.
            let remembered = row.remembered.get();
            return Ok(remembered.is_some_and(|tag| hash::same(tag, &self.digest(token)).into()));
        }
        row.hash.matches(ring, token)
    }

    fn digest(&self, token: &[u8]) -> [u8; 32] {
        self.process_key.clone().chain_update(token).finalize().into_bytes().into()
    }

    fn deny(&self, denial: Denial) -> Denial {
        let count = match denial {
            Denial::Invalid => &self.counts.invalid,
            Denial::Revoked => &self.counts.revoked,
            Denial::Expired => &self.counts.expired,
            Denial::Scope => &self.counts.scope,
        };
        count.fetch_add(1, Ordering::Relaxed);
        denial
    }
}

/// What the database said of a key id.
pub struct Said<'a, K> {
    pub key_id: KeyId,
    /// From before it was asked.
    pub epoch: u64,
    pub key: Option<K>,
    pub hash: &'a str,
    pub expires_at: Option<i64>,
    pub revoked: bool,
    /// Whether its token is of another format.
    pub imported: bool,
}

impl<K> Row<K> {
    /// Whether the first token has to be verified by `stretch` before the row can tell.
    pub fn needs_stretching(&self) -> bool {
        self.key.is_some() && self.hash.is_slow() && self.remembered.get().is_none()
    }

    /// Whether its hash should be made anew, and nobody has noticed so far.
    pub fn awaits_rehash(&self) -> bool {
        self.outdated.as_ref().is_some_and(|outdated| outdated.is_unnoticed())
    }
}
