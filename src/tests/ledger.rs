//! The usage ledger: what is counted, taken, put back, and lost.

use super::key_id;
use crate::ledger::{Ledger, Use};

/// Uses of one key add up, and the latest moment stays, whatever order they come in.
#[test]
fn uses_of_a_key_add_up() {
    let ledger = Ledger::new();
    for at in [5, 9, 7] {
        ledger.record(key_id(1), at);
    }
    ledger.close();
    assert_eq!(ledger.take(10), [Use { key_id: key_id(1), count: 3, last_at: 9 }]);
    assert_eq!(ledger.take(10), []);
}

/// What was taken comes by key id, as many keys as were asked for, and each of them once.
#[test]
fn keys_are_taken_in_order_and_once() {
    let ledger = Ledger::new();
    for number in (0..10).rev() {
        ledger.record(key_id(number), 1);
    }
    ledger.close();
    let mut taken = Vec::new();
    loop {
        let portion = ledger.take(3);
        if portion.is_empty() {
            break;
        }
        assert!(portion.len() <= 3);
        assert!(portion.is_sorted_by_key(|each| each.key_id.as_str().to_owned()));
        taken.extend(portion.iter().map(|each| each.key_id.as_str().to_owned()));
    }
    taken.sort_unstable();
    let all: Vec<String> = (0..10).map(|number| key_id(number).as_str().to_owned()).collect();
    assert_eq!(taken, all);
}

/// What could not be written is added to what was counted meanwhile.
#[test]
fn what_is_put_back_is_not_lost() {
    let ledger = Ledger::new();
    ledger.record(key_id(1), 5);
    ledger.close();
    let taken = ledger.take(10);
    ledger.record(key_id(1), 3);
    ledger.put_back(&taken);
    ledger.close();
    assert_eq!(ledger.take(10), [Use { key_id: key_id(1), count: 2, last_at: 5 }]);
}

/// What is counted while others are written waits for the next time, also if that comes early.
#[test]
fn what_comes_later_is_taken_later() {
    let ledger = Ledger::new();
    for number in [1, 1, 2] {
        ledger.record(key_id(number), 5);
    }
    ledger.close();
    let first = ledger.take(1);
    ledger.record(key_id(1), 6);
    ledger.record(key_id(2), 7);
    assert_eq!(ledger.backlog().0, 3);
    let second = ledger.take(10);
    assert_eq!(first.iter().chain(&second).map(|each| each.count).sum::<u64>(), 3);
    assert_eq!(ledger.take(10), []);
    ledger.put_back(&second);
    ledger.close();
    ledger.record(key_id(2), 4);
    ledger.close();
    let third: u64 = ledger.take(10).iter().map(|each| each.count).sum();
    assert_eq!(third, 3 + second.iter().map(|each| each.count).sum::<u64>());
}

/// A ledger that is full goes on counting the keys that it has, and says how many uses it lost.
#[test]
fn a_full_ledger_says_what_it_lost() {
    let ledger = Ledger::bounded(2);
    for number in [1, 2, 3, 1, 3] {
        ledger.record(key_id(number), 1);
    }
    assert_eq!(ledger.backlog(), (2, 2));
    ledger.close();
    let counts: Vec<u64> = ledger.take(10).iter().map(|each| each.count).collect();
    assert_eq!(counts, [2, 1]);
}
