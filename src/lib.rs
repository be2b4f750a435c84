//! keylatch's native core: the list of what Python sees, nothing else.

mod cache;
mod clock;
mod cookies;
mod engine;
mod hash;
mod headers;
mod ledger;
mod limiter;
mod masking;
mod python;
mod python_engine;
mod python_limiter;
mod python_scan;
mod query;
mod scan;
mod secrets;
mod sync;
#[cfg(test)]
mod tests;
mod token;
mod walk;

/// Mints, parses, hashes and verifies API keys. Its names are public through `keylatch`.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::python::{Hasher, SecretRing, Token, TokenHeaders, mint, parse};
    #[pymodule_export]
    use crate::python_engine::{Engine, Row};
    #[pymodule_export]
    use crate::python_limiter::Limiter;
    #[pymodule_export]
    use crate::python_scan::{Sighting, Sightings, TokenFinder, mask, mask_bytes, scan_files};
}
