//! keylatch's native core: the list of what Python sees, nothing else.

mod cache;
mod clock;
mod cookies;
mod engine;
mod hash;
mod headers;
mod ledger;
mod python;
mod python_engine;
mod query;
mod secrets;
mod sync;
#[cfg(test)]
mod tests;
mod token;

/// Mints, parses, hashes and verifies API keys. Its names are public through `keylatch`.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::python::{Hasher, SecretRing, Token, TokenHeaders, mint, parse};
    #[pymodule_export]
    use crate::python_engine::{Engine, Row};
}
