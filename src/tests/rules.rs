//! The regular expressions for other tools, tried with Rust's `regex`, and what the search finds in
//! the same texts. Python's are tried in `tests/test_scan_rules.py`.

use regex::{Regex, bytes};
use serde_json::Value;

use super::{cases, text};
use crate::scan::{Hit, Wanted, find};

fn rules() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/rules-v1.json")).unwrap()
}

fn texts(rules: &Value, name: &str) -> Vec<String> {
    cases(rules, name).iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// What the expressions find, in its order.
fn found<'a>(expressions: &[Regex], text: &'a str) -> Vec<&'a str> {
    let mut hits: Vec<_> = expressions
        .iter()
        .flat_map(|each| each.captures_iter(text))
        .map(|hit| hit.get(1).unwrap())
        .collect();
    hits.sort_by_key(regex::Match::start);
    hits.iter().map(regex::Match::as_str).collect()
}

/// All planted tokens are found, and nothing of another shape.
#[test]
fn expressions_find_what_was_planted_and_nothing_else() {
    let rules = rules();
    // `\b` as Go has it, for whom the rules are: of ASCII.
    let ascii = |text: &str| Regex::new(&text.replace(r"\b", r"(?-u:\b)")).unwrap();
    let expressions: Vec<Regex> = texts(&rules, "prefixes")
        .iter()
        .map(|prefix| ascii(text(&rules["expressions"], prefix)))
        .collect();
    assert_eq!(found(&expressions, text(&rules, "text")), texts(&rules, "planted"));
    for look_alike in texts(&rules, "look_alikes") {
        assert!(found(&expressions, &look_alike).is_empty(), "{look_alike}");
    }
}

/// The search finds the same.
#[test]
fn the_search_finds_what_was_planted() {
    let rules = rules();
    let wanted = Wanted { prefixes: texts(&rules, "prefixes"), look_alikes: false };
    let hits = find(text(&rules, "text").as_bytes(), &wanted);
    let hits: Vec<&str> = hits.iter().map(Hit::text).collect();
    assert_eq!(hits, texts(&rules, "planted"));
}

/// Between binary data, hexadecimal digits and code they find the same.
#[test]
fn expressions_find_what_was_planted_in_the_midst_of_anything() {
    let rules = rules();
    let expressions: Vec<bytes::Regex> = texts(&rules, "prefixes")
        .iter()
        .map(|prefix| bytes::Regex::new(text(&rules["expressions"], prefix)).unwrap())
        .collect();
    let planted = texts(&rules, "planted");
    let noise: Vec<u8> = (0..20_000_u32).map(|number| (number * number % 251) as u8).collect();
    let digits: Vec<String> = noise.iter().map(|byte| format!("{byte:02x}")).collect();
    for content in [noise, digits.concat().into_bytes(), b"let x_y = a_b;\n".repeat(2000)] {
        let mut whole = Vec::new();
        for each in planted.iter().chain(&texts(&rules, "look_alikes")) {
            whole.extend([&content, b"\n".as_slice(), each.as_bytes(), b"\n"].concat());
        }
        let mut hits: Vec<_> = expressions
            .iter()
            .flat_map(|each| each.captures_iter(&whole))
            .map(|hit| hit.get(1).unwrap())
            .collect();
        hits.sort_by_key(bytes::Match::start);
        let found: Vec<_> = hits.iter().map(bytes::Match::as_bytes).collect();
        assert_eq!(found, planted.iter().map(String::as_bytes).collect::<Vec<_>>());
    }
}
