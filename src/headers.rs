//! Strict extraction of one credential from raw ASGI headers.
//! Knows nothing of what a credential means, nor of Python.

/// A header longer than this is refused unread: the longest token has 97 characters.
pub const MAX_CREDENTIAL_LEN: usize = 4096;
/// How many headers, beside `Authorization`, may be named as sources.
pub const MAX_NAMES: usize = 8;

/// Why a request has no credential to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None of the configured headers carries one.
    Missing,
    /// One is there, and nothing that is accepted can look like it.
    Invalid,
    /// A header stands twice, or two headers differ: which one counts is not ours to guess.
    Ambiguous,
}

/// The headers that may carry a credential. `Authorization: Bearer` is slot 0.
pub struct Sources {
    bearer: bool,
    names: Vec<Vec<u8>>,
}

impl Sources {
    /// Sources by header name; `None` if there are none, too many, one twice, or one that is no
    /// header name (RFC 9110, section 5.1). `Authorization` is asked for with `bearer`.
    pub fn new(bearer: bool, names: &[String]) -> Option<Self> {
        if names.len() > MAX_NAMES {
            return None;
        }
        let names: Vec<Vec<u8>> =
            names.iter().map(|name| name.to_ascii_lowercase().into_bytes()).collect();
        let valid = names.iter().all(|name| {
            !name.is_empty() && name.iter().all(|b| is_token_char(*b)) && name != b"authorization"
        });
        let once =
            names.iter().enumerate().all(|(i, name)| !names.iter().take(i).any(|n| n == name));
        let some = bearer || !names.is_empty();
        (valid && once && some).then_some(Self { bearer, names })
    }

    /// Which source a header is, if it is one. Header names have no case.
    pub fn slot(&self, name: &[u8]) -> Option<usize> {
        if self.bearer && name.eq_ignore_ascii_case(b"authorization") {
            return Some(0);
        }
        let found = self.names.iter().position(|known| name.eq_ignore_ascii_case(known));
        found.map(|index| index + 1)
    }

    /// The one credential among the values found, each given with its slot.
    pub fn credential<'a>(
        values: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Result<Credential<'a>, Refusal> {
        let mut found: Option<&[u8]> = None;
        for (slot, raw) in values {
            let value = trim_blanks(raw);
            let credential = if slot == 0 { bearer_credential(value) } else { Some(value) };
            let Some(credential) = credential.filter(|_| !value.is_empty()) else { continue };
            let credential = if raw.len() > MAX_CREDENTIAL_LEN { b"" } else { credential };
            if found.is_some_and(|other| other != credential) {
                return Err(Refusal::Ambiguous);
            }
            found = Some(credential);
        }
        found.map(Credential).ok_or(Refusal::Missing)
    }
}

/// What stands where a credential should, whatever it is.
#[derive(Clone, Copy)]
pub struct Credential<'a>(&'a [u8]);

impl<'a> Credential<'a> {
    /// All of it, unread.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its text, if it has one of visible ASCII.
    pub fn text(self) -> Result<&'a str, Refusal> {
        // Not one by one: a wrong one is rare.
        let visible = self.0.iter().fold(true, |all, byte| all & byte.is_ascii_graphic());
        let text = core::str::from_utf8(self.0).ok().filter(|text| visible && !text.is_empty());
        text.ok_or(Refusal::Invalid)
    }
}

/// What follows `Bearer` and at least one space (RFC 9110, section 11.4; a scheme has no case),
/// or `None` for another scheme. It is empty, and so invalid, where something else than a space
/// or nothing at all follows.
fn bearer_credential(value: &[u8]) -> Option<&[u8]> {
    if let Some((b"Bearer ", credential)) = value.split_first_chunk()
        && !credential.starts_with(b" ")
    {
        return Some(credential); // as nearly all of them are
    }
    let end = value.iter().position(|b| !is_token_char(*b)).unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    let spaces = rest.iter().take_while(|b| **b == b' ').count();
    if spaces == 0 { Some(b"") } else { rest.get(spaces..) }
}

/// A character of a `token` as RFC 9110, section 5.6.2, defines it.
fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Without the optional white space around a field value (RFC 9110, section 5.5).
fn trim_blanks(value: &[u8]) -> &[u8] {
    let blanks = |byte: &&u8| **byte == b' ' || **byte == b'\t';
    let start = value.iter().take_while(blanks).count();
    let rest = value.get(start..).unwrap_or_default();
    let end = rest.iter().rev().take_while(blanks).count();
    rest.get(..rest.len() - end).unwrap_or_default()
}
