//! What threads share: of the standard library, or of `shuttle`, which tries their interleavings.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64};
