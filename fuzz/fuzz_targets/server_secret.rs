//! Server secrets: what is accepted is long enough and named once, and no error shows any of it.
#![no_main]

use keylatch_fuzz::secrets::SecretRing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match SecretRing::parse(text) {
        Ok(ring) => {
            let mut kids: Vec<String> =
                ring.iter().map(|secret| secret.kid().to_string()).collect();
            let named = text.split(',').map(|entry| entry.trim_ascii().split(':').next());
            assert_eq!(
                kids.iter().map(|kid| Some(&**kid)).collect::<Vec<_>>(),
                named.collect::<Vec<_>>()
            );
            assert!(kids.iter().all(|kid| (1..=8).contains(&kid.len())));
            assert!(text.split(',').all(|entry| entry.trim_ascii().len() >= "k:".len() + 43));
            kids.sort();
            kids.dedup();
            assert_eq!(kids.len(), ring.iter().count());
        }
        Err(error) => {
            let shown = error.to_string();
            let secrets = text.split(',').filter_map(|entry| entry.split_once(':'));
            for (_, secret) in secrets {
                let end = secret.char_indices().nth(16).map_or(secret.len(), |(end, _)| end);
                assert!(secret.chars().count() < 16 || !shown.contains(&secret[..end]));
            }
        }
    }
});
