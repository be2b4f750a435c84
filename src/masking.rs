//! Masks tokens in text. Knows the token format; neither logging nor Python.

use core::ops::Range;

use crate::token::{KEY_ID_LEN, is_base32};

/// `_`, key id and `_`.
const MIDDLE_LEN: usize = 1 + KEY_ID_LEN + 1;
/// So much of a secret is one: a log cuts long lines, and a third of a token says too much.
const LEAST_LEN: usize = 12;
/// As `inspect` has it. Three dots in one character would not do: a log may be in ASCII.
const MASK: &[u8] = b"***";

/// The text with all masked that follows a key id. `None` if there is nothing to mask.
pub fn mask(text: &[u8]) -> Option<Vec<u8>> {
    let mut masked = Vec::new();
    let mut from = 0;
    while let Some(secret) = next(text, from) {
        masked.extend_from_slice(text.get(from..secret.start)?);
        masked.extend_from_slice(MASK);
        from = secret.end;
    }
    if masked.is_empty() {
        return None;
    }
    masked.extend_from_slice(text.get(from..)?);
    Some(masked)
}

/// The next secret part. It is looked for from the right, as in `scan`.
fn next(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut start = from.max(MIDDLE_LEN);
    loop {
        let run = text.get(start..start + LEAST_LEN)?;
        if let Some(other) = run.iter().rposition(|byte| !byte.is_ascii_alphanumeric()) {
            start += other + 1;
        } else if let Some(secret) = secret_start(text, start) {
            let rest = text.get(start..)?;
            let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            return Some(secret.max(from)..start + len);
        } else {
            start += LEAST_LEN;
        }
    }
}

/// Where the secret part begins that these letters and digits belong to, if they follow a key id.
/// Between them a mask may stand, where the first part of the secret was masked before the rest
/// came to it. A `_` may be escaped, as in a URL.
fn secret_start(text: &[u8], start: usize) -> Option<usize> {
    let (mut before, run) = text.split_at_checked(start)?;
    let mut secret = start;
    if before.ends_with(b"%") && (run.starts_with(b"5F") || run.starts_with(b"5f")) {
        before = text.get(..start + 2)?;
        secret = start + 2;
    } else if let Some(rest) = before.strip_suffix(MASK) {
        before = rest;
        secret = rest.len();
    }
    let (before, key_id) = without_underscore(before)?.split_last_chunk::<KEY_ID_LEN>()?;
    without_underscore(before)?;
    key_id.iter().all(|byte| is_base32(*byte)).then_some(secret)
}

fn without_underscore(text: &[u8]) -> Option<&[u8]> {
    let mut ways = [b"_".as_slice(), b"%5F", b"%5f"].into_iter();
    ways.find_map(|underscore| text.strip_suffix(underscore))
}
