//! The rim of the search for leaked tokens, and of masking. It holds no rule of its own.
#![expect(clippy::doc_markdown, reason = "the comments of this file are Python docstrings")]
#![expect(clippy::unused_self, reason = "PyO3 calls __reduce__ on an instance")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use sha2::{Digest, Sha256};

use crate::masking;
use crate::python::{Token, refuse_pickle, utf8};
use crate::scan::{Hit, Stream, Wanted};
use crate::token::{Prefix, TokenError};
use crate::walk::{self, Progress};

/// A place where a token stands, or what looks like one. Shows nothing of its secret.
#[pyclass(frozen, module = "keylatch")]
pub struct Sighting {
    hit: Hit,
}

#[pymethods]
impl Sighting {
    /// What stands before the key id, such as ``acme_live``.
    #[getter]
    fn prefix(&self) -> &str {
        self.hit.prefix()
    }

    /// The key id that stands there.
    #[getter]
    fn key_id(&self) -> &str {
        self.hit.key_id()
    }

    /// The SHA-256 of the whole text, in hexadecimal digits: it tells the same token elsewhere,
    /// and nothing of its 256 random bits.
    #[getter]
    fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.hit.text());
        digest.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex_digit).collect()
    }

    /// Whether its checksum is right, so that it is a token, ours or not.
    #[getter]
    fn genuine(&self) -> bool {
        self.hit.genuine
    }

    /// Whether it stands in UTF-16.
    #[getter]
    fn wide(&self) -> bool {
        self.hit.wide
    }

    /// Where it begins, in bytes.
    #[getter]
    fn offset(&self) -> u64 {
        self.hit.start
    }

    /// The line, counted from 1; 0 if it stands in the name of a file.
    #[getter]
    fn line(&self) -> u64 {
        self.hit.line
    }

    /// The character of the line, counted from 1; 0 if it stands in the name of a file.
    #[getter]
    fn column(&self) -> u64 {
        self.hit.column
    }

    /// The token, if its checksum is right.
    fn token(&self) -> Option<Token> {
        self.hit.token().map(|inner| Token { inner })
    }

    fn __repr__(&self) -> String {
        format!("<Sighting {}_{}_***>", self.hit.prefix(), self.hit.key_id())
    }

    #[pyo3(signature = () -> "str")]
    fn __reduce__(&self) -> PyResult<()> {
        Err(refuse_pickle("Sighting"))
    }
}

fn hex_digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap_or_default()
}

fn wanted(prefixes: &Bound<'_, PyAny>, look_alikes: bool) -> PyResult<Wanted> {
    let mut known = Vec::new();
    for prefix in prefixes.try_iter()? {
        let prefix = prefix?;
        let text = utf8(prefix.cast::<PyString>()?).ok_or(TokenError::Prefix)?;
        Prefix::parse(text)?;
        known.push(text.to_owned());
    }
    Ok(Wanted { prefixes: known, look_alikes })
}

fn sightings(hits: Vec<Hit>) -> Vec<Sighting> {
    hits.into_iter().map(|hit| Sighting { hit }).collect()
}

/// Finds tokens in bytes that come piece by piece.
///
/// Args:
///     prefixes: Only tokens of these; of any, if there is none.
///     look_alikes: Whether to find what has a token's shape and a wrong checksum, too.
///
/// Raises:
///     ValueError: A prefix is outside its format.
#[pyclass(frozen, module = "keylatch")]
pub struct TokenFinder {
    wanted: Wanted,
    stream: Mutex<Stream>,
}

#[pymethods]
impl TokenFinder {
    #[new]
    #[pyo3(signature = (*, prefixes: "list[str]", look_alikes: "bool"))]
    fn new(prefixes: &Bound<'_, PyAny>, look_alikes: bool) -> PyResult<Self> {
        Ok(Self { wanted: wanted(prefixes, look_alikes)?, stream: Mutex::new(Stream::new()) })
    }

    /// Takes the next bytes, and returns what was found so far and not yet returned.
    fn feed(&self, py: Python<'_>, data: &Bound<'_, PyBytes>) -> Vec<Sighting> {
        let mut rest = data.as_bytes();
        py.detach(|| {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            let mut hits = Vec::new();
            while !rest.is_empty() {
                let space = stream.space();
                let (piece, others) = rest.split_at(rest.len().min(space.len()));
                space.iter_mut().zip(piece).for_each(|(place, byte)| *place = *byte);
                stream.take(piece.len(), &self.wanted, &mut hits);
                rest = others;
            }
            sightings(hits)
        })
    }

    /// Returns what is left, and begins anew.
    fn end(&self, py: Python<'_>) -> Vec<Sighting> {
        py.detach(|| {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            let mut hits = Vec::new();
            stream.end(&self.wanted, &mut hits);
            sightings(hits)
        })
    }
}

/// What came of a search in files.
#[pyclass(frozen, module = "keylatch")]
pub struct Sightings {
    found: Vec<(OsString, Py<Sighting>)>,
    unread: Vec<(OsString, String)>,
    repositories: Vec<OsString>,
    files: u64,
    bytes: u64,
}

#[pymethods]
impl Sightings {
    /// Paths of files, and what stands in them or in their names.
    #[getter]
    fn found(&self, py: Python<'_>) -> Vec<(OsString, Py<Sighting>)> {
        self.found.iter().map(|(path, found)| (path.clone(), found.clone_ref(py))).collect()
    }

    /// Paths of what could not be read, and why.
    #[getter]
    fn unread(&self) -> Vec<(OsString, String)> {
        self.unread.clone()
    }

    /// Paths of directories that hold the objects of a git repository, and of ``.git`` files.
    #[getter]
    fn repositories(&self) -> Vec<OsString> {
        self.repositories.clone()
    }

    /// How many files were looked at.
    #[getter]
    fn files(&self) -> u64 {
        self.files
    }

    /// How many bytes were read.
    #[getter]
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Finds tokens in files and in their names, in whole trees, on every core.
///
/// Symbolic links are not followed, unless they are among the paths. Devices, sockets and pipes
/// are passed over.
///
/// Args:
///     paths: Files and directories.
///     prefixes: Only tokens of these; of any, if there is none.
///     look_alikes: Whether to find what has a token's shape and a wrong checksum, too.
///     progress: Is told now and then how many files and bytes were read; if it raises, the search
///         ends with that.
///
/// Raises:
///     ValueError: A prefix is outside its format.
#[pyfunction]
#[pyo3(signature = (
    paths: "list[str]",
    *,
    prefixes: "list[str]",
    look_alikes: "bool",
    progress,
))]
pub fn scan_files(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    prefixes: &Bound<'_, PyAny>,
    look_alikes: bool,
    progress: &Bound<'_, PyAny>,
) -> PyResult<Sightings> {
    let wanted = wanted(prefixes, look_alikes)?;
    let progress = progress.clone().unbind();
    let counts = Progress::default();
    let so_far = || (counts.files.load(Relaxed), counts.bytes.load(Relaxed));
    let outcome = py.detach(|| {
        walk::walk(paths, &wanted, &counts, || {
            Python::attach(|py| {
                py.check_signals()?;
                progress.call1(py, so_far()).map(drop)
            })
        })
    })?;
    let (files, bytes) = so_far();
    let found = outcome
        .hits
        .into_iter()
        .map(|(path, hit)| Ok((path.into_os_string(), Py::new(py, Sighting { hit })?)));
    Ok(Sightings {
        found: found.collect::<PyResult<_>>()?,
        unread: outcome.unread.into_iter().map(|(path, why)| (path.into(), why)).collect(),
        repositories: outcome.repositories.into_iter().map(PathBuf::into_os_string).collect(),
        files,
        bytes,
    })
}

/// Masks the secret part of every token in a text, whole or cut: ``acme_live_<key id>_***``.
///
/// Args:
///     text: A ``str`` of any content.
///
/// Returns:
///     The same object, if there is nothing to mask.
#[pyfunction]
pub fn mask<'py>(py: Python<'py>, text: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyString>> {
    if let Some(utf8) = utf8(text) {
        let masked = masking::mask(utf8.as_bytes());
        return Ok(masked.map_or_else(
            || text.clone(),
            |masked| PyString::new(py, &String::from_utf8_lossy(&masked)),
        ));
    }
    // It holds halves of characters, which Python can have and UTF-8 cannot.
    let halves = ("utf-8", "surrogatepass");
    let encoded = text.call_method1("encode", halves)?.cast_into::<PyBytes>()?;
    let Some(masked) = masking::mask(encoded.as_bytes()) else { return Ok(text.clone()) };
    Ok(PyBytes::new(py, &masked).call_method1("decode", halves)?.cast_into()?)
}

/// The same for bytes.
#[pyfunction]
pub fn mask_bytes<'py>(py: Python<'py>, data: &Bound<'py, PyBytes>) -> Bound<'py, PyBytes> {
    masking::mask(data.as_bytes()).map_or_else(|| data.clone(), |masked| PyBytes::new(py, &masked))
}
