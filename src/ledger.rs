//! The usage ledger: how often each key was used, and when last, until that is written down.
//! Knows key ids; nothing of where it is written.

use std::collections::HashMap;
use std::sync::PoisonError;

use quick_cache::DefaultHashBuilder;

use crate::sync::{Mutex, MutexGuard};
use crate::token::KeyId;

/// Past so many keys, 40 MB, the uses of further ones are only counted as lost: the database has
/// been away for long, or it is asked to write too seldom.
const MOST_KEYS: usize = 1 << 20;

/// The uses of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    pub key_id: KeyId,
    pub count: u64,
    /// Microseconds since 1970.
    pub last_at: i64,
}

/// Uses that are not written down yet.
pub struct Ledger {
    open: Mutex<Uses>,
}

struct Uses {
    by_key: HashMap<KeyId, (u64, i64), DefaultHashBuilder>,
    most_keys: usize,
    lost: u64,
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Self {
        Self::bounded(MOST_KEYS)
    }

    /// An empty one for so many keys.
    pub fn bounded(most_keys: usize) -> Self {
        let by_key = HashMap::default();
        Self { open: Mutex::new(Uses { by_key, most_keys, lost: 0 }) }
    }

    /// Counts one use.
    pub fn record(&self, key_id: KeyId, at: i64) {
        self.uses().add(Use { key_id, count: 1, last_at: at });
    }

    /// Takes out the uses of at most so many keys, to be written down: by key id, so that two
    /// who write lock their rows in the same order.
    pub fn take(&self, most: usize) -> Vec<Use> {
        let mut uses = self.uses();
        let ids: Vec<KeyId> = uses.by_key.keys().take(most).copied().collect();
        let taken = ids.into_iter().filter_map(|key_id| {
            let (count, last_at) = uses.by_key.remove(&key_id)?;
            Some(Use { key_id, count, last_at })
        });
        let mut taken: Vec<Use> = taken.collect();
        drop(uses);
        taken.sort_unstable_by(|one, other| one.key_id.as_str().cmp(other.key_id.as_str()));
        taken
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, taken: &[Use]) {
        let mut uses = self.uses();
        for each in taken {
            uses.add(*each);
        }
    }

    /// Of how many keys uses wait to be written, and how many uses were lost.
    pub fn backlog(&self) -> (usize, u64) {
        let uses = self.uses();
        (uses.by_key.len(), uses.lost)
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uses {
    fn add(&mut self, new: Use) {
        if let Some((count, last_at)) = self.by_key.get_mut(&new.key_id) {
            *count = count.saturating_add(new.count);
            *last_at = new.last_at.max(*last_at);
        } else if self.by_key.len() < self.most_keys {
            self.by_key.insert(new.key_id, (new.count, new.last_at));
        } else {
            self.lost = self.lost.saturating_add(new.count);
        }
    }
}
