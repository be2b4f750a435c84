//! The values that a raw query string has for one name, as HTML forms and `FastAPI` read it.
//! Knows nothing of what they mean.

use zeroize::Zeroizing;

/// What a query string has for a name; an empty value if it is longer than `most`, or an escape in
/// it is none. What is empty is not there.
pub fn values<'a>(
    query: &'a [u8],
    name: &'a [u8],
    most: usize,
) -> impl Iterator<Item = Zeroizing<Vec<u8>>> + use<'a> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
        let end = pair.iter().position(|byte| *byte == b'=')?;
        let (its, value) = (pair.get(..end)?, pair.get(end + 1..)?);
        // Escapes in the name, too: another reader of the request would undo them.
        if value.is_empty() || !decoded(its).eq(name.iter().copied().map(Some)) {
            return None;
        }
        // In one piece, so that no part of it is left behind when it grows.
        let mut plain = Zeroizing::new(Vec::with_capacity(value.len().min(most)));
        let fits = value.len() <= most;
        let read = fits && decoded(value).all(|byte| byte.map(|byte| plain.push(byte)).is_some());
        if !read {
            plain.clear();
        }
        Some(plain)
    })
}

/// The bytes that a text stands for; `None` for an escape that is none.
fn decoded(text: &[u8]) -> impl Iterator<Item = Option<u8>> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        rest = after;
        match first {
            b'+' => Some(Some(b' ')),
            b'%' => {
                let Some(([high, low], after)) = rest.split_first_chunk() else {
                    rest = b"";
                    return Some(None);
                };
                rest = after;
                Some(digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4) | low))
            }
            byte => Some(Some(*byte)),
        }
    })
}

fn digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}
