//! Stored hashes: what is accepted has one writing only, and means what stands in it.
#![no_main]

use std::sync::LazyLock;

use keylatch_fuzz::hash::{Cost, HashError, Scheme, StoredHash, check, hash, needs_rehash, verify};
use keylatch_fuzz::secrets::SecretRing;
use keylatch_fuzz::{ACTIVE, Played, RING, plain_stored as plain, plain_token};
use libfuzzer_sys::fuzz_target;

static SECRETS: LazyLock<SecretRing> = LazyLock::new(|| SecretRing::parse(RING).unwrap());

fuzz_target!(|input: &[u8]| {
    hashes_verify_their_own_token_only(input);
    if let Ok(text) = core::str::from_utf8(input) {
        hashes_are_read_as_described(text);
    }
    // No input meets a field's bounds by chance, so that they would be tried seldom.
    if let Some(([scheme, memory, iterations, lanes, salt_len], bytes)) = input.split_first_chunk()
    {
        let (salt, tag) = bytes.split_at(bytes.len().min(usize::from(salt_len % 72)));
        let (mut salt, mut tag) = (salt.to_vec(), tag.to_vec());
        if *scheme < 240 {
            salt.resize(usize::from(salt_len % 72), 0);
            tag.resize(32, 0);
        }
        // Around the bounds of each: 7 and 128 MiB, 10 passes, 4 lanes.
        let memory = [7168, 131_072][usize::from(memory % 2)] + u32::from(memory / 2 % 3);
        let cost = (memory - 1, u32::from(iterations % 12), u32::from(lanes % 6));
        let kids = [None, Some("k1"), Some("prod2026"), Some("k"), Some("ninechars")];
        let stored = plain::Stored {
            cost: (scheme % 2 == 1).then_some(cost),
            kid: kids[usize::from(scheme / 2 % 5)].map(str::to_owned),
            salt,
            tag,
        };
        hashes_are_read_as_described(&stored.written());
    }
});

fn hashes_are_read_as_described(text: &str) {
    let read = plain::read(text);
    let Ok(stored) = StoredHash::parse(text) else {
        assert_eq!(read, None);
        return;
    };
    let read = read.expect("the core accepts what the description does not");
    assert_eq!(read.written(), text);
    assert_eq!(stored.is_slow(), read.cost.is_some());
    let known = read.kid.as_ref().is_none_or(|kid| ["k1", "k2", "prod2026"].contains(&&**kid));
    match stored.secret(&SECRETS) {
        Ok(secret) => {
            assert_eq!(secret.map(|secret| secret.kid().to_string()), read.kid);
        }
        Err(error) => assert!(!known && matches!(error, HashError::UnknownKid(_))),
    }
    assert_eq!(check(&SECRETS, text).is_ok(), known);
    assert_eq!(stored.is_outdated(&SECRETS), read.kid.as_deref() != Some("k1"));
    let scheme = read.cost.map_or(Scheme::HmacSha256, |(memory, iterations, lanes)| {
        Scheme::Argon2id(Cost::new(memory, iterations, lanes).expect("the policy accepts it"))
    });
    let ours = read.kid.as_deref() == Some("k1") && read.salt.len() == 16;
    assert_eq!(needs_rehash(scheme, &SECRETS, text), Ok(!ours));
    if !stored.is_slow() && ours {
        let token = b"acme_live";
        assert_eq!(verify(&SECRETS, token, text), Ok(tag(&read.salt, token) == read.tag));
    }
}

fn hashes_verify_their_own_token_only(token: &[u8]) {
    let mut random = Played::of(token);
    let stored = hash(Scheme::HmacSha256, &SECRETS, token, &mut random).expect("it never fails");
    let read = plain::read(&stored).expect("the description has what the core writes");
    assert_eq!((read.kid.as_deref(), &read.tag), (Some("k1"), &tag(&read.salt, token)));
    assert_eq!(verify(&SECRETS, token, &stored), Ok(true));
    assert_eq!(verify(&SECRETS, &[token, b"x"].concat(), &stored), Ok(false));
}

/// HMAC(hash subkey, salt and token).
fn tag(salt: &[u8], token: &[u8]) -> Vec<u8> {
    let subkey = plain_token::hmac(&ACTIVE, b"keylatch/v1/hash");
    plain_token::hmac(&subkey, &[salt, token].concat())
}
