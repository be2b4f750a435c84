//! Extraction of the credential from cookies and query strings, held against RFC 6265 and plain
//! readings of both.

use proptest::prelude::*;

use crate::headers::{Credential, MAX_CREDENTIAL_LEN, Refusal, Sources, SourcesError};
use crate::{cookies, query};

fn sources() -> Sources {
    let names = ["x-api-key".to_owned()];
    Sources::new(true, &names, Some("key".to_owned()), Some("key".to_owned())).ok().unwrap()
}

/// What is read out of `Cookie` headers with these values.
fn of_cookies(headers: &[&str]) -> Result<String, Refusal> {
    let sources = sources();
    let headers = headers.iter().map(|header| header.as_bytes());
    let found = sources.joined(Err(Refusal::Missing), headers, None);
    found.and_then(Credential::text).map(str::to_owned)
}

/// What is read out of a query string.
fn of_query(text: &str) -> Result<String, Refusal> {
    let sources = sources();
    let value = sources.of_query(text.as_bytes())?;
    let value = value.as_ref().map(|value| value.as_slice());
    let found = sources.joined(Err(Refusal::Missing), core::iter::empty(), value);
    found.and_then(Credential::text).map(str::to_owned)
}

/// Of all the cookies of a request, the one of that name; quotes around it are none of it.
#[test]
fn a_cookie_is_read_out_of_all_headers() {
    for headers in [
        &["key=abc"][..],
        &["a=b; key=abc; c=d"],
        &["a=b;key=abc;c=d"],
        &["a=b", "key=abc", "c=d"],
        &["key=\"abc\""],
        &["key=abc; key=abc", "key=\"abc\""],
        &["\t key=abc \t"],
        &["key=; key=abc; key=\"\""],
        &["a=\"; key=abc; b=\""], // which no cookie can swallow
        &["=; ;;key; KEY=x; keyy=x; ke=x; xkey=x; key =x; key=abc"],
    ] {
        assert_eq!(of_cookies(headers).as_deref(), Ok("abc"), "{headers:?}");
    }
    assert_eq!(of_cookies(&["key=a=b="]).as_deref(), Ok("a=b="));
}

/// What no cookie can be is invalid, and two that differ are ambiguous.
#[test]
fn a_cookie_that_is_none_is_refused() {
    let long = format!("key={}", "a".repeat(MAX_CREDENTIAL_LEN + 1));
    for header in ["key=\"", "key=\"abc", "key=abc\"", "key=a b", "key= abc", "key=a,b", "key=a\\b"]
    {
        assert_eq!(of_cookies(&[header]), Err(Refusal::Invalid), "{header}");
    }
    for header in ["key=\"\"abc\"\"", "key=\"a\"b\"", "key=ä", "key=\u{7f}", &long] {
        assert_eq!(of_cookies(&[header]), Err(Refusal::Invalid), "{header}");
    }
    for headers in [&["key=abc; key=abd"][..], &["key=abc", "key=ab"], &["key=abc; key=\""]] {
        assert_eq!(of_cookies(headers), Err(Refusal::Ambiguous), "{headers:?}");
    }
    for headers in [&[][..], &[""], &["key"], &["key="], &["key=\"\""], &["Key=abc"], &["a=key"]] {
        assert_eq!(of_cookies(headers), Err(Refusal::Missing), "{headers:?}");
    }
}

/// A parameter is read as forms have it, its name too.
#[test]
fn a_parameter_is_read_out_of_a_query_string() {
    for text in [
        "key=abc",
        "a=b&key=abc&c=d",
        "key=%61%62%63",
        "key=abc&key=%61bc",
        "%6Bey=abc",
        "key=&key=abc",
        "%=%&key=abc&%zz=x&key%=x&key&KEY=x&&=",
    ] {
        assert_eq!(of_query(text).as_deref(), Ok("abc"), "{text}");
    }
    assert_eq!(of_query("key=a=b=").as_deref(), Ok("a=b="));
    assert_eq!(of_query("key=a%2Bb").as_deref(), Ok("a+b"));
}

/// What is malformed is invalid, and two that differ are ambiguous, however they are written.
#[test]
fn a_parameter_that_is_none_is_refused() {
    let long = format!("key={}", "a".repeat(MAX_CREDENTIAL_LEN + 1));
    let escaped = format!("key={}", "%61".repeat(MAX_CREDENTIAL_LEN / 3 + 1));
    for text in
        ["key=%", "key=%4", "key=abc%zz", "key=%+1", "key=a+b", "key=a%20b", "key=%00", &long]
    {
        assert_eq!(of_query(text), Err(Refusal::Invalid), "{text}");
    }
    for text in ["key=%ff", "key=ä", "key=%C3%A4", &escaped] {
        assert_eq!(of_query(text), Err(Refusal::Invalid), "{text}");
    }
    for text in ["key=abc&key=abd", "key=abc&%6bey=x", "key=abc&key=%", "key=a&key=a&key=b"] {
        assert_eq!(of_query(text), Err(Refusal::Ambiguous), "{text}");
    }
    for text in ["", "key", "key=", "KEY=abc", "keys=abc", "a=key", "a;key=abc", "key%20=abc"] {
        assert_eq!(of_query(text), Err(Refusal::Missing), "{text}");
    }
}

/// Two sources that differ are ambiguous, whichever they are; one value everywhere is one.
#[test]
fn sources_that_differ_are_ambiguous() {
    let sources = sources();
    let read = |bearer: &'static [u8], cookie: &'static [u8], parameter: &'static [u8]| {
        let header = Sources::credential([(0, bearer)].into_iter());
        let parameter = Some(parameter).filter(|value| !value.is_empty());
        let found = sources.joined(header, [cookie].into_iter(), parameter);
        found.map(|credential| (credential.is_bearer_only(), credential.bytes().to_vec()))
    };
    let abc = |bearer_only| Ok((bearer_only, b"abc".to_vec()));
    assert_eq!(read(b"Bearer abc", b"key=abc", b"abc"), abc(false));
    assert_eq!(read(b"Bearer abc", b"", b""), abc(true));
    assert_eq!(read(b"Basic x", b"key=abc", b""), abc(false));
    assert_eq!(read(b"", b"", b"abc"), abc(false));
    assert_eq!(read(b"", b"", b""), Err(Refusal::Missing));
    for (bearer, cookie, parameter) in [
        (&b"Bearer abc"[..], &b"key=abd"[..], &b""[..]),
        (b"Bearer abc", b"", b"abd"),
        (b"Bearer", b"key=abc", b""),
        (b"", b"key=abc", b"abd"),
    ] {
        assert_eq!(read(bearer, cookie, parameter), Err(Refusal::Ambiguous));
    }
}

/// A name that could never be sent, or would need an escape, is refused when it is set up.
#[test]
fn names_that_are_none_are_refused() {
    let cookie = |name: &str| Sources::new(false, &[], Some(name.to_owned()), None).err();
    let parameter = |name: &str| Sources::new(false, &[], None, Some(name.to_owned())).err();
    for name in ["key", "__Host-key", "k.e_y", &"k".repeat(64)] {
        assert_eq!((cookie(name), parameter(name)), (None, None), "{name}");
    }
    for name in ["", "a b", "a=b", "a;b", "ä", "a\"", &"k".repeat(65)] {
        assert_eq!(
            (cookie(name), parameter(name)),
            (Some(SourcesError::Name), Some(SourcesError::Name))
        );
    }
    assert_eq!(parameter("a+b"), Some(SourcesError::Name));
    assert_eq!(Sources::new(false, &[], None, None).err(), Some(SourcesError::Nothing));
    let named = Sources::new(true, &["Cookie".to_owned()], Some("key".to_owned()), None);
    assert_eq!(named.err(), Some(SourcesError::Headers));
}

proptest! {
    /// Whatever stands in a cookie comes out of it, and no byte of a header brings it down.
    #[test]
    fn cookies_come_out_as_they_went_in(value in "[!#-+\\--:<-\\[\\]-~]{1,50}", around in any::<Vec<u8>>()) {
        let header = [b"key=".as_slice(), value.as_bytes()].concat();
        prop_assert_eq!(cookies::values(&header, b"key").collect::<Vec<_>>(), [value.as_bytes()]);
        for found in cookies::values(&around, b"key") {
            prop_assert!(found.iter().all(u8::is_ascii_graphic));
        }
    }

    /// The same for a parameter, with any of its bytes escaped.
    #[test]
    fn parameters_come_out_as_they_went_in(value in prop::collection::vec(any::<u8>(), 1..50), around in any::<Vec<u8>>()) {
        let escaped: Vec<String> = value.iter().map(|byte| format!("%{byte:02x}")).collect();
        let escaped = escaped.concat();
        let text = format!("a=b&key={escaped}");
        let found: Vec<_> = query::values(text.as_bytes(), b"key", MAX_CREDENTIAL_LEN).collect();
        prop_assert_eq!(found.iter().map(|each| each.as_slice()).collect::<Vec<_>>(), [value.as_slice()]);
        prop_assert!(query::values(&around, b"key", 8).all(|each| each.len() <= 8));
    }
}
