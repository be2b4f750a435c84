//! keylatch's native core: the list of what Python sees, nothing else.

mod hash;
mod headers;
mod python;
mod secrets;
#[cfg(test)]
mod tests;
mod token;

/// Mints, parses, hashes and verifies API keys. Its names are public through `keylatch`.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::python::{Hasher, SecretRing, Token, TokenHeaders, mint, parse};
}
