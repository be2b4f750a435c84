//! Limits: what passes, how long the rest has to wait, and what is kept.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::key_id;
use crate::limiter::{Limit, Limiter};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

fn passes(limiter: &Limiter, limit: Limit, now: u64) -> bool {
    limiter.take(key_id(1), limit, now) == 0
}

/// As many as are allowed pass at once, and the next one when one of them has come back.
#[test]
fn a_burst_passes_and_comes_back_one_by_one() {
    let (limiter, limit) = (Limiter::new(), Limit::new(4, SECOND));
    for _ in 0..4 {
        assert!(passes(&limiter, limit, 0));
    }
    assert_eq!(limiter.take(key_id(1), limit, 0), SECOND / 4);
    assert_eq!(limiter.take(key_id(1), limit, SECOND / 4 - 1), 1);
    assert!(passes(&limiter, limit, SECOND / 4));
    assert!(!passes(&limiter, limit, SECOND / 4));
    assert!((0..4).all(|_| passes(&limiter, limit, 2 * SECOND)));
    assert!(!passes(&limiter, limit, 2 * SECOND));
}

/// A refusal takes nothing, however often it is asked for.
#[test]
fn refusals_do_not_prolong_the_wait() {
    let (limiter, limit) = (Limiter::new(), Limit::new(1, SECOND));
    assert!(passes(&limiter, limit, 0));
    for now in 0..1_000 {
        assert_eq!(limiter.take(key_id(1), limit, now), SECOND - now);
    }
    assert!(passes(&limiter, limit, SECOND));
}

/// Each key has a budget of its own.
#[test]
fn keys_do_not_share() {
    let (limiter, limit) = (Limiter::new(), Limit::new(1, DAY));
    for number in 0..100 {
        assert_eq!(limiter.take(key_id(number), limit, 5), 0);
        assert_ne!(limiter.take(key_id(number), limit, 5), 0);
    }
}

/// What was used of a limit stays used when it changes; of a shorter period, all at most.
#[test]
fn a_changed_limit_counts_at_once() {
    let limiter = Limiter::new();
    let (small, large) = (Limit::new(2, DAY), Limit::new(1_000, SECOND));
    assert!(passes(&limiter, small, 0) && passes(&limiter, small, 0));
    assert_eq!(limiter.take(key_id(1), small, 0), DAY / 2);
    assert_eq!(limiter.take(key_id(1), large, 0), SECOND / 1_000);
    assert!(passes(&limiter, large, SECOND / 1_000));
    assert!(passes(&limiter, small, SECOND));
}

/// Rates that are no whole nanoseconds let none more through, for as long as it may go on.
#[test]
fn nothing_adds_up() {
    let (limiter, limit) = (Limiter::new(), Limit::new(30_007, SECOND));
    let mut passed = 0_u64;
    for millisecond in 0..=2_000 {
        while passes(&limiter, limit, millisecond * 1_000_000) {
            passed += 1;
        }
    }
    // The burst, and what comes back in two seconds; a ten-thousandth less for rounding.
    assert!((90_010..=3 * 30_007).contains(&passed), "{passed}");
}

/// The smallest and the largest numbers neither panic nor let everything through.
#[test]
fn extreme_numbers_hold() {
    for requests in [0, 1, 1_000_000, u32::MAX] {
        for per in [0, 1, SECOND, DAY, u64::MAX] {
            for now in [0, 1, DAY, u64::MAX - 1, u64::MAX] {
                let (limiter, limit) = (Limiter::new(), Limit::new(requests, per));
                assert!(passes(&limiter, limit, now));
                limiter.take(key_id(1), limit, now);
                limiter.take(key_id(1), Limit::new(1, 1), 0);
            }
        }
    }
    let (limiter, limit) = (Limiter::new(), Limit::new(1, DAY));
    assert!(passes(&limiter, limit, u64::MAX - DAY));
    assert_eq!(limiter.take(key_id(1), limit, u64::MAX - DAY), DAY);
}

/// What is over goes while others come, and what is not over stays.
#[test]
fn what_is_over_goes() {
    let (limiter, limit) = (Limiter::new(), Limit::new(10, SECOND));
    assert!(passes(&limiter, Limit::new(1, DAY), 0));
    for number in 2..100_000 {
        // A thousand keys a second, of which each owes something for a tenth of a second.
        limiter.take(key_id(number), limit, u64::from(number) * SECOND / 1_000);
    }
    assert!(!passes(&limiter, Limit::new(1, DAY), 100 * SECOND));
    for number in 0..10_000 {
        limiter.take(key_id(number + 2), limit, 2 * DAY + u64::from(number) * SECOND / 1_000);
    }
    assert!(limiter.len() < 1_000, "{}", limiter.len());
    assert!(passes(&limiter, Limit::new(1, DAY), 3 * DAY));
}

/// A bucket out of which requests are taken, and that is filled evenly: the same said otherwise.
#[derive(Default)]
struct Bucket {
    missing: u128,
    at: u128,
}

impl Bucket {
    fn take(&mut self, requests: u128, per: u128, now: u128) -> u128 {
        let one = per.div_ceil(requests);
        self.missing = self.missing.saturating_sub(now - self.at).min(one * requests);
        self.at = now;
        let left = one * requests - self.missing;
        if left < one {
            return one - left;
        }
        self.missing += one;
        0
    }
}

proptest! {
    /// Whatever keys, limits and moments come, a plain bucket for each key says the same.
    #[test]
    fn it_agrees_with_plain_buckets(
        takes in vec((0..4_u32, 1..6_u32, 1..50_u64, 0..30_u64), 1..300)
    ) {
        let (limiter, mut buckets) = (Limiter::new(), HashMap::<u32, Bucket>::new());
        let mut now = 0;
        for (number, requests, per, pause) in takes {
            now += pause;
            let waits = limiter.take(key_id(number), Limit::new(requests, per), now);
            let bucket = buckets.entry(number).or_default();
            let expected = bucket.take(requests.into(), per.into(), now.into());
            prop_assert_eq!(u128::from(waits), expected);
        }
    }

    /// In no stretch of time do more pass than a full bucket and what comes back meanwhile.
    #[test]
    fn no_stretch_of_time_has_too_many(
        requests in 1..8_u32, per in 1..1_000_u64, pauses in vec(0..200_u64, 1..300)
    ) {
        let (limiter, limit) = (Limiter::new(), Limit::new(requests, per));
        let (mut now, mut passed) = (0, Vec::new());
        for pause in pauses {
            now += pause;
            if limiter.take(key_id(1), limit, now) == 0 {
                passed.push(now);
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (last, to) in passed.iter().enumerate().skip(first) {
                let back = (to - from) * u64::from(requests) / per;
                prop_assert!(((last - first) as u64) < u64::from(requests) + back);
            }
        }
    }
}
