//! The policy for stored strings, at each of its edges. Nothing here computes a hash: what is
//! refused has to be refused before.

use core::fmt::Write;

use super::ring_led_by;
use crate::hash::{Cost, HashError, Scheme, check, needs_rehash, verify};

/// What the policy says of a string: `check` and `needs_rehash` do no work, and `verify` must
/// refuse for the same reason.
fn ruling(stored: &str) -> Result<(), HashError> {
    let ring = ring_led_by("k1");
    let ruling = check(&ring, stored);
    assert_eq!(needs_rehash(Scheme::HmacSha256, &ring, stored).map(|_| ()), ruling);
    if ruling.is_err() {
        assert_eq!(verify(&ring, b"a token", stored).map(|_| ()), ruling);
    }
    ruling
}

/// B64 of that many zero bytes.
fn zeros(count: usize) -> String {
    "A".repeat((count * 8).div_ceil(6))
}

fn argon2id(parameters: &str) -> String {
    format!("$argon2id$v=19${parameters}${}${}", zeros(16), zeros(32))
}

fn hmac(parameters: &str) -> String {
    format!("$hmac-sha256$v=1${parameters}${}${}", zeros(16), zeros(32))
}

/// Memory, iterations and parallelism are accepted up to their bounds and not one further.
#[test]
fn argon2id_costs_end_at_the_bounds() {
    let within = [
        "m=7168,t=1,p=1",
        "m=7168,t=10,p=4",
        "m=131072,t=1,p=1",
        "m=131072,t=10,p=4",
        "m=19456,t=2,p=1",
    ];
    for cost in within {
        assert_eq!(ruling(&argon2id(cost)), Ok(()), "{cost}");
        assert_eq!(ruling(&argon2id(&format!("{cost},keyid=azE"))), Ok(()), "{cost}");
    }
    let without = [
        "m=7167,t=1,p=1",
        "m=131073,t=1,p=1",
        "m=4194304,t=1,p=1",
        "m=7168,t=0,p=1",
        "m=7168,t=11,p=1",
        "m=7168,t=1,p=0",
        "m=7168,t=1,p=5",
        "m=0,t=0,p=0",
        "m=8,t=1,p=1",
    ];
    for cost in without {
        assert_eq!(ruling(&argon2id(cost)), Err(HashError::Cost), "{cost}");
        let keyed = format!("{cost},keyid=azE");
        assert_eq!(ruling(&argon2id(&keyed)), Err(HashError::Cost), "{cost}");
    }
}

/// A number that does not fit is past the bound: it neither wraps round nor is cut.
#[test]
fn huge_numbers_do_not_wrap() {
    // 2^32, and what would be 7168 or 1 behind it; 2^64 and 2^64 + 1; 60 digits.
    let huge = ["4294967295", "4294967296", "4294974464", "4294967297", "18446744073709551616"];
    let longest = "9".repeat(60);
    for number in huge.into_iter().chain([longest.as_str()]) {
        for cost in [
            format!("m={number},t=1,p=1"),
            format!("m=7168,t={number},p=1"),
            format!("m=7168,t=1,p={number}"),
        ] {
            assert_eq!(ruling(&argon2id(&cost)), Err(HashError::Cost), "{cost}");
        }
    }
}

/// Numbers have no sign, no leading zero, no blank and ASCII digits only.
#[test]
fn numbers_are_written_one_way() {
    for number in ["", "07168", "00", "+7168", "-7168", "7168 ", " 7168", "7_168", "0x1c00", "7e3"]
        .into_iter()
        .chain(["7168.0", "７１６８", "\u{661}"])
    {
        let cost = format!("m={number},t=1,p=1");
        assert_eq!(ruling(&argon2id(&cost)), Err(HashError::Malformed), "{cost}");
    }
    for cost in ["m=7168,t=01,p=1", "m=7168,t=+1,p=1", "m=7168,t=1,p=01", "m=7168,t=1,p=-1"] {
        assert_eq!(ruling(&argon2id(cost)), Err(HashError::Malformed), "{cost}");
    }
}

/// The parameters stand in their order, each once, and none beside them.
#[test]
fn argon2id_parameters_stand_in_order() {
    let wrong = [
        "",
        "m=7168",
        "m=7168,t=1",
        "m=7168,p=1",
        "t=1,p=1",
        "t=1,m=7168,p=1",
        "m=7168,p=1,t=1",
        "m=7168,m=7168,t=1,p=1",
        "m=7168,t=1,t=1,p=1",
        "m=7168,t=1,p=1,p=1",
        "m=7168,t=1,p=1,",
        ",m=7168,t=1,p=1",
        "m=7168,,t=1,p=1",
        "m=7168;t=1;p=1",
        "M=7168,t=1,p=1",
        "m=7168,t=1,p=1,l=32",
        "m=7168,t=1,p=1,data=azE",
        "m=7168,t=1,p=1,data=",
        "m=7168,t=1,p=1,keyid=azE,data=azE",
        "m=7168,t=1,p=1,data=azE,keyid=azE",
        "m=7168,t=1,p=1,keyid=azE,keyid=azE",
        "keyid=azE,m=7168,t=1,p=1",
        "m=7168,t=1,p=1,KEYID=azE",
        "m=7168,t=1,p=1,keyid",
        "m=7168,t=1,p=1,keyid=",
        "m=7168,t=1,p=1,keyid=azE=",
        "m=7168,t=1,p=1,keyid=azF",
        "m=7168,t=1,p=1,keyid=k1",
        "m=7168,t=1,p=1,keyid=SzE",
        "m=7168,t=1,p=1,keyid=azE\u{e9}",
        "m=7168,t=1,p=1,keyid=YWJjZGVmZ2hp",
        "m=7168,t=1,p=1,keyid=/////w",
    ];
    for parameters in wrong {
        assert_eq!(ruling(&argon2id(parameters)), Err(HashError::Malformed), "{parameters}");
    }
}

/// An hmac-sha256 string names its kid, and nothing else.
#[test]
fn hmac_parameters_are_one_kid() {
    assert_eq!(ruling(&hmac("kid=k1")), Ok(()));
    assert_eq!(ruling(&hmac("kid=prod2026")), Ok(()));
    for parameters in ["", "kid", "kid=", "kid=K1", "kid=k1,kid=k1", "kid=k1,", "keyid=azE", "k1"]
        .into_iter()
        .chain(["KID=k1", "kid= k1", "kid=prod20261", "kid=k1\0", "kid=é"])
    {
        assert_eq!(ruling(&hmac(parameters)), Err(HashError::Malformed), "{parameters}");
    }
}

/// Other schemes and other versions of ours are named as such.
#[test]
fn other_schemes_are_refused() {
    let rest = format!("${}${}", zeros(16), zeros(32));
    let wrong = [
        "$argon2i$v=19$m=7168,t=1,p=1",
        "$argon2d$v=19$m=7168,t=1,p=1",
        "$ARGON2ID$v=19$m=7168,t=1,p=1",
        "$argon2id$v=16$m=7168,t=1,p=1",
        "$argon2id$v=0$m=7168,t=1,p=1",
        "$argon2id$v=019$m=7168,t=1,p=1",
        "$argon2id$v=+19$m=7168,t=1,p=1",
        "$argon2id$v=$m=7168,t=1,p=1",
        "$argon2id$V=19$m=7168,t=1,p=1",
        "$argon2id$m=7168,t=1,p=1",
        "$hmac-sha256$v=2$kid=k1",
        "$hmac-sha256$v=19$kid=k1",
        "$hmac-sha512$v=1$kid=k1",
        "$hmac-sha256$kid=k1",
        "$argon2id$v=1$kid=k1",
        "$2b$12$abcdefghijklmnopqrstuv",
        "$scrypt$ln=14,r=8,p=1",
        "$$v=1$kid=k1",
    ];
    for head in wrong {
        assert_eq!(ruling(&format!("{head}{rest}")), Err(HashError::Scheme), "{head}");
    }
}

/// The tag has 32 bytes; the salt 16 in ours, and 8 to 64 in an argon2id string from elsewhere.
#[test]
fn salt_and_tag_have_their_lengths() {
    for salt in 0..=80 {
        let own = format!("$hmac-sha256$v=1$kid=k1${}${}", zeros(salt), zeros(32));
        assert_eq!(ruling(&own).is_ok(), salt == 16, "{salt}");
        let foreign = format!("$argon2id$v=19$m=7168,t=1,p=1${}${}", zeros(salt), zeros(32));
        assert_eq!(ruling(&foreign).is_ok(), (8..=64).contains(&salt), "{salt}");
    }
    for tag in (0..=64).filter(|tag| *tag != 32) {
        let own = format!("$hmac-sha256$v=1$kid=k1${}${}", zeros(16), zeros(tag));
        assert_eq!(ruling(&own), Err(HashError::Malformed), "{tag}");
        let foreign = format!("$argon2id$v=19$m=7168,t=1,p=1${}${}", zeros(16), zeros(tag));
        assert_eq!(ruling(&foreign), Err(HashError::Malformed), "{tag}");
    }
}

/// Salt and tag are B64 without padding, of one alphabet, and with no spare bit set.
#[test]
fn b64_is_canonical() {
    let (salt, tag) = (zeros(16), zeros(32));
    let wrong = [
        (format!("{salt}=="), tag.clone()),
        (salt.clone(), format!("{tag}=")),
        (format!("{}B", zeros(15) + "A"), tag.clone()),
        (salt.clone(), format!("{}B", &tag[1..])),
        (salt.replacen('A', "-", 1), tag.clone()),
        (salt.clone(), tag.replacen('A', "_", 1)),
        (salt.replacen('A', " ", 1), tag.clone()),
        (salt.clone(), format!("{tag}\n")),
        (salt.replacen('A', "\u{e9}", 1), tag.clone()),
        (format!("{salt}AAA"), tag.clone()),
    ];
    for (salt, tag) in wrong {
        for head in ["$hmac-sha256$v=1$kid=k1", "$argon2id$v=19$m=7168,t=1,p=1"] {
            let stored = format!("{head}${salt}${tag}");
            assert_eq!(ruling(&stored), Err(HashError::Malformed), "{stored}");
        }
    }
}

/// A field more or less, anything in front or behind, is malformed.
#[test]
fn fields_are_neither_more_nor_fewer() {
    for whole in [hmac("kid=k1"), argon2id("m=7168,t=1,p=1")] {
        assert_eq!(ruling(&whole), Ok(()));
        for cut in 0..whole.len() {
            assert!(ruling(&whole[..cut]).is_err(), "{cut}");
        }
        for wrong in [
            format!("{whole}$"),
            format!("{whole}$AAAA"),
            format!("{whole}\n"),
            format!("{whole}\0"),
            format!(" {whole}"),
            format!("x{whole}"),
            whole[1..].to_owned(),
            format!("{whole}{whole}"),
        ] {
            assert_eq!(ruling(&wrong), Err(HashError::Malformed), "{wrong}");
        }
        assert_eq!(ruling(&format!("${whole}")), Err(HashError::Scheme));
    }
}

/// What is longer than any string that the policy accepts is refused unread.
#[test]
fn long_strings_are_refused() {
    let longest =
        format!("$argon2id$v=19$m=131072,t=10,p=4,keyid=cHJvZDIwMjY${}${}", zeros(64), zeros(32));
    assert_eq!(ruling(&longest), Ok(()));
    assert_eq!(longest.len(), 181);
    for len in [257, 4096, 1 << 20] {
        assert_eq!(ruling(&"$".repeat(len)), Err(HashError::Malformed));
    }
    let mut padded = "$argon2id$v=19$m=7168,t=1,p=1".to_owned();
    (0..1000).for_each(|n| write!(padded, ",keyid={n}").unwrap());
    assert_eq!(ruling(&padded), Err(HashError::Malformed));
}

/// A cost cannot be made outside the policy either.
#[test]
fn costs_are_within_the_policy() {
    for (memory, iterations, parallelism) in [(7168, 1, 1), (131_072, 10, 4)] {
        assert!(Cost::new(memory, iterations, parallelism).is_ok());
    }
    for (memory, iterations, parallelism) in [
        (7167, 1, 1),
        (131_073, 1, 1),
        (7168, 0, 1),
        (7168, 11, 1),
        (7168, 1, 0),
        (7168, 1, 5),
        (0, 0, 0),
        (u32::MAX, u32::MAX, u32::MAX),
    ] {
        assert_eq!(Cost::new(memory, iterations, parallelism), Err(HashError::Cost));
    }
}
