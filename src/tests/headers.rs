//! Extraction of the credential from headers, held against RFC 9110.

use core::slice;

use proptest::prelude::*;

use crate::headers::{Credential, MAX_CREDENTIAL_LEN, MAX_NAMES, Refusal, Sources};

fn read<'a>(values: impl Iterator<Item = (usize, &'a [u8])>) -> Result<&'a str, Refusal> {
    Sources::credential(values).and_then(Credential::text)
}

/// The credential of an `Authorization` header with this value.
fn bearer(value: &[u8]) -> Result<&str, Refusal> {
    read([(0, value)].into_iter())
}

/// The credential of a header of its own with this value.
fn own(value: &[u8]) -> Result<&str, Refusal> {
    read([(1, value)].into_iter())
}

fn sources(bearer: bool, names: &[&str]) -> Option<Sources> {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    Sources::new(bearer, &names, None, None).ok()
}

/// Header names are told apart by their letters, whatever their case (RFC 9110, 5.1).
#[test]
fn header_names_have_no_case() {
    let sources = sources(true, &["X-API-Key", "x-token"]).unwrap();
    for name in ["authorization", "Authorization", "AUTHORIZATION"] {
        assert_eq!(sources.slot(name.as_bytes()), Some(0));
    }
    assert_eq!(sources.slot(b"x-api-key"), Some(1));
    assert_eq!(sources.slot(b"X-Api-KEY"), Some(1));
    assert_eq!(sources.slot(b"X-TOKEN"), Some(2));
    for other in [&b"x_api_key"[..], b"x-api-key ", b"x-api-ke", b"x-api-keyy", b"", b"\xff\xfe"] {
        assert_eq!(sources.slot(other), None);
    }
}

/// Without `bearer` the `Authorization` header is no source.
#[test]
fn authorization_counts_only_if_asked_for() {
    let sources = sources(false, &["x-api-key"]).unwrap();
    assert_eq!(sources.slot(b"authorization"), None);
    assert_eq!(sources.slot(b"x-api-key"), Some(1));
}

/// A source is a header name (RFC 9110, 5.6.2), and each is named once.
#[test]
fn sources_are_header_names() {
    let many: Vec<String> = (0..=MAX_NAMES).map(|n| format!("x-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(sources(true, &[]).is_some());
    assert!(sources(false, &["!#$%&'*+-.^_`|~09azAZ"]).is_some());
    assert!(sources(false, &many[..MAX_NAMES]).is_some());
    assert!(sources(false, &many).is_none());
    assert!(sources(false, &[]).is_none());
    assert!(sources(true, &["x-a", "X-A"]).is_none());
    for wrong in
        ["", " ", "x a", "x:a", "x\n", "x\0", "x(a)", "é", "Authorization", "AUTHORIZATION"]
    {
        assert!(sources(true, &[wrong]).is_none(), "{wrong:?}");
        assert!(sources(false, &["x-a", wrong]).is_none(), "{wrong:?}");
    }
}

/// The scheme has no case, and one or more spaces follow it (RFC 9110, 11.1 and 11.4).
#[test]
fn the_scheme_is_read_as_the_rfc_writes_it() {
    for value in ["Bearer abc", "bearer abc", "BEARER abc", "bEaReR   abc", " \t Bearer abc\t "] {
        assert_eq!(bearer(value.as_bytes()), Ok("abc"), "{value:?}");
    }
    let other = ["", " ", "\t", "Basic abc", "Bearerabc", "Bearer-abc", "Bea rer abc", "Token abc"];
    for other in other.into_iter().chain(["\"Bearer\" abc", ",Bearer abc", "=", "Basic"]) {
        assert_eq!(bearer(other.as_bytes()), Err(Refusal::Missing), "{other:?}");
    }
    for wrong in ["Bearer", "Bearer ", "Bearer\tabc", "Bearer,abc", "Bearer=abc", "Bearer\0abc"] {
        assert_eq!(bearer(wrong.as_bytes()), Err(Refusal::Invalid), "{wrong:?}");
    }
}

/// A credential is visible ASCII: no blank, no control character, nothing beyond.
#[test]
fn credentials_are_visible_ascii() {
    for byte in 0..=255_u8 {
        let visible = (0x21..=0x7e).contains(&byte);
        let value = [b"a", &[byte][..], b"b"].concat();
        assert_eq!(own(&value).is_ok(), visible, "{byte}");
        assert_eq!(bearer(&[b"Bearer ", &value[..]].concat()).is_ok(), visible, "{byte}");
    }
    for refused in ["Bearer a b", "Bearer a, Bearer b", "Bearer \u{e9}", "Bearer \t a"] {
        assert_eq!(bearer(refused.as_bytes()), Err(Refusal::Invalid), "{refused:?}");
    }
}

/// A header of its own carries the credential and nothing else; blanks around it do not count.
#[test]
fn own_headers_carry_the_bare_credential() {
    assert_eq!(own(b"abc"), Ok("abc"));
    assert_eq!(own(b"\t abc \t"), Ok("abc"));
    assert_eq!(own(b"Bearer abc"), Err(Refusal::Invalid));
    assert_eq!(own(b" \t "), Err(Refusal::Missing));
}

/// The longest credential that is read has 4096 bytes.
#[test]
fn credentials_end_at_the_bound() {
    let longest = vec![b'a'; MAX_CREDENTIAL_LEN];
    assert_eq!(own(&longest).map(str::len), Ok(4096));
    assert_eq!(own(&[&longest[..], b"a"].concat()), Err(Refusal::Invalid));
    assert_eq!(bearer(&[b"Bearer ", &longest[7..]].concat()).map(str::len), Ok(4089));
    assert_eq!(bearer(&[b"Bearer ", &longest[6..]].concat()), Err(Refusal::Invalid));
    let blanks = vec![b' '; MAX_CREDENTIAL_LEN];
    assert_eq!(own(&[&blanks[..], b"abc"].concat()), Err(Refusal::Invalid));
    assert_eq!(bearer(&[b"Bearer ", &blanks[..], b"abc"].concat()), Err(Refusal::Invalid));
}

/// What other schemes carry is not ours to measure: Kerberos tickets are long.
#[test]
fn another_scheme_may_be_long() {
    let ticket = [b"Negotiate ", &vec![b'a'; 3 * MAX_CREDENTIAL_LEN][..]].concat();
    assert_eq!(bearer(&ticket), Err(Refusal::Missing));
    let values: [(usize, &[u8]); 2] = [(0, &ticket), (1, b"abc")];
    assert_eq!(read(values.into_iter()), Ok("abc"));
}

/// Two headers may say the same; what differs is ambiguous, even if one of them is no token.
#[test]
fn headers_that_differ_are_ambiguous() {
    let read = |values: &[(usize, &'static [u8])]| read(values.iter().copied());
    assert_eq!(read(&[]), Err(Refusal::Missing));
    assert_eq!(read(&[(0, b"Bearer abc"), (1, b"abc")]), Ok("abc"));
    assert_eq!(read(&[(0, b"Basic abc"), (1, b"abc"), (2, b" ")]), Ok("abc"));
    assert_eq!(read(&[(0, b"Bearer abc"), (1, b"abd")]), Err(Refusal::Ambiguous));
    assert_eq!(read(&[(0, b"Bearer"), (1, b"abc")]), Err(Refusal::Ambiguous));
    assert_eq!(read(&[(1, b"abc"), (2, b"abc"), (3, b"ABC")]), Err(Refusal::Ambiguous));
    assert_eq!(read(&[(1, b"\xff"), (2, b"\xff")]), Err(Refusal::Invalid));
}

proptest! {
    /// Any bytes are a credential or a refusal, and never a panic; what comes out stood in there.
    #[test]
    fn any_bytes_are_read_without_a_panic(
        values in prop::collection::vec((0..4_usize, prop::collection::vec(any::<u8>(), 0..40)), 0..4),
        name in prop::collection::vec(any::<u8>(), 0..20), text in any::<String>(),
    ) {
        if let Ok(found) = read(values.iter().map(|(slot, v)| (*slot, v.as_slice()))) {
            let inside = |value: &[u8]| value.windows(found.len()).any(|w| w == found.as_bytes());
            prop_assert!(values.iter().any(|(_, value)| inside(value)));
        }
        let sources = Sources::new(true, &["x-api-key".to_owned()], None, None).ok().unwrap();
        let _ = sources.slot(&name);
        let _ = Sources::new(false, slice::from_ref(&text), Some(text.clone()), None);
    }
}
