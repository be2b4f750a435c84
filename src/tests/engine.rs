//! The request path: what a token opens, by what is cached, at which moment.

use proptest::prelude::*;
use rand::rngs::SysRng;

use super::ring_led_by;
use crate::cache::Row;
use crate::clock::Moment;
use crate::engine::{Denial, Engine, Said, Settings, Verdict};
use crate::hash::{Cost, HashError, Scheme, hash};
use crate::secrets::{Kid, SecretRing};
use crate::sync::Arc;
use crate::token::{Prefix, Token};

const SECOND: u64 = 1_000_000;
const DENIED: Verdict<u32> = Verdict::Denied(Denial::Invalid);
const START: Moment = Moment { now: 1_800_000_000_000_000, ticks: SECOND };

/// An engine, the ring of the vectors, and a token with its key, whose scopes are a number.
struct Gate {
    engine: Engine<u32>,
    ring: SecretRing,
    token: Token,
}

impl Gate {
    fn new() -> Self {
        let ring = ring_led_by("k1");
        let settings = Settings {
            prefixes: vec!["acme".to_owned(), "acme_test".to_owned()],
            capacity: 100,
            max_staleness: 10 * SECOND,
            unsealed_lookups: 50,
            imported: false,
        };
        let engine = Engine::new(&ring, settings).unwrap();
        engine.heard(START.ticks);
        let token = mint("acme", &ring);
        Self { engine, ring, token }
    }

    fn load(&self, edit: impl FnOnce(&mut Row<u32>)) -> Arc<Row<u32>> {
        self.load_hashed(Scheme::HmacSha256, edit)
    }

    fn load_hashed(&self, scheme: Scheme, edit: impl FnOnce(&mut Row<u32>)) -> Arc<Row<u32>> {
        let stored = hash(scheme, &self.ring, self.token.as_str().as_bytes(), &mut SysRng);
        self.load_stored_edited(&stored.unwrap(), edit)
    }

    fn load_stored(&self, stored: &str) -> Arc<Row<u32>> {
        self.load_stored_edited(stored, |_| ())
    }

    fn load_stored_edited(&self, stored: &str, edit: impl FnOnce(&mut Row<u32>)) -> Arc<Row<u32>> {
        let said = Said {
            key_id: self.token.key_id(),
            epoch: self.engine.cache().epoch(self.token.key_id()),
            key: Some(7),
            hash: stored,
            expires_at: None,
            revoked: false,
            imported: false,
        };
        let mut row = self.engine.row(&self.ring, said, START).unwrap();
        edit(&mut row);
        let row = Arc::new(row);
        self.engine.cache().insert(Arc::clone(&row));
        row
    }

    fn load_absent(&self) -> Arc<Row<u32>> {
        let said = Said {
            key_id: self.token.key_id(),
            epoch: self.engine.cache().epoch(self.token.key_id()),
            key: None,
            hash: "",
            expires_at: None,
            revoked: false,
            imported: false,
        };
        let row = Arc::new(self.engine.row(&self.ring, said, START).unwrap());
        self.engine.cache().insert(Arc::clone(&row));
        row
    }

    fn check_at(&self, token: &Token, at: Moment) -> Verdict<u32> {
        key_of(self.engine.check(&self.ring, token.borrow(), at, |_| true))
    }

    fn check_credential(&self, credential: &[u8]) -> Verdict<u32> {
        key_of(self.engine.check_credential(&self.ring, credential, START, |_| true))
    }

    fn check(&self) -> Verdict<u32> {
        self.check_at(&self.token, START)
    }

    /// A token of the same key id with another secret.
    fn forged(&self) -> Token {
        forge(&self.token)
    }
}

fn key_of(verdict: Verdict<Arc<Row<u32>>>) -> Verdict<u32> {
    match verdict {
        Verdict::Opens(row) => Verdict::Opens(row.key.unwrap()),
        Verdict::Denied(denial) => Verdict::Denied(denial),
        Verdict::Barred(denial, row) => Verdict::Barred(denial, row.key.unwrap()),
        Verdict::Unknown => Verdict::Unknown,
    }
}

fn mint(prefix: &str, ring: &SecretRing) -> Token {
    Token::mint(&Prefix::parse(prefix).unwrap(), ring, &mut SysRng).unwrap()
}

/// The same prefix and key id, another secret and a seal that is not right.
fn forge(token: &Token) -> Token {
    let other = mint(token.prefix(), &ring_led_by("k1"));
    let start = token.prefix().len() + 18;
    let body = format!("{}{}", &token.as_str()[..start], &other.as_str()[start..start + 49]);
    let checksum = u64::from(crc32fast::hash(body.as_bytes()));
    let digits = (0..6).rev().map(|place| {
        let digit = (checksum / 62_u64.pow(place)) % 62;
        char::from(
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[digit as usize],
        )
    });
    Token::parse(&format!("{body}{}", digits.collect::<String>())).unwrap()
}

/// The key comes out for the right secret, and its use is counted.
#[test]
fn the_right_secret_opens() {
    let gate = Gate::new();
    assert_eq!(gate.check(), Verdict::Unknown);
    gate.load(|_| ());
    assert_eq!(gate.check(), Verdict::Opens(7));
    gate.engine.ledger().close();
    let uses = gate.engine.ledger().take(10);
    assert_eq!((uses.len(), uses[0].count, uses[0].last_at), (1, 1, START.now));
}

/// A hit needs the right secret; a wrong one is denied without the database, and not counted.
#[test]
fn a_wrong_secret_is_denied() {
    let gate = Gate::new();
    gate.load(|_| ());
    assert_eq!(gate.check_at(&gate.forged(), START), Verdict::Denied(Denial::Invalid));
    assert_eq!(gate.engine.ledger().backlog(), (0, 0));
}

/// A credential that is not read opens what the token in it opens, and its use is counted once.
#[test]
fn an_unread_credential_opens_what_its_token_does() {
    let gate = Gate::new();
    let text = gate.token.as_str().to_owned();
    assert_eq!(gate.check_credential(text.as_bytes()), Verdict::Unknown);
    gate.load(|_| ());
    assert_eq!(gate.check_credential(text.as_bytes()), Verdict::Opens(7));
    assert_eq!(gate.check_credential(gate.forged().as_str().as_bytes()), DENIED);
    gate.engine.ledger().close();
    assert_eq!(gate.engine.ledger().take(10)[0].count, 1);
    gate.load(|row| row.revoked = true);
    assert_eq!(gate.check_credential(text.as_bytes()), Verdict::Barred(Denial::Revoked, 7));
    gate.load_absent();
    assert_eq!(gate.check_credential(text.as_bytes()), DENIED);
}

proptest! {
    /// Whatever is done to a token, its row opens nothing then: with bytes that are no text, too.
    #[test]
    fn an_edited_credential_opens_nothing(
        at in 0..93_usize, put in prop::collection::vec(any::<u8>(), 0..3), cut in 0..3_usize,
    ) {
        let gate = Gate::new();
        gate.load(|_| ());
        let token = gate.token.as_str().as_bytes();
        let end = (at + cut).min(token.len());
        let edited = [token.get(..at.min(end)).unwrap(), &put, token.get(end..).unwrap()].concat();
        let verdict = gate.check_credential(&edited);
        if edited == token {
            prop_assert_eq!(verdict, Verdict::Opens(7));
        } else {
            prop_assert!(verdict == DENIED || verdict == Verdict::Unknown);
        }
    }
}

/// The row of one key never judges a token of another.
#[test]
fn a_row_judges_its_own_key_only() {
    let gate = Gate::new();
    let row = gate.load(|_| ());
    let other = mint("acme", &gate.ring);
    let verdict = gate.engine.judge(&gate.ring, &row, other.borrow(), START, |_| true);
    assert_eq!(verdict, Ok(Verdict::Denied(Denial::Invalid)));
}

/// Tokens of another prefix are denied unread, and those of a second prefix are not.
#[test]
fn the_prefix_has_to_be_ours() {
    let gate = Gate::new();
    let stranger = mint("acm", &gate.ring);
    assert_eq!(gate.check_at(&stranger, START), Verdict::Denied(Denial::Invalid));
    assert_eq!(gate.check_at(&mint("acme_test", &gate.ring), START), Verdict::Unknown);
}

/// A key ends at its moment, to the microsecond, also while it is cached, and a clock that goes
/// back brings it back.
#[test]
fn a_key_ends_to_the_microsecond() {
    let gate = Gate::new();
    gate.load(|row| row.expires_at = Some(START.now));
    for (now, verdict) in [
        (-1, Verdict::Opens(7)),
        (0, Verdict::Barred(Denial::Expired, 7)),
        (1, Verdict::Barred(Denial::Expired, 7)),
        (-3_600_000_000, Verdict::Opens(7)),
    ] {
        let at = Moment { now: START.now + now, ..START };
        assert_eq!(gate.check_at(&gate.token, at), verdict);
    }
}

/// Only whoever has the right secret hears that a key is revoked or has expired.
#[test]
fn the_state_is_told_to_the_right_secret_only() {
    let gate = Gate::new();
    gate.load(|row| (row.revoked, row.expires_at) = (true, Some(0)));
    assert_eq!(gate.check(), Verdict::Barred(Denial::Revoked, 7));
    assert_eq!(gate.check_at(&gate.forged(), START), Verdict::Denied(Denial::Invalid));
}

/// A key without the scope is denied, and the use is not counted.
#[test]
fn the_scope_is_asked_of_the_right_secret_only() {
    let gate = Gate::new();
    gate.load(|_| ());
    let verdict = gate.engine.check(&gate.ring, gate.token.borrow(), START, |key| *key == 8);
    assert!(matches!(verdict, Verdict::Barred(Denial::Scope, _)));
    let forged = gate.forged();
    let verdict = gate.engine.check(&gate.ring, forged.borrow(), START, |_| panic!("asked"));
    assert!(matches!(verdict, Verdict::Denied(Denial::Invalid)));
    assert_eq!(gate.engine.ledger().backlog(), (0, 0));
}

/// Cached rows count until the feed was silent for too long, and not a tick longer.
#[test]
fn cached_rows_count_while_the_feed_is_fresh() {
    let gate = Gate::new();
    gate.load(|_| ());
    let end = START.ticks + 10 * SECOND;
    let at = |ticks| Moment { ticks, ..START };
    assert_eq!(gate.check_at(&gate.token, at(end - 1)), Verdict::Opens(7));
    assert_eq!(gate.check_at(&gate.token, at(end)), Verdict::Unknown);
    gate.engine.heard(START.ticks + 1);
    assert_eq!(gate.check_at(&gate.token, at(end)), Verdict::Opens(7));
    gate.engine.distrust();
    assert_eq!(gate.check(), Verdict::Unknown);
}

/// A row is read anew after five minutes, whatever the feed says.
#[test]
fn a_row_gets_old() {
    let gate = Gate::new();
    gate.load(|_| ());
    let old = Moment { ticks: START.ticks + 300 * SECOND, ..START };
    gate.engine.heard(old.ticks);
    assert_eq!(
        gate.check_at(&gate.token, Moment { ticks: old.ticks - 1, ..old }),
        Verdict::Opens(7)
    );
    assert_eq!(gate.check_at(&gate.token, old), Verdict::Unknown);
}

/// That there is no key is known for a while, and then asked again.
#[test]
fn absence_is_known_for_a_while() {
    let gate = Gate::new();
    gate.load_absent();
    assert_eq!(gate.check(), Verdict::Denied(Denial::Invalid));
    let later = Moment { ticks: START.ticks + 5 * SECOND, ..START };
    assert_eq!(gate.check_at(&gate.token, later), Verdict::Unknown);
    gate.load_absent();
    gate.engine.cache().evict(gate.token.key_id());
    assert_eq!(gate.check(), Verdict::Unknown);
}

/// A row that was overtaken by a change judges nothing, whatever it says.
#[test]
fn a_row_that_was_overtaken_does_not_judge() {
    let gate = Gate::new();
    for row in [gate.load(|_| ()), gate.load_absent(), gate.load(|row| row.revoked = true)] {
        gate.engine.cache().evict(gate.token.key_id());
        let verdict = gate.engine.judge(&gate.ring, &row, gate.token.borrow(), START, |_| true);
        assert_eq!(verdict, Ok(Verdict::Unknown));
    }
}

/// A slow hash is computed once; then the one token that verified opens, and others are denied
/// without computing it again.
#[test]
fn a_slow_hash_is_computed_once() {
    let gate = Gate::new();
    let row = gate.load_hashed(Scheme::Argon2id(Cost::new(7168, 1, 1).unwrap()), |_| ());
    assert!(row.needs_stretching());
    assert_eq!(gate.check(), Verdict::Unknown);
    let forged = gate.forged();
    gate.engine.stretch(&gate.ring, &row, forged.borrow()).unwrap();
    assert!(row.needs_stretching());
    let verdict = gate.engine.judge(&gate.ring, &row, forged.borrow(), START, |_| true);
    assert_eq!(verdict, Ok(Verdict::Denied(Denial::Invalid)));
    gate.engine.stretch(&gate.ring, &row, gate.token.borrow()).unwrap();
    assert!(!row.needs_stretching());
    assert_eq!(gate.check(), Verdict::Opens(7));
    assert_eq!(gate.check_at(&forged, START), Verdict::Denied(Denial::Invalid));
}

/// A ring of one secret that is in no other.
fn other_ring() -> SecretRing {
    let secret = SecretRing::generate(Kid::parse("k9").unwrap(), &mut SysRng);
    SecretRing::parse(&secret.unwrap()).unwrap()
}

/// A hash under a secret that has left the ring is an error for who reads it, and never a yes.
#[test]
fn an_unknown_kid_is_no_answer() {
    let mut gate = Gate::new();
    let row = gate.load(|_| ());
    gate.ring = other_ring();
    assert_eq!(gate.check(), Verdict::Unknown);
    let judged = gate.engine.judge(&gate.ring, &row, gate.token.borrow(), START, |_| true);
    assert!(matches!(judged, Err(HashError::UnknownKid(_))));
}

/// A dead key opens nothing, whatever its hash is under: there is no doubt, with a slow hash either.
#[test]
fn a_dead_key_needs_no_server_secret() {
    let dead: [fn(&mut Row<u32>); 2] =
        [|row| row.revoked = true, |row| row.expires_at = Some(START.now)];
    for scheme in [Scheme::HmacSha256, Scheme::Argon2id(Cost::new(7168, 1, 1).unwrap())] {
        for die in dead {
            let mut gate = Gate::new();
            let row = gate.load_hashed(scheme, die);
            gate.ring = other_ring();
            gate.engine.stretch(&gate.ring, &row, gate.token.borrow()).unwrap();
            let judged = gate.engine.judge(&gate.ring, &row, gate.token.borrow(), START, |_| true);
            assert_eq!(judged, Ok(Verdict::Denied(Denial::Invalid)));
        }
        let mut gate = Gate::new();
        let row = gate.load_hashed(scheme, |_| ());
        gate.ring = other_ring();
        gate.engine.stretch(&gate.ring, &row, gate.token.borrow()).unwrap();
        let judged = gate.engine.judge(&gate.ring, &row, gate.token.borrow(), START, |_| true);
        assert!(matches!(judged, Err(HashError::UnknownKid(_))));
    }
}

/// A hash under a secret that is not the active one is noticed by the first token that opens its
/// key, once, and by no other; its use is counted once.
#[test]
fn an_outdated_hash_is_noticed_once() {
    let mut gate = Gate::new();
    let current = gate.load(|_| ());
    assert!(current.outdated.is_none());
    let retired = ring_led_by("k2");
    let stored =
        hash(Scheme::HmacSha256, &retired, gate.token.as_str().as_bytes(), &mut SysRng).unwrap();
    let row = gate.load_stored(&stored);
    assert_eq!(gate.check_at(&gate.forged(), START), Verdict::Denied(Denial::Invalid));
    let narrow = gate.engine.check(&gate.ring, gate.token.borrow(), START, |_| false);
    assert!(matches!(narrow, Verdict::Barred(Denial::Scope, _)));
    assert_eq!(gate.check(), Verdict::Unknown);
    let judged = gate.engine.judge(&gate.ring, &row, gate.token.borrow(), START, |_| true);
    assert_eq!(judged, Ok(Verdict::Opens(())));
    let outdated = row.outdated.as_ref().unwrap();
    assert_eq!(outdated.notice(), Some(stored.as_str()));
    assert_eq!(outdated.notice(), None);
    assert_eq!(gate.check(), Verdict::Opens(7));
    gate.engine.ledger().close();
    assert_eq!(gate.engine.ledger().take(10).iter().map(|each| each.count).sum::<u64>(), 2);
    gate.ring = retired;
    assert!(gate.load_stored(&stored).outdated.is_none());
}

/// Sealed tokens are looked up always; the others fifty times a second, and not more after a rest.
#[test]
fn lookups_without_a_seal_are_few() {
    let gate = Gate::new();
    let forged = gate.forged();
    let admitted = |ticks| {
        let at = Moment { ticks, ..START };
        (0..200).filter(|_| gate.engine.admits(&gate.ring, forged.borrow(), at)).count()
    };
    assert_eq!(admitted(START.ticks), 50);
    assert_eq!(admitted(START.ticks), 0);
    assert_eq!(admitted(START.ticks + SECOND / 10), 5);
    assert_eq!(admitted(START.ticks + 3600 * SECOND), 50);
    let all = (0..200).all(|_| gate.engine.admits(&gate.ring, gate.token.borrow(), START));
    assert!(all);
}
