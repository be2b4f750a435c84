//! Time: by the calendar, and in ticks that nobody sets back. Knows nothing of what it is for.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sync::AtomicU64;

/// In ticks.
pub const SECOND: u64 = 1_000_000;
/// How long the calendar is counted on by ticks before the system is asked again, in ticks: to ask
/// it every time took a fifteenth of a verification.
const GOOD_FOR: u64 = SECOND / 100;

/// When it is: for expiries and the ledger by the calendar, in microseconds since 1970, and for
/// everything else in ticks, microseconds that nobody sets back.
#[derive(Clone, Copy)]
pub struct Moment {
    pub now: i64,
    pub ticks: u64,
}

/// The calendar, as far ahead of the ticks as the system said within the last hundredth of a second.
#[derive(Default)]
pub struct Calendar {
    ahead: AtomicI64,
    /// From then on the system is asked again, in ticks.
    due: AtomicU64,
}

impl Calendar {
    /// Microseconds since 1970, by what the ticks are now.
    pub fn read(&self, ticks: u64) -> i64 {
        let signed = i64::try_from(ticks).unwrap_or(i64::MAX);
        if ticks < self.due.load(Ordering::Acquire) {
            return self.ahead.load(Ordering::Relaxed).saturating_add(signed);
        }
        let now = system_time();
        self.ahead.store(now.saturating_sub(signed), Ordering::Relaxed);
        self.due.store(ticks.saturating_add(GOOD_FOR), Ordering::Release);
        now
    }
}

fn system_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// So many a second, and as many at once after a second without any (the generic cell rate
/// algorithm, ITU-T I.371).
pub struct Budget {
    interval: Option<u64>,
    /// When the next one is due, in ticks.
    due: AtomicU64,
}

impl Budget {
    /// A budget of so many a second.
    pub fn new(per_second: u32) -> Self {
        Self { interval: SECOND.checked_div(u64::from(per_second)), due: AtomicU64::new(0) }
    }

    /// Whether there was one left.
    pub fn spend(&self, ticks: u64) -> bool {
        let Some(interval) = self.interval else { return false };
        let next = |due: u64| {
            let later = due.max(ticks) + interval;
            (later <= ticks + SECOND).then_some(later)
        };
        self.due.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
    }
}
