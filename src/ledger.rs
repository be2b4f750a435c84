//! The usage ledger: how often each key was used, and when last, until that is written down.
//! Knows key ids; nothing of where it is written.

use std::collections::HashMap;
use std::mem;
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

type ByKey = HashMap<KeyId, (u64, i64), DefaultHashBuilder>;

struct Uses {
    by_key: ByKey,
    /// What is to be written now.
    due: ByKey,
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
        let (by_key, due) = (HashMap::default(), HashMap::default());
        Self { open: Mutex::new(Uses { by_key, due, most_keys, lost: 0 }) }
    }

    /// Counts one use.
    pub fn record(&self, key_id: KeyId, at: i64) {
        self.uses().add(Use { key_id, count: 1, last_at: at });
    }

    /// Has `take` bring what was counted until now, and nothing that is counted later: under
    /// load there would be no end to it.
    pub fn close(&self) {
        let mut uses = self.uses();
        let closed = mem::take(&mut uses.by_key);
        if uses.due.is_empty() {
            uses.due = closed;
        } else {
            for (key_id, (count, last_at)) in closed {
                add(&mut uses.due, Use { key_id, count, last_at });
            }
        }
    }

    /// Takes out the uses of at most so many keys, to be written down: by key id, so that two
    /// who write lock their rows in the same order.
    pub fn take(&self, most: usize) -> Vec<Use> {
        let mut uses = self.uses();
        let ids: Vec<KeyId> = uses.due.keys().take(most).copied().collect();
        let taken = ids.into_iter().filter_map(|key_id| {
            let (count, last_at) = uses.due.remove(&key_id)?;
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
        (uses.len(), uses.lost)
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uses {
    fn add(&mut self, new: Use) {
        let known = |uses: &ByKey| uses.contains_key(&new.key_id);
        if self.len() < self.most_keys || known(&self.by_key) || known(&self.due) {
            add(&mut self.by_key, new);
        } else {
            self.lost = self.lost.saturating_add(new.count);
        }
    }

    fn len(&self) -> usize {
        self.by_key.len() + self.due.len()
    }
}

fn add(uses: &mut ByKey, new: Use) {
    let (count, last_at) = uses.entry(new.key_id).or_insert((0, new.last_at));
    *count = count.saturating_add(new.count);
    *last_at = new.last_at.max(*last_at);
}
