//! The rim of the request path: the classes that `keylatch.keys` drives. It holds no rule of its
//! own.
#![expect(clippy::doc_markdown, reason = "the comments of this file are Python docstrings")]
#![expect(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]
#![expect(clippy::unused_self, reason = "PyO3 calls __reduce__ on an instance")]

use std::sync::atomic::Ordering::Relaxed;

use pyo3::import_exception;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyString};

use crate::cache;
use crate::clock::Moment;
use crate::engine::{self, Denial, Said, Settings, SetupError, Verdict};
use crate::hash::HashError;
use crate::headers::Refusal;
use crate::ledger::Use;
use crate::python::{
    Found, SecretRing, Token, TokenHeaders, TokenText, parse_key_id, refuse_pickle, utf8,
};
use crate::sync::Arc;
use crate::token::{self, TokenError};

import_exception!(keylatch.errors, ExpiredKeyError);
import_exception!(keylatch.errors, InsufficientScopeError);
import_exception!(keylatch.errors, RevokedKeyError);

impl From<SetupError> for PyErr {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Prefix(error) => error.into(),
            SetupError::Hash(error) => error.into(),
        }
    }
}

/// A key as Python has it, and its scopes at hand.
struct Key {
    object: Py<PyAny>,
    scopes: Py<PyFrozenSet>,
}

/// What the database said of a key id, with the stored hash, which nothing shows.
#[pyclass(frozen, module = "keylatch")]
pub struct Row {
    inner: Arc<cache::Row<Key>>,
}

#[pymethods]
impl Row {
    /// Whether there is a key.
    #[getter]
    fn exists(&self) -> bool {
        self.inner.key.is_some()
    }

    /// Whether ``Engine.stretch`` has to be called with the first token, in a thread.
    #[getter]
    fn needs_stretching(&self) -> bool {
        self.inner.needs_stretching()
    }

    /// Returns its stored hash if it should be made anew, to whoever asks first, else None.
    fn notice_outdated(&self) -> Option<&str> {
        self.inner.outdated.as_ref().and_then(|outdated| outdated.notice())
    }

    fn __repr__(&self) -> String {
        format!("<Row of key {}>", self.inner.key_id.as_str())
    }

    #[pyo3(signature = () -> "str")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_pickle("Row"))
    }
}

/// The request path: from raw headers to the key, out of cached rows.
///
/// Moments are microseconds: ``now`` since 1970, the system's clock if None; ticks since the engine
/// was made, by a clock that nobody sets back.
///
/// Args:
///     ring: The server secrets.
///     prefixes: Of the tokens that are accepted.
///     capacity: How many keys the cache holds.
///     max_staleness: Ticks for which cached rows count after the feed was heard.
///     unsealed_lookups: How many tokens a second without a right seal may be looked up.
///     imported: Whether tokens of other formats may be keys.
///
/// Raises:
///     ValueError: A prefix is outside its format.
///     OSError: The operating system gave no random bytes.
#[pyclass(frozen, module = "keylatch")]
pub struct Engine {
    inner: engine::Engine<Key>,
    ring: Py<SecretRing>,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        ring,
        *,
        prefixes: "list[str]",
        capacity,
        max_staleness,
        unsealed_lookups,
        imported = false
    ))]
    fn new(
        ring: Py<SecretRing>,
        prefixes: Vec<Bound<'_, PyString>>,
        capacity: usize,
        max_staleness: u64,
        unsealed_lookups: u32,
        imported: bool,
    ) -> PyResult<Self> {
        let text = |prefix| utf8(prefix).map(str::to_owned).ok_or(TokenError::Prefix);
        let prefixes = prefixes.iter().map(text).collect::<Result<_, _>>()?;
        let settings = Settings { prefixes, capacity, max_staleness, unsealed_lookups, imported };
        Ok(Self { inner: engine::Engine::new(&ring.get().inner, settings)?, ring })
    }

    /// Takes the token out of a request and tells what it opens.
    ///
    /// Args:
    ///     sources: What may carry it.
    ///     headers: Raw ASGI headers, ``scope["headers"]``: pairs of bytes.
    ///     required: The scopes that are needed, all of them; None for no scopes.
    ///     now: The time.
    ///     query: The raw query string, ``scope["query_string"]``, if the token may stand there.
    ///     counted: Whether this is a use, and not another look at one that lasts.
    ///
    /// Returns:
    ///     The APIKey; or the Token, if the database has to be asked.
    ///
    /// Raises:
    ///     AuthenticationError: The request may not pass.
    ///     TypeError: The headers are not pairs of bytes, or the query string is no bytes.
    #[pyo3(signature = (
        sources,
        headers: "list[tuple[bytes, bytes]]",
        required: "frozenset[str] | None" = None,
        now = None,
        query = None,
        counted = true
    ))]
    #[expect(clippy::too_many_arguments, reason = "self and py among them")]
    fn check(
        &self,
        py: Python<'_>,
        sources: &TokenHeaders,
        headers: &Bound<'_, PyAny>,
        required: Option<&Bound<'_, PyFrozenSet>>,
        now: Option<i64>,
        query: Option<&[u8]>,
        counted: bool,
    ) -> PyResult<Py<PyAny>> {
        let mut found = Found::default();
        let credential =
            sources.find(headers, query, &mut found)?.map_err(|refusal| self.refuse(refusal))?;
        let (ring, at) = (&self.ring.get().inner, self.moment(now));
        let mut granted = None;
        let permits = |key: &Key| permits(py, key, required, &mut granted);
        let verdict = if counted {
            self.inner.check_credential(ring, credential.bytes(), at, permits)
        } else {
            self.inner.recheck_credential(ring, credential.bytes(), at, permits)
        };
        match verdict {
            Verdict::Opens(row) => key_of(py, &row),
            Verdict::Denied(_) => Err(Refusal::Invalid.into()),
            Verdict::Barred(denial, row) => Err(barred(py, denial, &row, required, granted)),
            Verdict::Unknown => {
                let token = credential
                    .text()
                    .and_then(|text| self.inner.read(ring, text).map_err(|_| Refusal::Invalid));
                let token = token.map_err(|refusal| self.refuse(refusal))?;
                self.look(py, token, required, at, counted)
            }
        }
    }

    /// The same for a token at hand.
    #[pyo3(signature = (token, required: "frozenset[str] | None" = None, now = None))]
    fn check_token(
        &self,
        py: Python<'_>,
        token: &Token,
        required: Option<&Bound<'_, PyFrozenSet>>,
        now: Option<i64>,
    ) -> PyResult<Py<PyAny>> {
        self.look(py, token.inner.borrow(), required, self.moment(now), true)
    }

    /// Tells whether a request carries what only a key of this collection can be meant with.
    ///
    /// Args:
    ///     sources: What may carry it.
    ///     headers: As ``check`` takes them.
    ///     query: As ``check`` takes it.
    ///
    /// Returns:
    ///     None if it carries nothing; False if nothing but ``Authorization: Bearer`` carries
    ///     something that names no prefix of this collection, and may belong to another scheme.
    ///
    /// Raises:
    ///     TypeError: The headers are not pairs of bytes, or the query string is no bytes.
    #[pyo3(signature = (sources, headers: "list[tuple[bytes, bytes]]", query = None))]
    fn claims(
        &self,
        sources: &TokenHeaders,
        headers: &Bound<'_, PyAny>,
        query: Option<&[u8]>,
    ) -> PyResult<Option<bool>> {
        let mut found = Found::default();
        Ok(match sources.find(headers, query, &mut found)? {
            Err(Refusal::Missing) => None,
            Err(Refusal::Invalid | Refusal::Ambiguous) => Some(true),
            Ok(credential) => {
                Some(!credential.is_bearer_only() || self.inner.names_ours(credential.bytes()))
            }
        })
    }

    /// Reads a token as ``check`` does: of other formats, too, if these may be keys.
    ///
    /// Args:
    ///     token: A ``str`` of any content, or a token that was read elsewhere.
    ///
    /// Raises:
    ///     InvalidTokenError: It is no token, or a mistyped one.
    ///     TypeError: It is neither.
    #[pyo3(signature = (token: "str | Token"))]
    fn present(&self, token: &Bound<'_, PyAny>) -> PyResult<Token> {
        let text = match &TokenText::of(token)? {
            TokenText::Text(text) => utf8(text).ok_or(TokenError::Shape)?,
            TokenText::Token(token) => token.inner.as_str(),
        };
        Ok(Token { inner: self.inner.read(&self.ring.get().inner, text)?.to_owned() })
    }

    /// The names that a token of another format may have, a token for each server secret, the
    /// active one first.
    fn candidates(&self, token: &Token) -> Vec<Token> {
        let found = self.inner.candidates(&self.ring.get().inner, token.inner.borrow());
        found.map(|each| Token { inner: each.to_owned() }).collect()
    }

    /// Tells whether a token that is not known may cost the database a lookup: its seal is right,
    /// or there is something left for those whose seal is not.
    fn admits(&self, token: &Token) -> bool {
        self.inner.admits(&self.ring.get().inner, token.inner.borrow(), self.moment(None))
    }

    /// The cached row of a key id, if it counts.
    fn cached(&self, token: &Token) -> Option<Row> {
        let found = self.inner.cached(token.inner.key_id(), self.moment(None));
        found.map(|inner| Row { inner })
    }

    /// The epoch of a key id: to be taken before the database is asked for it.
    fn epoch(&self, key_id: &Bound<'_, PyString>) -> PyResult<u64> {
        Ok(self.inner.cache().epoch(parse_key_id(key_id)?))
    }

    /// Makes a row out of what the database said.
    ///
    /// Args:
    ///     key_id: What it was asked for.
    ///     epoch: From before it was asked.
    ///     key: The APIKey; None if there is none.
    ///     stored: Its stored hash.
    ///     scopes: Its scopes.
    ///     expires_at: When it expires.
    ///     revoked: Whether it is revoked.
    ///     imported: Whether its token is of another format: then its hash is never made anew.
    ///     keep: Whether to put the row into the cache.
    ///
    /// Raises:
    ///     InvalidHashError: The stored hash is malformed, or outside the policy.
    #[pyo3(signature = (
        key_id,
        epoch,
        *,
        key,
        stored,
        scopes: "frozenset[str]",
        expires_at,
        revoked,
        imported = false,
        keep
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names")]
    fn row(
        &self,
        key_id: &Bound<'_, PyString>,
        epoch: u64,
        key: Option<Py<PyAny>>,
        stored: &Bound<'_, PyString>,
        scopes: Py<PyFrozenSet>,
        expires_at: Option<i64>,
        revoked: bool,
        imported: bool,
        keep: bool,
    ) -> PyResult<Row> {
        let said = Said {
            key_id: parse_key_id(key_id)?,
            epoch,
            key: key.map(|object| Key { object, scopes }),
            hash: utf8(stored).ok_or(HashError::Malformed)?,
            expires_at,
            revoked,
            imported,
        };
        let row = Arc::new(self.inner.row(&self.ring.get().inner, said, self.moment(None))?);
        if keep {
            self.inner.cache().insert(Arc::clone(&row));
        }
        Ok(Row { inner: row })
    }

    /// Verifies a token against the slow hash of a row, and remembers it if it was right.
    ///
    /// Takes tens of milliseconds, without the GIL: call it in a thread.
    ///
    /// Raises:
    ///     MemoryError: There is not enough memory.
    fn stretch(&self, py: Python<'_>, row: &Row, token: &Token) -> PyResult<()> {
        let (inner, ring) = (&self.inner, &self.ring.get().inner);
        Ok(py.detach(|| inner.stretch(ring, &row.inner, token.inner.borrow()))?)
    }

    /// Tells what a token opens by a row.
    ///
    /// Returns:
    ///     The APIKey, whose use is counted; None if the row was overtaken by a change.
    ///
    /// Raises:
    ///     AuthenticationError: The request may not pass.
    ///     InvalidHashError: The hash needs a server secret that is not in the ring.
    #[pyo3(signature = (row, token, required: "frozenset[str] | None" = None, now = None))]
    fn judge(
        &self,
        py: Python<'_>,
        row: &Row,
        token: &Token,
        required: Option<&Bound<'_, PyFrozenSet>>,
        now: Option<i64>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let (ring, at) = (&self.ring.get().inner, self.moment(now));
        let mut granted = None;
        let permits = |key: &Key| permits(py, key, required, &mut granted);
        match self.inner.judge(ring, &row.inner, token.inner.borrow(), at, permits)? {
            Verdict::Opens(()) => Ok(row.inner.key.as_ref().map(|key| key.object.clone_ref(py))),
            Verdict::Denied(_) => Err(Refusal::Invalid.into()),
            Verdict::Barred(denial, ()) => Err(barred(py, denial, &row.inner, required, granted)),
            Verdict::Unknown => Ok(None),
        }
    }

    /// Has a key be read anew: no row counts that was asked for before.
    fn evict(&self, key_id: &Bound<'_, PyString>) -> PyResult<()> {
        self.inner.cache().evict(parse_key_id(key_id)?);
        Ok(())
    }

    /// Has every key be read anew.
    fn flush(&self) {
        self.inner.cache().flush();
    }

    /// The feed has brought all that was changed until then, in ticks.
    fn heard(&self, ticks: u64) {
        self.inner.heard(ticks);
    }

    /// No cached row counts until the feed is heard again.
    fn distrust(&self) {
        self.inner.distrust();
    }

    /// The time, in ticks.
    fn ticks(&self) -> u64 {
        self.inner.ticks()
    }

    /// Has ``take_usage`` bring the uses that were counted until now, and none that come later.
    fn close_usage(&self) {
        self.inner.ledger().close();
    }

    /// Takes uses out of the ledger, to be written to the database.
    ///
    /// Args:
    ///     most: Of how many keys.
    ///
    /// Returns:
    ///     Key id, count, and the moment of the last one, by key id.
    fn take_usage(&self, most: usize) -> Vec<(String, u64, i64)> {
        let taken = self.inner.ledger().take(most).into_iter();
        taken.map(|each| (each.key_id.as_str().to_owned(), each.count, each.last_at)).collect()
    }

    /// Puts uses back that could not be written.
    #[pyo3(signature = (usage: "list[tuple[str, int, int]]"))]
    fn put_usage_back(&self, usage: Vec<(Bound<'_, PyString>, u64, i64)>) -> PyResult<()> {
        let uses: Vec<Use> = usage
            .iter()
            .map(|(key_id, count, last_at)| {
                Ok(Use { key_id: parse_key_id(key_id)?, count: *count, last_at: *last_at })
            })
            .collect::<PyResult<_>>()?;
        self.inner.ledger().put_back(&uses);
        Ok(())
    }

    /// What happened so far, by name.
    #[pyo3(signature = () -> "dict[str, int]")]
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (counts, dict) = (self.inner.counts(), PyDict::new(py));
        let (backlog, lost) = self.inner.ledger().backlog();
        dict.set_item("hits", counts.hits.load(Relaxed))?;
        dict.set_item("misses", counts.misses.load(Relaxed))?;
        dict.set_item("missing_key", counts.missing.load(Relaxed))?;
        dict.set_item("ambiguous_credentials", counts.ambiguous.load(Relaxed))?;
        dict.set_item("invalid_key", counts.invalid.load(Relaxed))?;
        dict.set_item("revoked_key", counts.revoked.load(Relaxed))?;
        dict.set_item("expired_key", counts.expired.load(Relaxed))?;
        dict.set_item("insufficient_scope", counts.scope.load(Relaxed))?;
        dict.set_item("cached", self.inner.cache().len())?;
        dict.set_item("fresh_until", self.inner.fresh_until())?;
        dict.set_item("ledger_keys", backlog)?;
        dict.set_item("ledger_lost", lost)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        format!("<Engine with {} keys>", self.inner.cache().len())
    }

    #[pyo3(signature = () -> "str")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_pickle("Engine"))
    }
}

impl Engine {
    fn look(
        &self,
        py: Python<'_>,
        token: token::Token<&str>,
        required: Option<&Bound<'_, PyFrozenSet>>,
        at: Moment,
        counted: bool,
    ) -> PyResult<Py<PyAny>> {
        let ring = &self.ring.get().inner;
        let mut granted = None;
        let permits = |key: &Key| permits(py, key, required, &mut granted);
        let verdict = if counted {
            self.inner.check(ring, token, at, permits)
        } else {
            self.inner.recheck(ring, token, at, permits)
        };
        match verdict {
            Verdict::Opens(row) => key_of(py, &row),
            Verdict::Denied(_) => Err(Refusal::Invalid.into()),
            Verdict::Barred(denial, row) => Err(barred(py, denial, &row, required, granted)),
            Verdict::Unknown => Ok(Py::new(py, Token { inner: token.to_owned() })?.into_any()),
        }
    }

    fn refuse(&self, refusal: Refusal) -> PyErr {
        let counts = self.inner.counts();
        let count = match refusal {
            Refusal::Missing => &counts.missing,
            Refusal::Ambiguous => &counts.ambiguous,
            Refusal::Invalid => &counts.invalid,
        };
        count.fetch_add(1, Relaxed);
        refusal.into()
    }

    fn moment(&self, now: Option<i64>) -> Moment {
        let ticks = self.inner.ticks();
        Moment { now: now.unwrap_or_else(|| self.inner.calendar().read(ticks)), ticks }
    }
}

fn key_of(py: Python<'_>, row: &cache::Row<Key>) -> PyResult<Py<PyAny>> {
    let object = row.key.as_ref().map(|key| key.object.clone_ref(py));
    object.ok_or_else(|| Refusal::Invalid.into())
}

fn permits(
    py: Python<'_>,
    key: &Key,
    required: Option<&Bound<'_, PyFrozenSet>>,
    granted: &mut Option<Py<PyFrozenSet>>,
) -> bool {
    let Some(required) = required else { return true };
    let scopes = key.scopes.bind(py);
    // What cannot be compared is not granted.
    let granted_all = required.as_any().le(scopes).unwrap_or(false);
    if !granted_all {
        *granted = Some(key.scopes.clone_ref(py));
    }
    granted_all
}

/// The refusal of a key whose secret is right, which has the key.
fn barred(
    py: Python<'_>,
    denial: Denial,
    row: &cache::Row<Key>,
    required: Option<&Bound<'_, PyFrozenSet>>,
    granted: Option<Py<PyFrozenSet>>,
) -> PyErr {
    let refusal = match (denial, required, granted) {
        (Denial::Revoked, ..) => RevokedKeyError::new_err(()),
        (Denial::Expired, ..) => ExpiredKeyError::new_err(()),
        (Denial::Scope, Some(required), Some(granted)) => {
            InsufficientScopeError::new_err((required.clone().unbind(), granted))
        }
        _ => Refusal::Invalid.into(),
    };
    let key = row.key.as_ref().map(|key| &key.object);
    refusal.value(py).setattr("key", key).err().unwrap_or(refusal)
}
