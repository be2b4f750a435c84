//! Masking: whole tokens and cut ones, in any text.

use proptest::prelude::*;

use super::{cases, text, vectors};
use crate::masking::mask;

const TOKEN: &str =
    "acme_live_jgx5hwj83p7wsea0_FvIRgMG6jlJugNvmoYLXI42U6wdNidb2Hrx935RgtFjhsbdPg3Myscw";
const MASKED: &str = "acme_live_jgx5hwj83p7wsea0_***";

fn masked(text: &str) -> Option<String> {
    mask(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
}

/// The tokens of the vectors keep their prefix and key id.
#[test]
fn tokens_of_the_vectors_are_masked() {
    for case in cases(&vectors(), "tokens") {
        let shown = format!("{}_{}_***", text(&case, "prefix"), text(&case, "key_id"));
        assert_eq!(masked(text(&case, "token")), Some(shown));
    }
}

/// Everything around a token stays as it is, and several are masked.
#[test]
fn what_is_no_token_stays() {
    for (before, after) in [("", " "), ("/?k=", "&x=1"), ("ä€\n", "\n€"), ("b'", "'"), ("_", "_")]
    {
        let whole = format!("{before}{TOKEN}{after}{before}{TOKEN}{after}");
        let shown = format!("{before}{MASKED}{after}{before}{MASKED}{after}");
        assert_eq!(masked(&whole), Some(shown.clone()));
        assert_eq!(masked(&shown), None);
    }
}

/// A token that was cut, or has something glued to it, is masked up to where it ends.
#[test]
fn cut_and_mistyped_tokens_are_masked() {
    let secret = TOKEN.len() - 55;
    for len in 12..55 {
        let shown = masked(&format!("{}...", &TOKEN[..secret + len]));
        assert_eq!(shown, Some(format!("{MASKED}...")));
    }
    assert_eq!(masked(&TOKEN[..secret + 11]), None);
    assert_eq!(
        masked(&format!("{TOKEN}{TOKEN}")),
        Some(format!("{MASKED}_live_jgx5hwj83p7wsea0_***"))
    );
}

/// A prefix may end like a key id, and what it precedes look like the start of a secret.
#[test]
fn a_prefix_like_a_key_id_hides_no_secret() {
    let (prefix, token) = TOKEN.split_at("acme_live".len());
    assert_eq!(prefix, "acme_live");
    let shown = masked(&format!("a_0123456789abcdef{token}"));
    assert_eq!(shown.as_deref(), Some("a_0123456789abcdef_***_***"));
}

/// What follows a mask at once belongs to the secret: its first part was masked alone.
#[test]
fn the_rest_of_a_secret_is_masked_as_well() {
    let (first, rest) = TOKEN.split_at(TOKEN.len() - 40);
    let shown = masked(first).unwrap();
    assert_eq!(masked(&format!("{shown}{rest} x")), Some(format!("{MASKED} x")));
    assert_eq!(masked(&format!("***{rest}")), None);
}

/// Some clients escape the `_` in URLs, which the query string of a request shows as it came.
#[test]
fn tokens_with_escapes_are_masked() {
    for escape in ["%5F", "%5f"] {
        let url = |text: &str| format!("/?k={}&x=1", text.replace('_', escape));
        assert_eq!(masked(&url(TOKEN)), Some(url(MASKED)));
        assert_eq!(masked(&url(&TOKEN[..40])), Some(url(MASKED)));
        assert_eq!(masked(&url("acme_live_jgx5hwj83p7wsea0")), None);
    }
}

proptest! {
    /// Whatever the text, no secret part is left, and masking again changes nothing.
    #[test]
    fn nothing_is_left_to_mask(
        pieces in prop::collection::vec(
            prop_oneof![Just(TOKEN.to_owned()), ".{0,9}", "_[0-9a-hjkmnp-tv-z]{16}_", "[a-z]{9,20}"],
            0..12,
        ),
    ) {
        let whole = pieces.concat();
        let shown = masked(&whole).unwrap_or_else(|| whole.clone());
        prop_assert!(!shown.contains(&TOKEN[27..39]) || !whole.contains(&TOKEN[9..39]));
        prop_assert_eq!(masked(&shown), None);
    }

    /// Bytes of any kind are masked without a panic.
    #[test]
    fn any_bytes_are_masked(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = mask(&bytes);
    }
}
