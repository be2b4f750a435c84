//! Times the HMAC-SHA256 of a token as the native core computes it, and nothing else.
//!
//! Arguments: the message's length in bytes, and how often. Prints nanoseconds: of one with its key set up
//! anew each time, and of one by a key that was absorbed before, which is how the core does it.

use std::hint::black_box;
use std::time::Instant;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (length, times) = (numbers.next().unwrap_or(104), numbers.next().unwrap_or(100_000));
    let message = vec![b'a'; length];
    let key = [7; 64];
    let absorbed = Hmac::<Sha256>::new(&key.into());
    let one_shot = || Hmac::<Sha256>::new(black_box(&key.into()));
    let copied = || black_box(&absorbed).clone();
    println!("{} {}", time(one_shot, &message, times), time(copied, &message, times));
}

/// Nanoseconds per digest.
fn time(mac: impl Fn() -> Hmac<Sha256>, message: &[u8], times: usize) -> u128 {
    let start = Instant::now();
    for _ in 0..times {
        black_box(mac().chain_update(black_box(message)).finalize().into_bytes());
    }
    start.elapsed().as_nanos() / times.max(1) as u128
}
