//! The rim: the classes and functions that Python sees. Beside `lib.rs` the only file that knows
//! `PyO3`; it holds no rule of its own.
#![expect(clippy::doc_markdown, reason = "the comments of this file are Python docstrings")]
#![expect(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]
#![expect(clippy::unused_self, reason = "PyO3 calls __reduce__ on an instance")]

use pyo3::exceptions::{PyMemoryError, PyOSError, PyTypeError, PyValueError};
use pyo3::import_exception;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString, PyTuple};
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::hash::{self, Cost, HashError, Scheme};
use crate::headers::{Credential, MAX_CREDENTIAL_LEN, MAX_NAMES, Refusal, Sources, SourcesError};
use crate::secrets::{self, Kid, RandomError, SecretError};
use crate::token::{self, KeyId, Prefix, TokenError};

import_exception!(keylatch.errors, AmbiguousCredentialsError);
import_exception!(keylatch.errors, ConfigurationError);
import_exception!(keylatch.errors, InvalidHashError);
import_exception!(keylatch.errors, InvalidKeyError);
import_exception!(keylatch.errors, InvalidTokenError);
import_exception!(keylatch.errors, MissingKeyError);

impl From<RandomError> for PyErr {
    fn from(error: RandomError) -> Self {
        PyOSError::new_err(error.to_string())
    }
}

impl From<SecretError> for PyErr {
    fn from(error: SecretError) -> Self {
        ConfigurationError::new_err(error.to_string())
    }
}

impl From<TokenError> for PyErr {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Prefix => PyValueError::new_err(error.to_string()),
            TokenError::Shape | TokenError::Checksum | TokenError::Foreign => {
                InvalidTokenError::new_err(error.to_string())
            }
        }
    }
}

impl From<HashError> for PyErr {
    fn from(error: HashError) -> Self {
        let text = error.to_string();
        match error {
            HashError::OutOfMemory => PyMemoryError::new_err(text),
            HashError::Random => PyOSError::new_err(text),
            _ => InvalidHashError::new_err(text),
        }
    }
}

impl From<SourcesError> for PyErr {
    fn from(error: SourcesError) -> Self {
        ConfigurationError::new_err(match error {
            SourcesError::Headers => format!(
                "name at most {MAX_NAMES} different headers that may carry a token; Authorization \
                 is asked for with bearer=True, and Cookie with the name of a cookie"
            ),
            SourcesError::Name => "the name of a cookie is up to 64 characters as a header's are, \
                 and that of a query parameter up to 64 of A-Z, a-z, 0-9, - . _ and ~"
                .to_owned(),
            SourcesError::Nothing => "name at least one header, cookie or query parameter that \
                 may carry a token"
                .to_owned(),
        })
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => MissingKeyError::new_err(()),
            Refusal::Invalid => InvalidKeyError::new_err(()),
            Refusal::Ambiguous => AmbiguousCredentialsError::new_err(()),
        }
    }
}

pub fn refuse_pickle(what: &str) -> PyErr {
    PyTypeError::new_err(format!("a {what} holds a secret and cannot be pickled or copied"))
}

/// The text of a `str`, or `None` if it holds a lone surrogate. The `UnicodeEncodeError` of
/// Python is dropped on purpose: it carries the whole text.
pub fn utf8<'a>(text: &'a Bound<'_, PyString>) -> Option<&'a str> {
    text.to_str().ok()
}

/// The key id that a `str` is.
pub fn parse_key_id(text: &Bound<'_, PyString>) -> PyResult<KeyId> {
    // Not echoed: it may be a whole token.
    let key_id = utf8(text).and_then(KeyId::parse);
    key_id.ok_or_else(|| PyValueError::new_err("a key id is 16 characters, as in key.id"))
}

/// A `str` that names something, read without Python's `UnicodeEncodeError` for the same reason.
fn name<'a>(text: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    utf8(text.cast()?).ok_or_else(|| {
        ConfigurationError::new_err("a name holds half a character: pass Unicode text")
    })
}

/// The same, where there may be none.
fn optional_name(text: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if text.is_none() { Ok(None) } else { name(text).map(|name| Some(name.to_owned())) }
}

fn names(list: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let list: Vec<Bound<'_, PyAny>> = list.extract()?;
    list.iter().map(|item| name(item).map(str::to_owned)).collect()
}

/// The server secrets of a deployment, the active one first.
///
/// The active secret mints and hashes; the others only verify. Each secret has 32 to 64
/// bytes, at least 16 of them different: fewer are no random ones.
/// Memory is wiped when the ring goes; `repr` shows the kids only; it cannot be pickled.
///
/// Args:
///     text: ``kid:base64url``, several of them separated by commas. A kid is 1 to 8 of ``[a-z0-9]``.
///
/// Raises:
///     ConfigurationError: The text is no ring; the message says what to do.
#[pyclass(frozen, module = "keylatch")]
pub struct SecretRing {
    pub inner: secrets::SecretRing,
}

#[pymethods]
impl SecretRing {
    #[new]
    fn new(text: &Bound<'_, PyString>) -> PyResult<Self> {
        let text = utf8(text).ok_or(SecretError::Shape)?;
        Ok(Self { inner: secrets::SecretRing::parse(text)? })
    }

    /// Reads the ring from the environment.
    ///
    /// Args:
    ///     name: The variable's name: up to 64 letters, digits and underscores.
    ///
    /// Raises:
    ///     ConfigurationError: This is no such name, or the variable is not set, or is no ring.
    #[staticmethod]
    #[pyo3(signature = (name: "str" = "KEYLATCH_SECRET"))]
    fn from_env(py: Python<'_>, #[pyo3(from_py_with = name)] name: &str) -> PyResult<Self> {
        // Anything else may be the secret itself, passed by mistake: the message must not show it.
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name || !(1..=64).contains(&name.len()) {
            return Err(ConfigurationError::new_err(
                "from_env takes the name of an environment variable, up to 64 letters, digits \
                 and underscores, not its value: SecretRing(...) takes that",
            ));
        }
        // Through Python: `os.environ` is what the program sees, and reading it is thread-safe.
        let environ = py.import(intern!(py, "os"))?.getattr(intern!(py, "environ"))?;
        let value = environ.call_method1(intern!(py, "get"), (name,))?;
        let Ok(value) = value.cast_into::<PyString>() else {
            // What is no usual name may be the secret itself, passed by mistake: never echoed.
            let usual = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            let name = if name.bytes().all(usual) { name } else { "of this name" };
            return Err(ConfigurationError::new_err(format!(
                "the environment variable {name} is not set: make a server secret with \
                 `keylatch secret` or SecretRing.generate() and put it there, or pass secret="
            )));
        };
        Self::new(&value)
    }

    /// Makes a new server secret from 32 random bytes of the operating system.
    ///
    /// Args:
    ///     kid: Its name, 1 to 8 of ``[a-z0-9]``.
    ///
    /// Returns:
    ///     The text to put into the environment. Nothing else keeps it.
    ///
    /// Raises:
    ///     ConfigurationError: The kid is no kid.
    ///     OSError: The operating system gave no random bytes.
    #[staticmethod]
    #[pyo3(signature = (kid: "str" = "k1"))]
    fn generate<'py>(
        py: Python<'py>,
        #[pyo3(from_py_with = name)] kid: &str,
    ) -> PyResult<Bound<'py, PyString>> {
        let text = secrets::SecretRing::generate(Kid::parse(kid)?, &mut SysRng)?;
        Ok(PyString::new(py, &text))
    }

    /// The kids, the active one first.
    #[getter]
    fn kids(&self) -> Vec<String> {
        self.inner.iter().map(|secret| secret.kid().to_string()).collect()
    }

    fn __repr__(&self) -> String {
        format!("SecretRing(kids={:?})", self.kids())
    }

    #[pyo3(signature = () -> "str")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_pickle("SecretRing"))
    }
}

/// A whole token, well-formed and with a right checksum, that no ``repr``, log or traceback
/// shows. Made by :func:`parse`; a collection with imported tokens makes it of other formats, too,
/// whose prefix is empty. Whether it opens anything is for ``APIKeys.verify`` to say.
#[pyclass(frozen, module = "keylatch")]
pub struct Token {
    pub inner: token::Token,
}

#[pymethods]
impl Token {
    /// Makes a new token, as :func:`mint` does, without ever showing it.
    ///
    /// Args:
    ///     prefix: 1 to 24 characters such as ``acme_live``.
    ///     ring: Its active secret seals the token.
    ///
    /// Raises:
    ///     ValueError: The prefix is outside its format.
    ///     OSError: The operating system gave no random bytes.
    #[staticmethod]
    fn mint(prefix: &Bound<'_, PyString>, ring: &SecretRing) -> PyResult<Self> {
        let prefix = Prefix::parse(utf8(prefix).ok_or(TokenError::Prefix)?)?;
        Ok(Self { inner: token::Token::mint(&prefix, &ring.inner, &mut SysRng)? })
    }

    /// The prefix, such as ``acme_live``; empty for a token of another format.
    #[getter]
    fn prefix(&self) -> &str {
        self.inner.prefix()
    }

    /// The key's public name: 16 characters that may be logged.
    #[getter]
    fn key_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::new(py, self.inner.key_id().as_str())
    }

    /// Which server secret sealed this token.
    ///
    /// Args:
    ///     ring: The secrets to try.
    ///
    /// Returns:
    ///     Its kid; None if none of the ring did, so that the token was imported, forged, or
    ///     minted under a secret that has left the ring.
    fn sealed_by<'py>(&self, py: Python<'py>, ring: &SecretRing) -> Option<Bound<'py, PyString>> {
        self.inner.sealed_by(&ring.inner).map(|kid| PyString::new(py, kid.as_str()))
    }

    /// The token itself, to hand to the client. From here on it is a plain ``str``: what becomes
    /// of it is the caller's care.
    fn reveal(&self) -> &str {
        self.inner.as_str()
    }

    fn __repr__(&self) -> String {
        if self.inner.is_foreign() {
            return "<Token imported ***>".to_owned();
        }
        format!("<Token {}_{}_***>", self.inner.prefix(), self.inner.key_id().as_str())
    }

    #[pyo3(signature = () -> "str")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_pickle("Token"))
    }
}

/// Makes a new token: 80 random bits of key id, 256 of secret, a seal and a checksum.
///
/// Args:
///     prefix: 1 to 24 characters such as ``acme_live``: letters and digits, beginning with a
///         letter, with single underscores between words.
///     ring: Its active secret seals the token.
///
/// Returns:
///     The token. Store only its hash (see :class:`Hasher`).
///
/// Raises:
///     ValueError: The prefix is outside its format.
///     OSError: The operating system gave no random bytes.
#[pyfunction]
pub fn mint<'py>(
    py: Python<'py>,
    prefix: &Bound<'py, PyString>,
    ring: &SecretRing,
) -> PyResult<Bound<'py, PyString>> {
    Ok(PyString::new(py, Token::mint(prefix, ring)?.inner.as_str()))
}

/// Reads a token. Needs no secret and no database.
///
/// Args:
///     token: A ``str`` of any content.
///
/// Returns:
///     Its parts; see ``.prefix``, ``.key_id`` and ``.sealed_by(ring)``.
///
/// Raises:
///     InvalidTokenError: It is not in the format, or its checksum is wrong.
#[pyfunction]
pub fn parse(token: &Bound<'_, PyString>) -> PyResult<Token> {
    let text = utf8(token).ok_or(TokenError::Shape)?;
    Ok(Token { inner: token::Token::parse(text)? })
}

/// Hashes tokens for storage, and verifies them.
///
/// Args:
///     ring: The active secret hashes; all of them verify.
///     scheme: ``hmac-sha256`` for tokens that keylatch minted: with 256 random bits stretching
///         adds nothing (NIST SP 800-63B-4 asks for it under 112 bits). ``argon2id`` for tokens
///         that people chose or that come from elsewhere.
///     memory_kib: Memory of argon2id in KiB, 7168 to 131072. The defaults are OWASP's.
///     iterations: Passes of argon2id, 1 to 10.
///     parallelism: Lanes of argon2id, 1 to 4.
///
/// Raises:
///     ConfigurationError: An unknown scheme, or a cost outside these bounds.
#[pyclass(frozen, module = "keylatch")]
pub struct Hasher {
    ring: Py<SecretRing>,
    scheme: Scheme,
}

#[pymethods]
impl Hasher {
    #[new]
    #[pyo3(signature = (
        ring,
        *,
        scheme: "str" = "hmac-sha256",
        memory_kib: "int" = Number(19456),
        iterations: "int" = Number(2),
        parallelism: "int" = Number(1),
    ))]
    fn new(
        ring: Py<SecretRing>,
        #[pyo3(from_py_with = name)] scheme: &str,
        memory_kib: Number,
        iterations: Number,
        parallelism: Number,
    ) -> PyResult<Self> {
        let cost = Cost::new(memory_kib.0, iterations.0, parallelism.0)
            .map_err(|error| ConfigurationError::new_err(error.to_string()))?;
        let scheme = match scheme {
            "hmac-sha256" => Scheme::HmacSha256,
            "argon2id" => Scheme::Argon2id(cost),
            _ => {
                return Err(ConfigurationError::new_err(
                    "the scheme of a Hasher is hmac-sha256 or argon2id",
                ));
            }
        };
        Ok(Self { ring, scheme })
    }

    /// Makes the stored hash of a token, with a new random salt.
    ///
    /// Args:
    ///     token: 1 to 4096 bytes of UTF-8, in any format.
    ///
    /// Returns:
    ///     A PHC string of at most 255 characters for the database.
    ///
    /// Raises:
    ///     InvalidTokenError: The token is empty, longer than 4096 bytes, or no Unicode text.
    ///     OSError: The operating system gave no random bytes.
    ///     MemoryError: There is not enough memory for argon2id.
    #[pyo3(signature = (token: "str | Token"))]
    fn hash(&self, py: Python<'_>, token: &Bound<'_, PyAny>) -> PyResult<String> {
        let token = TokenText::of(token)?;
        let bytes = token.bytes().ok_or_else(|| {
            InvalidTokenError::new_err("a token to hash is 1 to 4096 bytes of Unicode text")
        })?;
        let (scheme, ring) = (self.scheme, &self.ring.get().inner);
        Ok(match scheme {
            Scheme::HmacSha256 => hash::hash(scheme, ring, bytes, &mut SysRng)?,
            Scheme::Argon2id(_) => py.detach(|| hash::hash(scheme, ring, bytes, &mut SysRng))?,
        })
    }

    /// Tells whether a stored hash is the hash of this token, in constant time.
    ///
    /// Args:
    ///     token: A ``str`` of any content.
    ///     stored: What :meth:`hash` returned, of either scheme, or a plain argon2id string as
    ///         argon2-cffi writes it.
    ///
    /// Raises:
    ///     InvalidHashError: The stored string is malformed, of a cost outside the policy, or
    ///         needs a server secret that is not in the ring. Found before anything is spent.
    ///     MemoryError: There is not enough memory for argon2id.
    #[pyo3(signature = (token: "str | Token", stored))]
    fn verify(
        &self,
        py: Python<'_>,
        token: &Bound<'_, PyAny>,
        stored: &Bound<'_, PyString>,
    ) -> PyResult<bool> {
        let token = TokenText::of(token)?;
        let stored = utf8(stored).ok_or(HashError::Malformed)?;
        let ring = &self.ring.get().inner;
        let Some(bytes) = token.bytes() else {
            hash::check(ring, stored)?;
            return Ok(false);
        };
        Ok(if stored.starts_with("$argon2") {
            py.detach(|| hash::verify(ring, bytes, stored))?
        } else {
            hash::verify(ring, bytes, stored)?
        })
    }

    /// Tells whether a stored hash should be made anew, after its token verified: it is of
    /// another scheme, of other parameters, or under another secret than the active one.
    ///
    /// Args:
    ///     stored: As for :meth:`verify`.
    ///
    /// Raises:
    ///     InvalidHashError: The stored string is malformed or outside the policy.
    fn needs_rehash(&self, stored: &Bound<'_, PyString>) -> PyResult<bool> {
        let stored = utf8(stored).ok_or(HashError::Malformed)?;
        Ok(hash::needs_rehash(self.scheme, &self.ring.get().inner, stored)?)
    }

    fn __repr__(&self) -> String {
        let scheme = match self.scheme {
            Scheme::HmacSha256 => "hmac-sha256",
            Scheme::Argon2id(_) => "argon2id",
        };
        format!("Hasher({}, scheme={scheme:?})", self.ring.get().__repr__())
    }

    #[pyo3(signature = () -> "str")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_pickle("Hasher"))
    }
}

/// An `int` of any size: what does not fit is past every bound, and is refused as such.
struct Number(u32);

impl<'py> FromPyObject<'_, 'py> for Number {
    type Error = PyErr;

    fn extract(number: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let number = number.cast::<PyInt>()?;
        Ok(Self(number.extract().unwrap_or(u32::MAX)))
    }
}

/// A token given as `str` or as `Token`.
pub enum TokenText<'a, 'py> {
    Text(&'a Bound<'py, PyString>),
    Token(&'a Token),
}

impl<'a, 'py> TokenText<'a, 'py> {
    pub fn of(token: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(token) = token.cast::<Token>() {
            Ok(Self::Token(token.get()))
        } else if let Ok(text) = token.cast::<PyString>() {
            Ok(Self::Text(text))
        } else {
            Err(PyTypeError::new_err("a token is a str or a keylatch.Token"))
        }
    }

    /// What is hashed, or `None` if no token can look like that.
    fn bytes(&self) -> Option<&[u8]> {
        let text = match self {
            Self::Token(token) => token.inner.as_str(),
            Self::Text(text) => utf8(text)?,
        };
        (1..=MAX_CREDENTIAL_LEN).contains(&text.len()).then_some(text.as_bytes())
    }
}

/// What of a request carries the token, and how it is taken from there.
///
/// Args:
///     bearer: Whether ``Authorization: Bearer`` may.
///     names: Other header names, at most 8; their whole value is the token.
///     cookie: The name of a cookie, out of all ``Cookie`` headers.
///     query: The name of a parameter of the query string.
///
/// Raises:
///     ConfigurationError: Nothing at all, too many headers, one twice, or a name that is none.
#[pyclass(frozen, module = "keylatch")]
pub struct TokenHeaders {
    sources: Sources,
}

#[pymethods]
impl TokenHeaders {
    #[new]
    #[pyo3(signature = (
        *,
        bearer = true,
        names: "list[str]" = vec!["X-API-Key".to_owned()],
        cookie: "str | None" = None,
        query: "str | None" = None
    ))]
    fn new(
        bearer: bool,
        #[pyo3(from_py_with = names)] names: Vec<String>,
        #[pyo3(from_py_with = optional_name)] cookie: Option<String>,
        #[pyo3(from_py_with = optional_name)] query: Option<String>,
    ) -> PyResult<Self> {
        Ok(Self { sources: Sources::new(bearer, &names, cookie, query)? })
    }

    /// Takes the one token out of a request.
    ///
    /// Args:
    ///     headers: Raw ASGI headers, ``scope["headers"]``: pairs of bytes.
    ///     query: The raw query string, ``scope["query_string"]``.
    ///
    /// Raises:
    ///     MissingKeyError: Nothing carries a token.
    ///     InvalidKeyError: Something does, and it is not in the format.
    ///     AmbiguousCredentialsError: A header stands twice, or two sources differ.
    ///     TypeError: The headers are not pairs of bytes, or the query string is no bytes.
    #[pyo3(signature = (headers: "list[tuple[bytes, bytes]]", query = None))]
    fn extract(&self, headers: &Bound<'_, PyAny>, query: Option<&[u8]>) -> PyResult<Token> {
        let mut found = Found::default();
        let text = self.find(headers, query, &mut found)?.and_then(Credential::text)?;
        let token = token::Token::parse(text).map_err(|_| Refusal::Invalid)?;
        Ok(Token { inner: token })
    }
}

/// What may carry a token, where it was found.
#[derive(Default)]
pub struct Found<'py> {
    /// The values of headers, by their slots.
    slots: [Option<Bound<'py, PyBytes>>; MAX_NAMES + 1],
    /// Nothing, where headers are all that is looked at.
    rest: Option<Box<Rest<'py>>>,
}

/// What was found elsewhere than in headers that are looked at whole.
#[derive(Default)]
struct Rest<'py> {
    /// The headers that hold cookies.
    cookies: Vec<Bound<'py, PyBytes>>,
    /// Of the query string, without escapes.
    query: Option<Zeroizing<Vec<u8>>>,
}

impl TokenHeaders {
    /// Finds the one credential of a request, and leaves it where it is.
    pub fn find<'a, 'py>(
        &'a self,
        headers: &Bound<'py, PyAny>,
        query: Option<&[u8]>,
        found: &'a mut Found<'py>,
    ) -> PyResult<Result<Credential<'a>, Refusal>> {
        // As servers have them: looked at where they are.
        if let Ok(list) = headers.cast_exact::<PyList>() {
            for pair in list.iter() {
                if self.take(&pair, found)? {
                    return Ok(Err(Refusal::Ambiguous));
                }
            }
        } else {
            for pair in headers.try_iter()? {
                if self.take(&pair?, found)? {
                    return Ok(Err(Refusal::Ambiguous));
                }
            }
        }
        let values = found.slots.iter().enumerate();
        let values = values.filter_map(|(slot, value)| Some((slot, value.as_ref()?.as_bytes())));
        let credential = Sources::credential(values);
        Ok(if self.sources.are_more_than_headers() {
            self.join(credential, query, found.rest.get_or_insert_default())
        } else {
            credential
        })
    }

    /// The same together with cookies and the query string.
    #[cold]
    fn join<'a>(
        &'a self,
        credential: Result<Credential<'a>, Refusal>,
        query: Option<&[u8]>,
        rest: &'a mut Rest<'_>,
    ) -> Result<Credential<'a>, Refusal> {
        rest.query = self.sources.of_query(query.unwrap_or_default())?;
        let cookies = rest.cookies.iter().map(PyBytesMethods::as_bytes);
        let of_query = rest.query.as_ref().map(|value| value.as_slice());
        self.sources.joined(credential, cookies, of_query)
    }

    /// Keeps the value of a header that may carry a token. Tells whether there was one already.
    fn take<'py>(&self, pair: &Bound<'py, PyAny>, found: &mut Found<'py>) -> PyResult<bool> {
        if let Ok(pair) = pair.cast_exact::<PyTuple>()
            && pair.len() == 2
            && let Ok(name) = pair.get_borrowed_item(0)
            && let Ok(name) = name.cast_exact()
            && let Ok(value) = pair.get_borrowed_item(1)
            && let Ok(value) = value.cast_exact()
        {
            return Ok(self.keep(name, value, found));
        }
        if pair.len().map_err(|_| malformed())? != 2 {
            return Err(malformed());
        }
        let half = |index: usize| {
            let half = pair.get_item(index).map_err(|_| malformed())?;
            half.cast_into::<PyBytes>().map_err(|_| malformed())
        };
        Ok(self.keep(half(0)?.as_borrowed(), half(1)?.as_borrowed(), found))
    }

    fn keep<'py>(
        &self,
        name: Borrowed<'_, 'py, PyBytes>,
        value: Borrowed<'_, 'py, PyBytes>,
        found: &mut Found<'py>,
    ) -> bool {
        let name = name.as_bytes(); // each time two calls of Python's
        let slot = self.sources.slot(name);
        if let Some(place) = slot.and_then(|slot| found.slots.get_mut(slot)) {
            return place.replace(value.to_owned()).is_some();
        }
        if self.sources.reads_cookies(name) {
            found.rest.get_or_insert_default().cookies.push(value.to_owned());
        }
        false
    }
}

fn malformed() -> PyErr {
    PyTypeError::new_err("ASGI headers are pairs of bytes")
}
