//! Threads that meet on the cache, in every order that `shuttle` thinks of.

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use super::{key_id, row};
use crate::cache::{Cache, Row};
use crate::limiter::{Limit, Limiter};
use crate::sync::Arc;

const SCHEDULES: usize = 2_000;

/// A database with one key, and a cache before it.
struct World {
    revoked: Mutex<bool>,
    acknowledged: AtomicBool,
    cache: Cache<()>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            revoked: Mutex::new(false),
            acknowledged: AtomicBool::new(false),
            cache: Cache::new(100),
        })
    }

    fn load(&self) -> Arc<Row<()>> {
        let mut row = row(key_id(1), self.cache.epoch(key_id(1)));
        row.revoked = *self.revoked.lock().unwrap();
        thread::yield_now(); // the answer is on its way
        let row = Arc::new(row);
        self.cache.insert(Arc::clone(&row));
        row
    }

    fn revoke(&self) {
        *self.revoked.lock().unwrap() = true;
        self.cache.evict(key_id(1));
        self.acknowledged.store(true, Ordering::SeqCst);
    }

    /// A request: it fails if it passes although the revocation was acknowledged before it began.
    fn request(&self) {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let row = self.cache.get(key_id(1)).unwrap_or_else(|| self.load());
        let passes = !row.revoked && self.cache.stands(&row);
        assert!(!(passes && acknowledged), "a revoked key was alive");
    }
}

/// Whoever begins after a revocation was acknowledged never passes, whatever loads are in flight.
#[test]
fn a_load_in_flight_never_revives_a_revoked_key() {
    shuttle::check_random(
        || {
            let world = World::new();
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || {
                        if number == 0 {
                            world.revoke();
                        } else {
                            world.request();
                            world.request();
                        }
                    })
                })
                .collect();
            for each in threads {
                each.join().unwrap();
            }
            world.request();
        },
        SCHEDULES,
    );
}

/// A flush is a revocation of everything.
#[test]
fn a_load_in_flight_never_outlives_a_flush() {
    shuttle::check_random(
        || {
            let world = World::new();
            let loader = {
                let world = Arc::clone(&world);
                thread::spawn(move || world.load())
            };
            *world.revoked.lock().unwrap() = true;
            world.cache.flush();
            world.acknowledged.store(true, Ordering::SeqCst);
            world.request();
            loader.join().unwrap();
            world.request();
        },
        SCHEDULES,
    );
}

/// Threads that take at once take no more than there is.
#[test]
fn no_interleaving_takes_more_than_the_limit() {
    shuttle::check_random(
        || {
            let limiter = Arc::new(Limiter::new());
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let limiter = Arc::clone(&limiter);
                    thread::spawn(move || {
                        let taken = (0..2)
                            .map(|now| limiter.take(key_id(1), Limit::new(4, 1_000_000), now));
                        taken.filter(|wait| *wait == 0).count()
                    })
                })
                .collect();
            let passed: usize = threads.into_iter().map(|each| each.join().unwrap()).sum();
            assert_eq!(passed, 4);
        },
        SCHEDULES,
    );
}
