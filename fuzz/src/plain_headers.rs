//! Which credential a request carries, read out of RFC 9110 line by line. Slow on purpose; knows
//! nothing of how the core reads it, and nothing of tokens.

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

/// What the headers carry.
///
/// `bearer` says whether `Authorization` counts, and `names` which others do, in lower case.
#[must_use]
pub fn carried(bearer: bool, names: &[String], headers: &[(Vec<u8>, Vec<u8>)]) -> Carried {
    let mut credentials = Vec::new();
    let sources = bearer.then(|| "authorization".to_owned());
    for source in sources.iter().chain(names) {
        let named = |name: &[u8]| name.to_ascii_lowercase() == source.as_bytes();
        let values: Vec<&Vec<u8>> =
            headers.iter().filter(|(name, _)| named(name)).map(|(_, value)| value).collect();
        if values.len() > 1 {
            return Carried::Several;
        }
        for value in values {
            let credential = if source == "authorization" { of_bearer(value) } else { own(value) };
            if let Some(credential) = credential {
                // Longer than 4 KiB, with its blanks: refused unread.
                credentials.push(if value.len() > 4096 { Vec::new() } else { credential });
            }
        }
    }
    credentials.sort();
    credentials.dedup();
    match credentials.as_slice() {
        [] => Carried::Nothing,
        [one] if !one.is_empty() && one.iter().all(|b| (0x21..=0x7e).contains(b)) => {
            Carried::Credential(one.clone())
        }
        [_] => Carried::Invalid,
        _ => Carried::Several,
    }
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
    if scheme.to_ascii_lowercase() != b"bearer" {
        return None;
    }
    let mut rest = value[scheme.len()..].iter().peekable();
    let mut blanks = 0;
    while rest.next_if(|byte| **byte == b' ').is_some() {
        blanks += 1;
    }
    Some(if blanks == 0 { Vec::new() } else { rest.copied().collect() })
}
