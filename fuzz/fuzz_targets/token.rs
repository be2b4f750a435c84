//! Tokens: whatever the text, the core reads it as the format's description does.
#![no_main]

use std::sync::LazyLock;

use keylatch_fuzz::secrets::SecretRing;
use keylatch_fuzz::token::{KeyId, Prefix, Token, TokenError};
use keylatch_fuzz::{ACTIVE, Played, RING, plain_token as plain};
use libfuzzer_sys::fuzz_target;

static SECRETS: LazyLock<SecretRing> = LazyLock::new(|| SecretRing::parse(RING).unwrap());

fuzz_target!(|input: &[u8]| {
    minted_tokens_are_read_again(input);
    let _ = KeyId::claimed(input, &["acme_live".to_owned(), "k".to_owned()]);
    let Ok(text) = core::str::from_utf8(input) else { return };
    assert_eq!(Prefix::parse(text).is_ok(), plain::is_prefix(text));
    foreign_tokens_are_read_as_described(text);
    tokens_are_read_as_described(text);
    // No input meets a checksum by chance, so that the rest would be tried seldom.
    if let Some(summed) = text.len().checked_sub(6).and_then(|end| text.get(..end)) {
        tokens_are_read_as_described(&format!("{summed}{}", plain::checksum(summed.as_bytes())));
        if let Some(sealed) = summed.len().checked_sub(6).and_then(|end| text.get(..end)) {
            let summed = format!("{sealed}{}", plain::seal(&ACTIVE, sealed));
            let whole = format!("{summed}{}", plain::checksum(summed.as_bytes()));
            tokens_are_read_as_described(&whole);
        }
    }
});

fn tokens_are_read_as_described(text: &str) {
    let parts = plain::shape(text);
    let token = match (Token::read(text), &parts) {
        (Err(TokenError::Shape), None) => return,
        (Err(TokenError::Checksum), Some(parts)) => {
            assert_ne!(plain::checksum(&text.as_bytes()[..text.len() - 6]), parts.checksum);
            return;
        }
        (Ok(token), Some(_)) => token,
        (read, parts) => panic!("{} but {parts:?}", read.err().map_or("ok", |_| "refused")),
    };
    let parts = parts.expect("matched above");
    assert_eq!(plain::checksum(&text.as_bytes()[..text.len() - 6]), parts.checksum);
    assert_eq!((token.prefix(), token.key_id().as_str()), (&*parts.prefix, &*parts.key_id));
    assert_eq!(
        text,
        format!(
            "{}_{}_{}{}{}",
            token.prefix(),
            parts.key_id,
            parts.secret,
            parts.seal,
            parts.checksum
        )
    );
    assert!(!token.is_foreign());
    // What the request path reads of it without parsing it.
    let claimed = |prefix: &str| KeyId::claimed(text.as_bytes(), &[prefix.to_owned()]);
    assert_eq!(claimed(&parts.prefix), Some(token.key_id()));
    assert_eq!(claimed(&format!("{}x", parts.prefix)), None);
    assert_eq!(KeyId::parse(&parts.key_id), Some(token.key_id()));
    let sealed = &text[..text.len() - 12];
    let by_active = token.sealed_by(&SECRETS).is_some_and(|kid| kid.as_str() == "k1");
    assert_eq!(by_active, plain::seal(&ACTIVE, sealed) == parts.seal);
    let kept = token.to_owned();
    assert_eq!((kept.as_str(), kept.key_id()), (text, token.key_id()));
}

fn foreign_tokens_are_read_as_described(text: &str) {
    let fits = (8..=512).contains(&text.len()) && text.chars().all(|c| ('!'..='~').contains(&c));
    match Token::foreign(text, SECRETS.active()) {
        Ok(token) => {
            assert!(fits && token.is_foreign() && token.sealed_by(&SECRETS).is_none());
            assert_eq!((token.as_str(), token.prefix()), (text, ""));
            assert_eq!(token.key_id().as_str(), plain::foreign_id(&ACTIVE, text));
        }
        Err(error) => assert!(!fits && error == TokenError::Foreign),
    }
}

fn minted_tokens_are_read_again(random: &[u8]) {
    let Ok(prefix) = Prefix::parse("acme_live") else { unreachable!("it is one") };
    let Ok(token) = Token::mint(&prefix, &SECRETS, &mut Played::of(random)) else {
        unreachable!("the source never fails")
    };
    tokens_are_read_as_described(token.as_str());
    assert!(
        token.sealed_by(&SECRETS) == Some(SECRETS.active().kid()) && token.prefix() == "acme_live"
    );
}
