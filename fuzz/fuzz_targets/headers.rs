//! Headers: whatever stands in them, the core takes the credential that RFC 9110 says is there.
//!
//! An input is a byte that chooses the sources, and headers: each a name, 0x1f, and a value, with
//! 0x1e between them.
#![no_main]

use keylatch_fuzz::headers::{Credential, Refusal, Sources};
use keylatch_fuzz::plain_headers::{Carried, carried, is_token};
use libfuzzer_sys::fuzz_target;

const NAMES: [&[&str]; 4] = [&["X-API-Key"], &["x-api-key", "X-Old!Key"], &[], &["cookie"]];

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    names_are_tokens(rest);
    let bearer = choice & 4 == 0;
    let names: Vec<String> =
        NAMES[usize::from(choice & 3)].iter().map(ToString::to_string).collect();
    let Some(sources) = Sources::new(bearer, &names) else {
        assert!(!bearer && names.is_empty());
        return;
    };
    let headers: Vec<(Vec<u8>, Vec<u8>)> = rest
        .split(|byte| *byte == 0x1e)
        .map(|header| {
            let mut halves = header.splitn(2, |byte| *byte == 0x1f);
            (halves.next().unwrap_or_default().to_vec(), halves.next().unwrap_or_default().to_vec())
        })
        .collect();

    let mut found: [Option<&[u8]>; 3] = [None; 3];
    let mut twice = false;
    for (name, value) in &headers {
        if let Some(slot) = sources.slot(name) {
            twice |= found[slot].replace(value).is_some();
        }
    }
    let values = found.iter().enumerate().filter_map(|(slot, value)| Some((slot, (*value)?)));
    let read = match Sources::credential(values).and_then(Credential::text) {
        _ if twice => Carried::Several, // as the rim of the core has it
        Ok(text) => Carried::Credential(text.as_bytes().to_vec()),
        Err(Refusal::Missing) => Carried::Nothing,
        Err(Refusal::Invalid) => Carried::Invalid,
        Err(Refusal::Ambiguous) => Carried::Several,
    };
    let names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    assert_eq!(read, carried(bearer, &names, &headers));
});

/// A source may be what RFC 9110 calls a field name, and nothing else.
fn names_are_tokens(name: &[u8]) {
    let Ok(name) = core::str::from_utf8(name) else { return };
    let accepted = Sources::new(false, &[name.to_owned()]).is_some();
    let reserved = name.eq_ignore_ascii_case("authorization");
    assert_eq!(accepted, is_token(name.as_bytes()) && !reserved);
}
