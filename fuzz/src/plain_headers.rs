//! Which credential a request carries, read out of RFC 9110, RFC 6265 and HTML's forms line by line.
//! Slow on purpose; knows nothing of how the core reads it, and nothing of tokens.

/// What a request carries.
#[derive(Debug, PartialEq, Eq)]
pub enum Carried {
    Nothing,
    /// What no token can look like.
    Invalid,
    /// More than one.
    Several,
    Credential(Vec<u8>),
}

/// Section 5.6.2: `token = 1*tchar`.
#[must_use]
pub fn is_token(name: &[u8]) -> bool {
    const MARKS: &str = "!#$%&'*+-.^_`|~";
    let tchar = |c: char| c.is_ascii_digit() || c.is_ascii_alphabetic() || MARKS.contains(c);
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii() && tchar(char::from(*byte)))
}

/// Where a credential may stand.
pub struct Places {
    pub bearer: bool,
    /// Of headers, in lower case.
    pub names: Vec<String>,
    pub cookie: Option<String>,
    pub parameter: Option<String>,
}

/// What headers and a query string carry, and whether only `Authorization` does.
#[must_use]
pub fn carried(places: &Places, headers: &[(Vec<u8>, Vec<u8>)], query: &[u8]) -> (Carried, bool) {
    let values_of = |name: &str| -> Vec<&Vec<u8>> {
        let named = headers.iter().filter(|(its, _)| its.to_ascii_lowercase() == name.as_bytes());
        named.map(|(_, value)| value).collect()
    };
    let mut of_bearer_only = true;
    let mut credentials = Vec::new();
    let authorization = places.bearer.then(|| "authorization".to_owned());
    for source in authorization.iter().chain(&places.names) {
        let values = values_of(source);
        if values.len() > 1 {
            return (Carried::Several, false);
        }
        let is_bearer = source == "authorization";
        for value in values {
            let credential = if is_bearer { of_bearer(value) } else { own(value) };
            if let Some(credential) = credential {
                // Longer than 4 KiB, with its blanks: refused unread.
                credentials.push(if value.len() > 4096 { Vec::new() } else { credential });
                of_bearer_only &= is_bearer;
            }
        }
    }
    if let Some(name) = &places.cookie {
        let values = values_of("cookie");
        let found: Vec<Vec<u8>> = values.iter().flat_map(|value| of_cookies(value, name)).collect();
        of_bearer_only &= found.is_empty();
        credentials.extend(found);
    }
    if let Some(name) = &places.parameter {
        let found = of_query(query, name);
        of_bearer_only &= found.is_empty();
        credentials.extend(found);
    }
    credentials.sort();
    credentials.dedup();
    let carried = match credentials.as_slice() {
        [] => Carried::Nothing,
        [one] if !one.is_empty() && one.iter().all(|b| (0x21..=0x7e).contains(b)) => {
            Carried::Credential(one.clone())
        }
        [_] => Carried::Invalid,
        _ => Carried::Several,
    };
    let found_one = matches!(carried, Carried::Credential(_) | Carried::Invalid);
    (carried, found_one && of_bearer_only)
}

/// Section 5.5: blanks around a value are no part of it. `None` for nothing else.
fn own(value: &[u8]) -> Option<Vec<u8>> {
    let mut value = value.to_vec();
    while value.first().is_some_and(|byte| b" \t".contains(byte)) {
        value.remove(0);
    }
    while value.last().is_some_and(|byte| b" \t".contains(byte)) {
        value.pop();
    }
    (!value.is_empty()).then_some(value)
}

/// Section 11.4: `credentials = auth-scheme [ 1*SP ( token68 / … ) ]`, and 11.1: a scheme has no
/// case. `None` for another scheme; empty where the credential is missing.
fn of_bearer(value: &[u8]) -> Option<Vec<u8>> {
    let value = own(value)?;
    let scheme: Vec<u8> = value.iter().copied().take_while(|byte| is_token(&[*byte])).collect();
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    let mut rest = value[scheme.len()..].iter().peekable();
    let mut blanks = 0;
    while rest.next_if(|byte| **byte == b' ').is_some() {
        blanks += 1;
    }
    Some(if blanks == 0 { Vec::new() } else { rest.copied().collect() })
}

/// RFC 6265, section 4.2.1: `cookie-string = cookie-pair *( ";" SP cookie-pair )`, whose values may
/// be quoted, and have neither blanks nor quotes, commas or backslashes.
fn of_cookies(header: &[u8], name: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for pair in header.split(|byte| *byte == b';') {
        let pair = own(pair).unwrap_or_default();
        let Some(value) = pair.strip_prefix(format!("{name}=").as_bytes()) else { continue };
        let value = match value {
            [b'"', inside @ .., b'"'] => inside,
            _ => value,
        };
        if !value.is_empty() {
            let octet = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
            let reads = value.len() <= 4096 && value.iter().all(octet);
            found.push(if reads { value.to_vec() } else { Vec::new() });
        }
    }
    found
}

/// `application/x-www-form-urlencoded`, as the URL standard parses it, but for escapes that are
/// none: they make no value.
fn of_query(query: &[u8], name: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for pair in query.split(|byte| *byte == b'&') {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (its, value) = (unescaped(&pair[..equals]), &pair[equals + 1..]);
        if its == Some(name.as_bytes().to_vec()) && !value.is_empty() {
            let fits = value.len() <= 4096;
            found.push(if fits { unescaped(value).unwrap_or_default() } else { Vec::new() });
        }
    }
    found
}

fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut at = 0;
    while at < text.len() {
        plain.push(match text[at] {
            b'+' => b' ',
            b'%' => {
                let digits = core::str::from_utf8(text.get(at + 1..at + 3)?).ok()?;
                if digits.starts_with('+') {
                    return None; // which Rust reads as a number
                }
                at += 2;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => byte,
        });
        at += 1;
    }
    Some(plain)
}
