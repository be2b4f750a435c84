//! Limits of requests: from when on each key has all of its requests again, by the generic cell
//! rate algorithm (ITU-T I.371). Knows key ids; nothing of requests, or of who sets the limits.

use std::collections::HashMap;
use std::mem;
use std::sync::PoisonError;
use std::time::Instant;

use quick_cache::DefaultHashBuilder;

use crate::sync::{Mutex, MutexGuard};
use crate::token::KeyId;

/// Keys are spread over so many tables: with a million in one, the call that had it grow took 70 ms,
/// and with these one. A power of two.
const PARTS: usize = 64;

/// So many requests at once, and as many again evenly over a period. Times are nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// What one request takes, rounded up: nothing adds up to one more than was allowed.
    interval: u64,
    /// What all of them take.
    period: u64,
}

impl Limit {
    /// A limit of one request at least.
    pub fn new(requests: u32, per: u64) -> Self {
        let requests = u64::from(requests.max(1));
        let interval = per.div_ceil(requests).max(1);
        Self { interval, period: interval.saturating_mul(requests) }
    }
}

/// What keys have taken of their limits.
pub struct Limiter {
    began: Instant,
    parts: Box<[Mutex<Counters>]>,
    others: Mutex<Counters>,
}

type ByKey = HashMap<KeyId, u64, DefaultHashBuilder>;

/// When each key has all of its requests again: those that were let through lately, and those from
/// before. A key of which nothing is known has all of them, so that whatever is over may be dropped:
/// all from before at once, in the time of one call.
#[derive(Default)]
struct Counters {
    recent: Generation,
    earlier: Generation,
}

#[derive(Default)]
struct Generation {
    full_at: ByKey,
    /// When all of these are over.
    until: u64,
}

impl Limiter {
    /// One of keys that have taken nothing.
    pub fn new() -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { began: Instant::now(), parts, others: Mutex::default() }
    }

    /// Nanoseconds since it was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes one request. If there is none left it takes nothing, and says how long to wait for the
    /// next one; else 0.
    pub fn take(&self, key_id: KeyId, limit: Limit, now: u64) -> u64 {
        let index = usize::try_from(key_id.spread() >> (u64::BITS - PARTS.ilog2()));
        // None is missing.
        let part = index.ok().and_then(|index| self.parts.get(index)).unwrap_or(&self.others);
        open(part).take(key_id, limit, now)
    }

    /// Of how many keys something is kept.
    pub fn len(&self) -> usize {
        let parts = self.parts.iter().chain([&self.others]).map(open);
        parts.map(|part| part.recent.full_at.len() + part.earlier.full_at.len()).sum()
    }
}

fn open(part: &Mutex<Counters>) -> MutexGuard<'_, Counters> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counters {
    fn take(&mut self, key_id: KeyId, limit: Limit, now: u64) -> u64 {
        if self.earlier.until <= now {
            self.earlier = mem::take(&mut self.recent);
        }
        let known = self.recent.full_at.get(&key_id).copied();
        let known = known.or_else(|| self.earlier.full_at.remove(&key_id)).unwrap_or(0);
        // Where the period was longer, or the clock was set back, all are missing at most.
        let latest = now.saturating_add(limit.period);
        let full_at = known.clamp(now, latest);
        let wait = (full_at - now).saturating_sub(limit.period - limit.interval);
        let full_at = if wait == 0 { full_at.saturating_add(limit.interval) } else { full_at };
        self.recent.full_at.insert(key_id, full_at);
        self.recent.until = self.recent.until.max(full_at);
        wait
    }
}
