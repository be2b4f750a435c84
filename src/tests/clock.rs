//! Time: the calendar follows the system's clock, and is counted on by ticks in between.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock::{Calendar, SECOND};

fn system_time() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}

/// At first, and after a hundredth of a second, it says what the system says.
#[test]
fn the_calendar_follows_the_system() {
    let calendar = Calendar::default();
    for ticks in [0, SECOND / 100, 5 * SECOND] {
        let before = system_time();
        let read = calendar.read(ticks);
        assert!((before..=system_time()).contains(&read));
    }
}

/// In between it goes on with the ticks, to the microsecond.
#[test]
fn the_calendar_goes_on_with_the_ticks() {
    let calendar = Calendar::default();
    let read = calendar.read(SECOND);
    assert_eq!(calendar.read(SECOND + 1), read + 1);
    assert_eq!(calendar.read(SECOND + 9_999), read + 9_999);
}
