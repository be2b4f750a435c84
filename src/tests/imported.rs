//! Tokens of other formats: their ids, which texts are such tokens, and what a cache says of them.

use rand::rngs::SysRng;
use serde_json::Value;

use super::{cases, ring_led_by, text};
use crate::cache::Row;
use crate::clock::Moment;
use crate::engine::{Denial, Engine, Said, Settings, Verdict};
use crate::hash::{Cost, Scheme, hash};
use crate::secrets::{Kid, SecretRing};
use crate::sync::Arc;
use crate::token::{KeyId, Prefix, Token, TokenError};

const SECOND: u64 = 1_000_000;
const NOW: Moment = Moment { now: 1_800_000_000_000_000, ticks: SECOND };
const OLD: &str = "MV_SECRET_0000000000000000000000000000000000000000000000000000000000000000";

/// Vectors that were computed without keylatch.
fn imported() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/imported-v1.json")).unwrap()
}

fn engine(ring: &SecretRing, imported: bool) -> Engine<u32> {
    let settings = Settings {
        prefixes: vec!["acme".to_owned()],
        capacity: 100,
        max_staleness: 10 * SECOND,
        unsealed_lookups: 50,
        imported,
    };
    let engine = Engine::new(ring, settings).unwrap();
    engine.heard(NOW.ticks);
    engine
}

fn mint(prefix: &str, ring: &SecretRing) -> Token {
    Token::mint(&Prefix::parse(prefix).unwrap(), ring, &mut SysRng).unwrap()
}

/// The token with its last character changed: its checksum alone is wrong.
fn mistyped(token: &Token) -> String {
    let (start, last) = token.as_str().split_at(token.as_str().len() - 1);
    format!("{start}{}", if last == "0" { "1" } else { "0" })
}

/// Puts a row into the cache: of a key whose hash is under a ring's active secret, or of none.
fn keep(
    engine: &Engine<u32>,
    ring: &SecretRing,
    key_id: KeyId,
    stored: Option<&str>,
) -> Arc<Row<u32>> {
    let said = Said {
        key_id,
        epoch: engine.cache().epoch(key_id),
        key: stored.map(|_| 7),
        hash: stored.unwrap_or_default(),
        expires_at: None,
        revoked: false,
        imported: true,
    };
    let row = Arc::new(engine.row(ring, said, NOW).unwrap());
    engine.cache().insert(Arc::clone(&row));
    row
}

fn stored(ring: &SecretRing, token: &str) -> String {
    hash(Scheme::HmacSha256, ring, token.as_bytes(), &mut SysRng).unwrap()
}

fn check(engine: &Engine<u32>, ring: &SecretRing, token: &str) -> Verdict<u32> {
    let token = engine.read(ring, token).unwrap();
    match engine.check(ring, token, NOW, |_| true) {
        Verdict::Opens(row) => Verdict::Opens(row.key.unwrap()),
        Verdict::Denied(denial) => Verdict::Denied(denial),
        Verdict::Barred(denial, row) => Verdict::Barred(denial, row.key.unwrap()),
        Verdict::Unknown => Verdict::Unknown,
    }
}

/// The id is what an independent computation says, under every server secret.
#[test]
fn vectors_have_their_ids() {
    for case in cases(&imported(), "ids") {
        let ring = ring_led_by(text(&case, "kid"));
        let token = Token::foreign(text(&case, "token"), ring.active()).unwrap();
        assert_eq!(token.key_id().as_str(), text(&case, "key_id"));
        assert_eq!((token.as_str(), token.prefix()), (text(&case, "token"), ""));
        assert!(token.is_foreign());
        assert_eq!(token.sealed_by(&ring), None);
    }
    let ring = ring_led_by("k1");
    for case in cases(&imported(), "refused") {
        let refused = Token::foreign(text(&case, "token"), ring.active());
        assert_eq!(refused.err(), Some(TokenError::Foreign), "{}", text(&case, "why"));
    }
}

/// Our own tokens are read as such, and mistyped ones are none of others; whatever else fits is.
#[test]
fn only_what_is_not_ours_is_foreign() {
    let ring = ring_led_by("k1");
    let engine = engine(&ring, true);
    let (own, other) = (mint("acme", &ring), mint("acm", &ring));
    assert!(!engine.read(&ring, own.as_str()).unwrap().is_foreign());
    assert_eq!(engine.read(&ring, &mistyped(&own)).err(), Some(TokenError::Checksum));
    let damaged = format!("{}-", &own.as_str()[..own.as_str().len() - 1]);
    assert_eq!(engine.read(&ring, &damaged).err(), Some(TokenError::Shape));
    let cut = &own.as_str()[..own.as_str().len() - 1];
    assert!(engine.read(&ring, cut).unwrap().is_foreign());
    assert!(engine.read(&ring, other.as_str()).unwrap().is_foreign());
    assert!(engine.read(&ring, &mistyped(&other)).unwrap().is_foreign());
    assert!(engine.read(&ring, OLD).unwrap().is_foreign());
    assert_eq!(engine.read(&ring, "short").err(), Some(TokenError::Foreign));
}

/// Where they are not asked for there are none: not by their texts, and not out of other hands.
#[test]
fn without_being_asked_for_none_is_foreign() {
    let ring = ring_led_by("k1");
    let engine = engine(&ring, false);
    assert_eq!(engine.read(&ring, OLD).err(), Some(TokenError::Shape));
    let token = Token::foreign(OLD, ring.active()).unwrap();
    keep(&engine, &ring, token.key_id(), Some(&stored(&ring, OLD)));
    assert!(engine.candidates(&ring, token).next().is_none());
    let verdict = engine.check(&ring, token, NOW, |_| true);
    assert!(matches!(verdict, Verdict::Denied(Denial::Invalid)));
}

/// A key under any secret of the ring is found; what is not known of one of them has to be asked.
#[test]
fn each_secret_of_the_ring_may_have_named_the_key() {
    let (ring, k2) = (ring_led_by("k1"), ring_led_by("k2"));
    let others = ring.iter().count() - 1;
    assert!(others > 0);
    let gate = engine(&ring, true);
    let names = gate.candidates(&ring, gate.read(&ring, OLD).unwrap());
    let names: Vec<KeyId> = names.map(|each| each.key_id()).collect();
    assert_eq!(names.len(), others + 1);
    assert_eq!(check(&gate, &ring, OLD), Verdict::Unknown);
    for known in &names {
        keep(&gate, &ring, *known, None);
        let all = known == names.last().unwrap();
        let expected = if all { Verdict::Denied(Denial::Invalid) } else { Verdict::Unknown };
        assert_eq!(check(&gate, &ring, OLD), expected);
    }
    let old = Token::foreign(OLD, k2.active()).unwrap();
    assert!(names.contains(&old.key_id()));
    let row = keep(&gate, &ring, old.key_id(), Some(&stored(&k2, OLD)));
    assert_eq!(check(&gate, &ring, OLD), Verdict::Opens(7));
    assert!(row.outdated.is_none(), "its hash stays under the secret of its id");
    gate.cache().flush();
    keep(&gate, &ring, old.key_id(), Some(&stored(&k2, OLD)));
    assert_eq!(check(&gate, &ring, OLD), Verdict::Opens(7), "whatever is not known of the others");
}

/// That the ids are the same is not enough: the hash has to be that of the token.
#[test]
fn the_hash_decides() {
    let ring = ring_led_by("k1");
    let gate = engine(&ring, true);
    let token = gate.read(&ring, OLD).unwrap();
    keep(&gate, &ring, token.key_id(), Some(&stored(&ring, "another_token")));
    assert_eq!(check(&gate, &ring, OLD), Verdict::Denied(Denial::Invalid));
}

/// A weak token is stretched once, by whoever reads it; until then nothing is known.
#[test]
fn a_weak_token_is_stretched() {
    let ring = ring_led_by("k1");
    let gate = engine(&ring, true);
    let cost = Scheme::Argon2id(Cost::new(7168, 1, 1).unwrap());
    let slow = hash(cost, &ring, OLD.as_bytes(), &mut SysRng).unwrap();
    let token = gate.read(&ring, OLD).unwrap();
    let row = keep(&gate, &ring, token.key_id(), Some(&slow));
    assert_eq!(check(&gate, &ring, OLD), Verdict::Unknown);
    gate.stretch(&ring, &row, token).unwrap();
    assert_eq!(check(&gate, &ring, OLD), Verdict::Opens(7));
}

/// No seal admits a foreign token: not even a right one, of a token that the same secret minted.
#[test]
fn foreign_tokens_share_the_lookups_without_a_seal() {
    let ring = ring_led_by("k1");
    let gate = engine(&ring, true);
    let other = mint("acm", &ring);
    assert!(other.sealed_by(&ring).is_some());
    let token = gate.read(&ring, other.as_str()).unwrap();
    let admitted = (0..200).filter(|_| gate.admits(&ring, token, NOW)).count();
    assert_eq!(admitted, 50);
}

/// A ring whose secret is in no other names other ids.
#[test]
fn ids_depend_on_the_secret() {
    let generated = SecretRing::generate(Kid::parse("k9").unwrap(), &mut SysRng).unwrap();
    let (one, other) = (ring_led_by("k1"), SecretRing::parse(&generated).unwrap());
    let ids = [one, other].map(|ring| Token::foreign(OLD, ring.active()).unwrap().key_id());
    assert_ne!(ids[0], ids[1]);
}
