//! The values that a `Cookie` header has for one name, as RFC 6265 writes them.
//! Knows nothing of what they mean, nor that there are other headers.

/// What a `Cookie` header has for a name; an empty value if what it has can be none.
///
/// Cookies end at each `;`, within quotes too (RFC 6265, section 5.2): whoever may set one cookie
/// shall not swallow the next. Names have case. What is empty is not there.
pub fn values<'a>(header: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    header.split(|byte| *byte == b';').filter_map(move |pair| {
        let value = without_blanks(pair).strip_prefix(name)?.strip_prefix(b"=")?;
        let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        let value = quoted.unwrap_or(value);
        let plain = value.iter().all(|byte| is_octet(*byte));
        (!value.is_empty()).then_some(if plain { value } else { b"" })
    })
}

fn without_blanks(pair: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = pair.iter().position(|byte| !is_blank(byte)).unwrap_or(pair.len());
    let end = pair.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    pair.get(start..end).unwrap_or_default()
}

/// A `cookie-octet` (RFC 6265, section 4.1.1).
fn is_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}
