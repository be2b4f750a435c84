//! Strict extraction of one credential from raw ASGI headers, and from a query string.
//! Knows nothing of what a credential means, nor of Python.

use zeroize::Zeroizing;

use crate::{cookies, query};

/// A header longer than this is refused unread: the longest token has 97 characters.
pub const MAX_CREDENTIAL_LEN: usize = 4096;
/// How many headers, beside `Authorization`, may be named as sources.
pub const MAX_NAMES: usize = 8;
/// How long the name of a cookie or of a parameter may be.
const MAX_NAME_LEN: usize = 64;

/// Why a request has no credential to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None of the configured sources carries one.
    Missing,
    /// One is there, and nothing that is accepted can look like it.
    Invalid,
    /// A header stands twice, or two sources differ: which one counts is not ours to guess.
    Ambiguous,
}

/// Why sources are none that can work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcesError {
    /// A header's name is none, or there are too many, or one stands twice.
    Headers,
    /// The name of a cookie or of a parameter is none.
    Name,
    /// There is nowhere to look.
    Nothing,
}

/// What may carry a credential. `Authorization: Bearer` is slot 0.
pub struct Sources {
    bearer: bool,
    names: Vec<Vec<u8>>,
    cookie: Option<Vec<u8>>,
    parameter: Option<Vec<u8>>,
}

impl Sources {
    /// Sources by name. A header's is one of RFC 9110, section 5.1; `Authorization` is asked for
    /// with `bearer`, and `Cookie` with the name of a cookie (RFC 6265, section 4.1.1). A
    /// parameter of the query string has one that needs no escape (RFC 3986, section 2.3).
    pub fn new(
        bearer: bool,
        names: &[String],
        cookie: Option<String>,
        parameter: Option<String>,
    ) -> Result<Self, SourcesError> {
        if names.len() > MAX_NAMES {
            return Err(SourcesError::Headers);
        }
        let names: Vec<Vec<u8>> =
            names.iter().map(|name| name.to_ascii_lowercase().into_bytes()).collect();
        let valid = names.iter().all(|name| {
            !name.is_empty()
                && name.iter().all(|b| is_token_char(*b))
                && name != b"authorization"
                && name != b"cookie"
        });
        let once =
            names.iter().enumerate().all(|(i, name)| !names.iter().take(i).any(|n| n == name));
        if !valid || !once {
            return Err(SourcesError::Headers);
        }
        let cookie = named(cookie, is_token_char)?;
        let parameter = named(parameter, |b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))?;
        if !bearer && names.is_empty() && cookie.is_none() && parameter.is_none() {
            return Err(SourcesError::Nothing);
        }
        Ok(Self { bearer, names, cookie, parameter })
    }

    /// Which source a header is, if it is one. Header names have no case.
    pub fn slot(&self, name: &[u8]) -> Option<usize> {
        if self.bearer && name.eq_ignore_ascii_case(b"authorization") {
            return Some(0);
        }
        let found = self.names.iter().position(|known| name.eq_ignore_ascii_case(known));
        found.map(|index| index + 1)
    }

    /// Whether a header has the cookies, among which one may carry a credential.
    pub fn reads_cookies(&self, name: &[u8]) -> bool {
        self.cookie.is_some() && name.eq_ignore_ascii_case(b"cookie")
    }

    /// Whether there are others than headers that are looked at whole.
    pub fn are_more_than_headers(&self) -> bool {
        self.cookie.is_some() || self.parameter.is_some()
    }

    /// What a query string carries.
    pub fn of_query(&self, query: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
        let Some(name) = &self.parameter else { return Ok(None) };
        let mut values = query::values(query, name, MAX_CREDENTIAL_LEN);
        let Some(first) = values.next() else { return Ok(None) };
        if values.all(|other| other == first) { Ok(Some(first)) } else { Err(Refusal::Ambiguous) }
    }

    /// The one credential of headers, of all `Cookie` headers, and of a query string.
    pub fn joined<'a>(
        &'a self,
        of_headers: Result<Credential<'a>, Refusal>,
        cookies: impl Iterator<Item = &'a [u8]>,
        of_query: Option<&'a [u8]>,
    ) -> Result<Credential<'a>, Refusal> {
        let mut found = match of_headers {
            Err(Refusal::Missing) => None,
            found => Some(found?),
        };
        let name = self.cookie.as_deref();
        let cookies = cookies.flat_map(|header| {
            name.into_iter().flat_map(move |name| cookies::values(header, name))
        });
        for value in cookies.chain(of_query) {
            let value = if value.len() > MAX_CREDENTIAL_LEN { b"" } else { value };
            if found.is_some_and(|other| other.bytes != value) {
                return Err(Refusal::Ambiguous);
            }
            found = Some(Credential { bytes: value, bearer: false });
        }
        found.ok_or(Refusal::Missing)
    }

    /// The one credential among the values of headers, each given with its slot.
    pub fn credential<'a>(
        values: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Result<Credential<'a>, Refusal> {
        let mut found: Option<Credential<'_>> = None;
        for (slot, raw) in values {
            let value = trim_blanks(raw);
            let credential = if slot == 0 { bearer_credential(value) } else { Some(value) };
            let Some(credential) = credential.filter(|_| !value.is_empty()) else { continue };
            let credential = if raw.len() > MAX_CREDENTIAL_LEN { b"" } else { credential };
            if found.is_some_and(|other| other.bytes != credential) {
                return Err(Refusal::Ambiguous);
            }
            // The one of slot 0 comes first.
            found = Some(Credential { bytes: credential, bearer: slot == 0 });
        }
        found.ok_or(Refusal::Missing)
    }
}

/// What stands where a credential should, whatever it is.
#[derive(Clone, Copy)]
pub struct Credential<'a> {
    bytes: &'a [u8],
    bearer: bool,
}

impl<'a> Credential<'a> {
    /// All of it, unread.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Whether nothing but `Authorization: Bearer` carries it, where other schemes than ours have
    /// theirs, too.
    pub fn is_bearer_only(self) -> bool {
        self.bearer
    }

    /// Its text, if it has one of visible ASCII.
    pub fn text(self) -> Result<&'a str, Refusal> {
        // Not one by one: a wrong one is rare.
        let visible = self.bytes.iter().fold(true, |all, byte| all & byte.is_ascii_graphic());
        let text = core::str::from_utf8(self.bytes).ok().filter(|text| visible && !text.is_empty());
        text.ok_or(Refusal::Invalid)
    }
}

/// The name of a cookie or of a parameter, if there is to be one.
fn named(name: Option<String>, fits: impl Fn(u8) -> bool) -> Result<Option<Vec<u8>>, SourcesError> {
    let Some(name) = name.map(String::into_bytes) else { return Ok(None) };
    let valid = (1..=MAX_NAME_LEN).contains(&name.len()) && name.iter().all(|b| fits(*b));
    if valid { Ok(Some(name)) } else { Err(SourcesError::Name) }
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
