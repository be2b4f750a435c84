//! The record cache: what the database said of a key, and the epochs that tell whether it still
//! stands. Knows stored hashes; nothing of requests, of scopes, or of Python.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use quick_cache::sync::Cache as Rows;

use crate::hash::StoredHash;
use crate::sync::{Arc, AtomicU64};
use crate::token::KeyId;

/// Keys that share an epoch are read again together, so few should; 8 bytes each. A power of two.
const EPOCHS: usize = 4096;
pub const TAG_LEN: usize = 32;

/// What the database said of a key id, once. `K` is the key as the application sees it.
pub struct Row<K> {
    pub key_id: KeyId,
    /// None if there is no such key; then the hash is that of no token.
    pub key: Option<K>,
    pub hash: StoredHash,
    /// Microseconds since 1970.
    pub expires_at: Option<i64>,
    pub revoked: bool,
    /// When it has to be read anew, whatever the feed says, in ticks.
    pub good_until: u64,
    /// The keyed digest of the one token that verified against a slow hash.
    pub remembered: OnceLock<Box<[u8; TAG_LEN]>>,
    /// The hash as it is stored, if it should be made anew.
    pub outdated: Option<Box<Outdated>>,
    /// The epoch of the key id from before the database was asked.
    pub epoch: u64,
}

/// A stored hash that should be made anew once its token is at hand.
pub struct Outdated {
    stored: String,
    noticed: AtomicBool,
}

impl Outdated {
    pub fn new(stored: &str) -> Self {
        Self { stored: stored.to_owned(), noticed: AtomicBool::new(false) }
    }

    /// Whether nobody has noticed so far.
    pub fn is_unnoticed(&self) -> bool {
        !self.noticed.load(Ordering::Relaxed)
    }

    /// The stored hash, for whoever asks first.
    pub fn notice(&self) -> Option<&str> {
        (!self.noticed.swap(true, Ordering::Relaxed)).then_some(&self.stored)
    }
}

/// Rows by key id, a fixed number of them: those used least make room.
///
/// A change of a key moves the epoch of its id on, and a row counts only under the epoch it was
/// asked for in. So no row that was on its way meanwhile can bring back what it no longer is, in
/// whatever order things happen, and wherever the row is kept.
pub struct Cache<K> {
    rows: Rows<KeyId, Arc<Row<K>>>,
    epochs: Box<[AtomicU64]>,
    others: AtomicU64,
}

impl<K> Cache<K> {
    /// An empty cache for about so many keys.
    pub fn new(capacity: usize) -> Self {
        let epochs = (0..EPOCHS).map(|_| AtomicU64::new(0)).collect();
        Self { rows: Rows::new(capacity), epochs, others: AtomicU64::new(0) }
    }

    /// The epoch of a key id: to be taken before the database is asked.
    pub fn epoch(&self, key_id: KeyId) -> u64 {
        self.epoch_of(key_id).load(Ordering::SeqCst)
    }

    /// Whether a row was not overtaken by a change.
    pub fn stands(&self, row: &Row<K>) -> bool {
        self.epoch(row.key_id) == row.epoch
    }

    /// The row of a key id, if there is one that stands.
    pub fn get(&self, key_id: KeyId) -> Option<Arc<Row<K>>> {
        self.rows.get(&key_id).filter(|row| self.stands(row))
    }

    /// Keeps a row. One that was overtaken does no harm.
    pub fn insert(&self, row: Arc<Row<K>>) {
        self.rows.insert(row.key_id, row);
    }

    /// Has a key be read anew: from now on no row counts that was asked for before.
    pub fn evict(&self, key_id: KeyId) {
        self.epoch_of(key_id).fetch_add(1, Ordering::SeqCst);
        self.rows.remove(&key_id);
    }

    /// The same for every key.
    pub fn flush(&self) {
        for epoch in self.epochs.iter().chain([&self.others]) {
            epoch.fetch_add(1, Ordering::SeqCst);
        }
        self.rows.clear();
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn epoch_of(&self, key_id: KeyId) -> &AtomicU64 {
        let index = usize::try_from(key_id.spread() >> (u64::BITS - EPOCHS.ilog2()));
        // None is missing; one for all others would be right as well.
        index.ok().and_then(|index| self.epochs.get(index)).unwrap_or(&self.others)
    }
}
