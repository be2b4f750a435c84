//! Headers, cookies and query strings: whatever stands in them, the core takes the credential that
//! the standards say is there.
//!
//! An input is a byte that chooses where a credential may stand, and headers: each a name, 0x1f, and
//! a value, with 0x1e between them. What has the name `?` is the query string.
#![no_main]

use keylatch_fuzz::headers::{Credential, Refusal, Sources, SourcesError};
use keylatch_fuzz::plain_headers::{Carried, Places, carried, is_token};
use libfuzzer_sys::fuzz_target;

const NAMES: [&[&str]; 4] = [&["X-API-Key"], &["x-api-key", "X-Old!Key"], &[], &["_"]];

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    names_are_tokens(rest);
    let chosen = |bit: u8| choice & bit != 0;
    let names: Vec<String> =
        NAMES[usize::from(choice & 3)].iter().map(ToString::to_string).collect();
    let places = Places {
        bearer: !chosen(4),
        names: names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        cookie: chosen(8).then(|| "key".to_owned()),
        parameter: chosen(16).then(|| "key".to_owned()),
    };
    let sources =
        Sources::new(places.bearer, &names, places.cookie.clone(), places.parameter.clone());
    let Ok(sources) = sources else {
        assert!(!places.bearer && names.is_empty());
        assert!(places.cookie.is_none() && places.parameter.is_none());
        return;
    };
    let mut query = Vec::new();
    let mut headers: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for header in rest.split(|byte| *byte == 0x1e) {
        let mut halves = header.splitn(2, |byte| *byte == 0x1f).map(<[u8]>::to_vec);
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        if name == b"?" {
            query = value;
        } else {
            headers.push((name, value));
        }
    }
    let read = read(&sources, &headers, &query);
    assert_eq!(read, carried(&places, &headers, &query));
});

/// What the core reads, put together as its rim does.
fn read(sources: &Sources, headers: &[(Vec<u8>, Vec<u8>)], query: &[u8]) -> (Carried, bool) {
    let mut found: [Option<&[u8]>; 3] = [None; 3];
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (name, value) in headers {
        if let Some(slot) = sources.slot(name) {
            if found[slot].replace(value).is_some() {
                return (Carried::Several, false);
            }
        } else if sources.reads_cookies(name) {
            cookies.push(value);
        }
    }
    let Ok(of_query) = sources.of_query(query) else { return (Carried::Several, false) };
    let values = found.iter().enumerate().filter_map(|(slot, value)| Some((slot, (*value)?)));
    let of_query = of_query.as_ref().map(|value| value.as_slice());
    let credential = sources.joined(Sources::credential(values), cookies.iter().copied(), of_query);
    let is_bearer_only = credential.is_ok_and(Credential::is_bearer_only);
    let carried = match credential.and_then(Credential::text) {
        Ok(text) => Carried::Credential(text.as_bytes().to_vec()),
        Err(Refusal::Missing) => Carried::Nothing,
        Err(Refusal::Invalid) => Carried::Invalid,
        Err(Refusal::Ambiguous) => Carried::Several,
    };
    (carried, is_bearer_only)
}

/// A source may be what RFC 9110 calls a field name, and nothing else.
fn names_are_tokens(name: &[u8]) {
    let Ok(name) = core::str::from_utf8(name) else { return };
    let made = Sources::new(false, &[name.to_owned()], None, None);
    let reserved = ["authorization", "cookie"].iter().any(|own| name.eq_ignore_ascii_case(own));
    assert_eq!(made.is_ok(), is_token(name.as_bytes()) && !reserved);
    let cookie = Sources::new(false, &[], Some(name.to_owned()), None);
    assert_eq!(cookie.is_ok(), is_token(name.as_bytes()) && name.len() <= 64);
    assert!(cookie.err().is_none_or(|error| error == SourcesError::Name));
}
