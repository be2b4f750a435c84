//! The search for tokens: vectors in every surrounding, and a slow search beside it.

use proptest::prelude::*;

use super::{cases, text, vectors};
use crate::scan::{Hit, Stream, Wanted, find};
use crate::token::Token;
#[cfg(target_os = "linux")]
use crate::walk::is_unreal;

const TOKEN: &str =
    "acme_live_jgx5hwj83p7wsea0_FvIRgMG6jlJugNvmoYLXI42U6wdNidb2Hrx935RgtFjhsbdPg3Myscw";

fn tokens() -> Wanted {
    Wanted::default()
}

fn with_look_alikes() -> Wanted {
    Wanted { look_alikes: true, ..Wanted::default() }
}

fn texts(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(Hit::text).collect()
}

fn utf16(text: &str, big_endian: bool) -> Vec<u8> {
    let pair = |unit: u16| if big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() };
    text.encode_utf16().flat_map(pair).collect()
}

/// What comes in pieces of a size that is not that of the buffer.
fn in_pieces(bytes: &[u8], size: usize, wanted: &Wanted) -> Vec<Hit> {
    let (mut stream, mut hits) = (Stream::new(), Vec::new());
    for piece in bytes.chunks(size) {
        let mut rest = piece;
        while !rest.is_empty() {
            let space = stream.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            stream.take(count, wanted, &mut hits);
        }
    }
    stream.end(wanted, &mut hits);
    hits
}

/// The tokens of some bytes by trying every place and every length.
fn slowly(bytes: &[u8]) -> Vec<&str> {
    let mut found = Vec::new();
    for start in 0..bytes.len() {
        for len in 74..=97 {
            let piece = bytes.get(start..start + len);
            if let Some(text) = piece.and_then(|piece| core::str::from_utf8(piece).ok())
                && Token::read(text).is_ok()
            {
                found.push(text);
            }
        }
    }
    found
}

/// Every token of the vectors is found, alone and in company, with its parts.
#[test]
fn tokens_of_the_vectors_are_found() {
    for case in cases(&vectors(), "tokens") {
        let token = text(&case, "token");
        for (before, after) in
            [("", ""), ("KEY=", "\n"), ("\\n", "\\n"), ("{\"", "\"}"), ("ä", "ä"), ("x_", "_x")]
        {
            let whole = format!("{before}{token}{after}");
            let hits = find(whole.as_bytes(), &tokens());
            assert_eq!(texts(&hits), [token], "{whole}");
            assert_eq!(hits[0].start, before.len() as u64);
            assert_eq!(hits[0].prefix(), text(&case, "prefix"));
            assert_eq!(hits[0].key_id(), text(&case, "key_id"));
            assert_eq!(hits[0].token().unwrap().as_str(), token);
            assert!(hits[0].genuine && !hits[0].wide);
        }
    }
}

/// Each `_` may be escaped, as in a URL that a log shows: it is the same token, which begins where
/// its escaped text does. Whatever stands before it, and wherever the search looks first.
#[test]
fn tokens_with_escapes_are_found() {
    for case in cases(&vectors(), "tokens") {
        let token = text(&case, "token");
        for written in [
            token.replace('_', "%5F"),
            token.replace('_', "%5f"),
            token.replacen('_', "%5F", 1),
            format!("{}%5F{}", &token[..token.len() - 56], &token[token.len() - 55..]),
        ] {
            for before in (0..120).map(|len| "k".repeat(len) + "%3D").chain(["x%5F".to_owned()]) {
                let whole = format!("/?{before}{written}%26 x\n");
                for (step, bytes) in [(1, whole.clone().into_bytes()), (2, utf16(&whole, true))] {
                    let hits = find(
                        &bytes,
                        &Wanted {
                            prefixes: vec![text(&case, "prefix").to_owned()],
                            look_alikes: false,
                        },
                    );
                    assert_eq!(texts(&hits), [token], "{whole}");
                    let start = (before.len() as u64 + 2) * step + (step - 1);
                    assert_eq!(hits[0].start, start);
                    assert_eq!(hits[0].prefix(), text(&case, "prefix"));
                    assert_eq!(hits[0].key_id(), text(&case, "key_id"));
                }
            }
        }
    }
    for broken in ["%5", "%5G", "%_", "5F", "%F5"] {
        assert!(find(TOKEN.replace('_', broken).as_bytes(), &with_look_alikes()).is_empty());
    }
}

/// What the checksum does not fit is found only where look-alikes are wanted.
#[test]
fn look_alikes_are_told_from_tokens() {
    let wrong = format!("{}0", &TOKEN[..TOKEN.len() - 1]);
    assert!(find(wrong.as_bytes(), &tokens()).is_empty());
    let hits = find(wrong.as_bytes(), &with_look_alikes());
    assert_eq!(texts(&hits), [wrong.as_str()]);
    assert!(!hits[0].genuine && hits[0].token().is_none());
    for other in [
        &TOKEN[1..].replace("cme_live", ""), // no prefix
        &TOKEN.replace('j', "i"),            // not in the alphabet of key ids
        &TOKEN.replacen("_F", "-F", 1),
        &TOKEN[..TOKEN.len() - 1],
    ] {
        assert!(find(other.as_bytes(), &with_look_alikes()).is_empty(), "{other}");
    }
}

/// Only tokens of the prefixes that are wanted are found, look-alikes included; what stands in
/// front of a prefix is no part of it.
#[test]
fn prefixes_narrow_the_search() {
    let wrong = format!("no{}0", &TOKEN[..TOKEN.len() - 1]);
    for (prefix, count) in [("acme_live", 1), ("acme", 0), ("live", 0)] {
        let prefixes = vec!["other".to_owned(), prefix.to_owned()];
        let wanted = Wanted { prefixes, look_alikes: true };
        assert_eq!(find(TOKEN.as_bytes(), &wanted).len(), count, "{prefix}");
    }
    let wanted = Wanted { prefixes: vec!["acme_live".to_owned()], look_alikes: true };
    let hits = find(wrong.as_bytes(), &wanted);
    assert_eq!((hits[0].prefix(), hits[0].start), ("acme_live", 2));
}

/// A token is found in UTF-16 of both kinds, at any place, and not where a gap holds something.
#[test]
fn tokens_in_utf_16_are_found() {
    for big_endian in [false, true] {
        for shift in 0..3 {
            let mut bytes = vec![b'x'; shift];
            bytes.extend(utf16(&format!("\u{3042}\n\u{3042} {TOKEN}\u{3042}"), big_endian));
            let hits = find(&bytes, &tokens());
            assert_eq!(texts(&hits), [TOKEN]);
            assert!(hits[0].wide);
            let gap = usize::try_from(hits[0].start).unwrap() + 41;
            bytes[gap] = b'x';
            assert!(find(&bytes, &tokens()).is_empty());
        }
    }
}

/// Wherever the edge of the buffer lies, a token is found once, and so is what follows it.
#[test]
fn tokens_across_the_edge_of_a_buffer_are_found_once() {
    let escaped = TOKEN.replace('_', "%5F");
    let (wide, both) = (utf16(TOKEN, false), utf16(&escaped, false));
    for token in [TOKEN.as_bytes(), &wide, escaped.as_bytes(), &both] {
        for edge in [0, 1, 50, 81, 82, 83, 87, 88, 97, 163, 164, 165, 175, 176, 194, 195, 300] {
            let mut bytes = vec![b'\n'; 256 * 1024 - edge];
            bytes.extend_from_slice(token);
            bytes.push(b' ');
            bytes.extend_from_slice(token);
            let found = in_pieces(&bytes, 100_000, &tokens());
            let start = (256 * 1024 - edge) as u64;
            let starts: Vec<u64> = found.iter().map(|hit| hit.start).collect();
            assert_eq!(starts, [start, start + token.len() as u64 + 1], "{edge}");
            assert_eq!((found[0].line, found[0].column), (start + 1, 1));
        }
    }
}

/// Lines and characters are counted from 1, over many buffers and where a line has no end.
#[test]
fn lines_and_columns_are_counted() {
    for (before, line, column) in [
        (String::new(), 1, 1),
        ("\n\n ".to_owned(), 3, 2),
        ("äöü€\u{1f600} ".to_owned(), 1, 7),
        ("x\r\n\t".to_owned(), 2, 2),
        ("x".repeat(1_000_000) + " ", 1, 1_000_002),
        ("€\n".repeat(300_000) + "€ ", 300_001, 3),
    ] {
        let bytes = format!("{before}{TOKEN} {TOKEN}\n{TOKEN}").into_bytes();
        for size in [4096, 1_000_000] {
            let found = in_pieces(&bytes, size, &tokens());
            let places: Vec<_> = found.iter().map(|hit| (hit.line, hit.column)).collect();
            assert_eq!(places, [(line, column), (line, column + 83), (line + 1, 1)]);
        }
    }
    let found = in_pieces(&utf16(&format!("x\nxy{TOKEN}"), false), 4096, &tokens());
    assert_eq!((found[0].line, found[0].column), (2, 3));
}

/// A stream that has ended begins anew.
#[test]
fn a_stream_can_be_used_again() {
    let (mut stream, mut hits) = (Stream::new(), Vec::new());
    for _ in 0..2 {
        stream.space()[..TOKEN.len()].copy_from_slice(TOKEN.as_bytes());
        stream.take(TOKEN.len(), &tokens(), &mut hits);
        stream.end(&tokens(), &mut hits);
    }
    let places: Vec<_> = hits.iter().map(|hit| (hit.start, hit.line, hit.column)).collect();
    assert_eq!(places, [(0, 1, 1), (0, 1, 1)]);
}

proptest! {
    /// The same tokens are found as by trying every place, whatever stands between them, and
    /// whether or not a `_` is escaped.
    #[test]
    fn a_slow_search_finds_the_same(
        pieces in prop::collection::vec(
            prop_oneof![
                Just(TOKEN.to_owned()), Just("k_".to_owned()), Just("_".to_owned()),
                Just("%5F".to_owned()), Just(TOKEN.replace('_', "%5f")),
                "[0-9A-Za-z]{0,60}", "[ -~]{0,5}", "_[0-9a-hjkmnp-tv-z]{16}_",
                (0..82_usize, 0..82_usize).prop_map(|(one, other)| {
                    TOKEN[one.min(other)..one.max(other)].to_owned()
                }),
            ],
            0..12,
        ),
    ) {
        let whole = pieces.concat();
        let found = find(whole.as_bytes(), &tokens());
        let plain = whole.replace("%5F", "_").replace("%5f", "_");
        prop_assert_eq!(texts(&found), slowly(plain.as_bytes()));
    }

    /// Bytes of any kind are searched without a panic, and a token among them is found.
    #[test]
    fn any_bytes_are_searched(
        before in prop::collection::vec(any::<u8>(), 0..300),
        after in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [before.as_slice(), TOKEN.as_bytes(), &after].concat();
        let found = find(&bytes, &with_look_alikes());
        prop_assert!(found.iter().any(|hit| hit.genuine && hit.text() == TOKEN));
    }
}

/// However a search came to them: from the root, from where it was started, or on a way around.
#[cfg(target_os = "linux")]
#[test]
fn file_systems_of_the_kernel_are_known_by_any_path() {
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    for path in ["/proc", "/./sys", "/usr/../dev", &format!("{up}proc"), &format!("./{up}sys")] {
        assert!(is_unreal(path.as_ref()), "{path}");
    }
    for path in ["/", "/usr", "proc", "/proc/self", "/nowhere/dev"] {
        assert!(!is_unreal(path.as_ref()), "{path}");
    }
}
