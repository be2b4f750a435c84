//! The record cache: which rows count, and how many there are.

use super::{key_id, row};
use crate::cache::Cache;
use crate::sync::Arc;

/// A row that was asked for after the last change counts.
#[test]
fn a_row_counts_under_its_epoch() {
    let cache = Cache::new(100);
    cache.insert(Arc::new(row(key_id(1), cache.epoch(key_id(1)))));
    assert!(cache.get(key_id(1)).is_some());
    assert!(cache.get(key_id(2)).is_none());
}

/// A change that comes while a row is on its way wins, also over what is inserted afterwards.
#[test]
fn a_change_wins_over_a_row_on_its_way() {
    let cache = Cache::new(100);
    let asked = cache.epoch(key_id(1));
    let on_its_way = Arc::new(row(key_id(1), asked));
    cache.evict(key_id(1));
    cache.insert(Arc::clone(&on_its_way));
    assert!(cache.get(key_id(1)).is_none());
    assert!(!cache.stands(&on_its_way));
}

/// Flushing is a change of every key.
#[test]
fn a_flush_wins_over_every_row() {
    let cache = Cache::new(1000);
    let rows: Vec<_> = (0..500).map(|n| Arc::new(row(key_id(n), cache.epoch(key_id(n))))).collect();
    cache.insert(Arc::clone(&rows[0]));
    cache.flush();
    assert!(rows.iter().all(|row| !cache.stands(row)));
    assert_eq!(cache.len(), 0);
}

/// A change of one key leaves nearly all others.
#[test]
fn a_change_leaves_other_keys() {
    let cache = Cache::new(1000);
    for n in 0..500 {
        cache.insert(Arc::new(row(key_id(n), cache.epoch(key_id(n)))));
    }
    cache.evict(key_id(7));
    let left = (0..500).filter(|n| cache.get(key_id(*n)).is_some()).count();
    assert!((490..500).contains(&left), "{left}");
}

/// The capacity holds, whatever comes.
#[test]
fn the_capacity_holds() {
    let cache = Cache::new(100);
    for n in 0..10_000 {
        cache.insert(Arc::new(row(key_id(n), 0)));
    }
    assert!(cache.len() <= 100, "{}", cache.len());
}

/// A flood of keys that are asked for once does not drive out one that is used all the time.
#[test]
fn floods_evict_each_other() {
    let cache = Cache::new(1000);
    for n in 0..500 {
        cache.insert(Arc::new(row(key_id(n), 0)));
        cache.get(key_id(n));
    }
    for n in 1000..100_000 {
        cache.insert(Arc::new(row(key_id(n), 0)));
    }
    let left = (0..500).filter(|n| cache.get(key_id(*n)).is_some()).count();
    assert!(left > 450, "{left}");
}
