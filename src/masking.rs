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
    let mut start = from + MIDDLE_LEN;
    loop {
        let run = text.get(start..start + LEAST_LEN)?;
        if let Some(other) = run.iter().rposition(|byte| !byte.is_ascii_alphanumeric()) {
            start += other + 1;
        } else if follows_key_id(text, start) {
            let rest = text.get(start..)?;
            let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            return Some(start..start + len);
        } else {
            start += LEAST_LEN;
        }
    }
}

fn follows_key_id(text: &[u8], start: usize) -> bool {
    let middle = text.get(start - MIDDLE_LEN..start).unwrap_or_default();
    match middle {
        [b'_', key_id @ .., b'_'] => key_id.iter().all(|byte| is_base32(*byte)),
        _ => false,
    }
}
