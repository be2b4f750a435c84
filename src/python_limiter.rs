//! The rim of the limiter: the class that `keylatch.limits` drives. It holds no rule of its own.
#![expect(clippy::doc_markdown, reason = "the comments of this file are Python docstrings")]

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::limiter::{self, Limit};
use crate::python::parse_key_id;

/// What keys have taken of their limits, in this process.
#[pyclass(frozen, module = "keylatch")]
pub struct Limiter {
    inner: limiter::Limiter,
}

#[pymethods]
impl Limiter {
    #[new]
    fn new() -> Self {
        Self { inner: limiter::Limiter::new() }
    }

    /// Takes one request of a key. If there is none left it takes nothing.
    ///
    /// Args:
    ///     key_id: The key, which has verified.
    ///     requests: How many it may send at once, 1 or more.
    ///     per: Nanoseconds in which it gets as many again.
    ///     now: Microseconds since 1970; the limiter's own clock, that nobody sets back, if None.
    ///
    /// Returns:
    ///     0, or nanoseconds to wait for the next one.
    #[pyo3(signature = (key_id, requests, per, now = None))]
    fn take(
        &self,
        key_id: &Bound<'_, PyString>,
        requests: u32,
        per: u64,
        now: Option<i64>,
    ) -> PyResult<u64> {
        let key_id = parse_key_id(key_id)?;
        // Past the year 2554 it begins anew. If it stood still there, nothing would be missing.
        let now = now.map(|now| u64::try_from(now).unwrap_or(0).wrapping_mul(1_000));
        let now = now.unwrap_or_else(|| self.inner.now());
        Ok(self.inner.take(key_id, Limit::new(requests, per), now))
    }

    /// Of how many keys something is kept. What is over goes by and by.
    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        format!("<Limiter of {} keys>", self.inner.len())
    }
}
