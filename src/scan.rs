//! Finds tokens anywhere in bytes: in text, in UTF-16, and in the midst of what is neither.
//! Knows the token format; neither files nor Python.

use core::ops::Range;

use zeroize::Zeroizing;

use crate::token::{
    self, BODY_LEN, KEY_ID_LEN, MAX_PREFIX_LEN, MAX_TOKEN_LEN, Prefix, Token, all, is_base32,
};

/// `_`, key id and `_`: what stands between a prefix and the last 55 characters, at the least.
const MIDDLE_LEN: usize = 1 + KEY_ID_LEN + 1;
/// Most words are shorter.
const NEAR: usize = 12;
/// The bytes of the longest token there is, in UTF-16, if each `_` is written as `%5F`. So many are
/// kept of what was searched, for tokens that lie across the edge of a buffer.
const OVERLAP: usize = 2 * (MAX_TOKEN_LEN + 2 * (MAX_PREFIX_LEN + 2));
/// Fits into the second-level cache of a core: three searches go over it.
const BUFFER_LEN: usize = 256 * 1024;

/// What is looked for.
#[derive(Default)]
pub struct Wanted {
    /// Tokens of these prefixes; of any, if there is none.
    pub prefixes: Vec<String>,
    /// Whether what has a token's shape, and a wrong checksum, is found as well.
    pub look_alikes: bool,
}

/// A token that was found, or what looks like one.
pub struct Hit {
    /// Its text. A secret.
    text: Zeroizing<String>,
    prefix_len: usize,
    /// Whether its checksum is right.
    pub genuine: bool,
    /// Whether it stands in UTF-16.
    pub wide: bool,
    /// Where it begins, in bytes.
    pub start: u64,
    end: usize,
    /// The line that it is in, counted from 1; 0 where there are no lines.
    pub line: u64,
    /// The character of the line that it begins with, counted from 1.
    pub column: u64,
}

impl Hit {
    /// The whole text. A secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What stands before the key id.
    pub fn prefix(&self) -> &str {
        self.text.get(..self.prefix_len).unwrap_or_default()
    }

    /// The key id that it names.
    pub fn key_id(&self) -> &str {
        let start = self.prefix_len + 1;
        self.text.get(start..start + KEY_ID_LEN).unwrap_or_default()
    }

    /// The token, if it is one.
    pub fn token(&self) -> Option<Token> {
        Token::parse(&self.text).ok()
    }
}

/// Characters of one byte each, or of `STEP` bytes of which the others are zero.
#[derive(Clone, Copy)]
struct View<'a, const STEP: usize> {
    bytes: &'a [u8],
    first: usize,
}

impl<const STEP: usize> View<'_, STEP> {
    fn len(self) -> usize {
        self.bytes.len().saturating_sub(self.first).div_ceil(STEP)
    }

    fn at(self, index: usize) -> Option<u8> {
        self.bytes.get(self.first + index * STEP).copied()
    }

    /// A character that another one follows, if it is one.
    fn inner(self, index: usize) -> Option<u8> {
        let end = self.first + (index + 1) * STEP;
        let padding = self.bytes.get(end + 1 - STEP..end)?;
        padding.iter().all(|byte| *byte == 0).then(|| self.at(index)).flatten()
    }

    /// Finds every token. The last 55 characters of one are letters and digits behind a `_`. So of
    /// any 55 characters the last other one tells: if it is a `_`, a token may have its last 55
    /// behind it, and if not, behind the next 55 at the earliest. It is looked for from the right,
    /// where it is near in most texts. A `_` may be escaped, as in a URL.
    fn search(self, wanted: &Wanted, hits: &mut Vec<Hit>) {
        let mut body = 1 + MIDDLE_LEN;
        while body + BODY_LEN <= self.len() {
            let last = body + BODY_LEN - 1;
            body = match self.last_other(body, last) {
                Some(other) => self.behind_underscore(other).unwrap_or(last + 2),
                None => match self.behind_underscore(body - 1) {
                    Some(behind) if behind > body => behind,
                    _ => {
                        hits.extend(self.hit(body, wanted));
                        last + 2
                    }
                },
            };
        }
    }

    /// Where a `_` ends that begins there, if one does.
    fn behind_underscore(self, start: usize) -> Option<usize> {
        match self.inner(start)? {
            b'_' => Some(start + 1),
            b'%' if self.inner(start + 1)? == b'5'
                && matches!(self.inner(start + 2)?, b'F' | b'f') =>
            {
                Some(start + 3)
            }
            _ => None,
        }
    }

    /// Where a `_` begins that ends there, if one does.
    fn before_underscore(self, end: usize) -> Option<usize> {
        [1, 3]
            .into_iter()
            .filter_map(|len| end.checked_sub(len))
            .find(|start| self.behind_underscore(*start) == Some(end))
    }

    /// The last character in there that is neither a letter nor a digit.
    fn last_other(self, body: usize, last: usize) -> Option<usize> {
        let is_other = |index: &usize| {
            let byte = if *index == last { self.at(*index) } else { self.inner(*index) };
            !byte.is_some_and(|byte| byte.is_ascii_alphanumeric())
        };
        let near = last - NEAR;
        if let Some(other) = (near..=last).rev().find(is_other) {
            return Some(other);
        }
        if STEP == 1 && all(self.bytes.get(body..near)?, |byte| byte.is_ascii_alphanumeric()) {
            return None; // all of them at once, for long runs of them are common, too
        }
        (body..near).rev().find(is_other)
    }

    /// The token whose last 55 characters begin there, if one is wanted.
    fn hit(self, body: usize, wanted: &Wanted) -> Option<Hit> {
        let key_id_end = self.before_underscore(body)?;
        let key_id = key_id_end.checked_sub(KEY_ID_LEN)?..key_id_end;
        if !key_id.clone().all(|index| self.inner(index).is_some_and(is_base32)) {
            return None;
        }
        let mut begin = self.before_underscore(key_id.start)?;
        let mut head = Vec::new();
        while head.len() < MAX_PREFIX_LEN {
            let underscore = self.before_underscore(begin).map(|start| (start, b'_'));
            let letter = || {
                let start = begin.checked_sub(1)?;
                Some((start, self.inner(start).filter(u8::is_ascii_alphanumeric)?))
            };
            let Some(before) = underscore.or_else(letter) else { break };
            begin = before.0;
            head.push(before);
        }
        head.reverse();
        let (starts, prefix): (Vec<usize>, Vec<u8>) = head.into_iter().unzip();
        let bytes = |range: Range<usize>| range.filter_map(|index| self.at(index));
        let secret = bytes(body..body + BODY_LEN);
        let prefix_len = prefix.len();
        let text: Zeroizing<String> = Zeroizing::new(
            (prefix.into_iter().chain([b'_']).chain(bytes(key_id)).chain([b'_']).chain(secret))
                .map(char::from)
                .collect(),
        );
        let (skipped, genuine) = choose(&text, prefix_len, wanted)?;
        let start = self.first + starts.get(skipped)? * STEP;
        Some(Hit {
            text: Zeroizing::new(text.get(skipped..)?.to_owned()),
            prefix_len: prefix_len - skipped,
            genuine,
            wide: STEP > 1,
            start: start.try_into().unwrap_or(u64::MAX),
            end: self.first + (body + BODY_LEN - 1) * STEP + 1,
            line: 0,
            column: 0,
        })
    }
}

/// Tells how much of a text stands before the token's prefix, and whether it is a token. What
/// precedes a prefix may look like a part of it, as the `n` of an escaped line break does: the
/// checksum tells.
fn choose(text: &str, head_len: usize, wanted: &Wanted) -> Option<(usize, bool)> {
    let named = |prefix: &str| {
        wanted.prefixes.is_empty() || wanted.prefixes.iter().any(|known| known == prefix)
    };
    let mut candidates = (0..head_len).filter(|skipped| {
        text.get(*skipped..head_len).is_some_and(|prefix| Prefix::parse(prefix).is_ok())
    });
    let first_named = candidates.clone().find(|from| text.get(*from..head_len).is_some_and(named));
    if let Some(from) =
        candidates.find(|from| text.get(*from..).is_some_and(token::has_right_checksum))
    {
        return text.get(from..head_len).is_some_and(named).then_some((from, true));
    }
    first_named.filter(|_| wanted.look_alikes).map(|skipped| (skipped, false))
}

/// Finds every token in these bytes, in their order, without their lines.
pub fn find(bytes: &[u8], wanted: &Wanted) -> Vec<Hit> {
    let mut hits = Vec::new();
    View::<1> { bytes, first: 0 }.search(wanted, &mut hits);
    for first in [0, 1] {
        View::<2> { bytes, first }.search(wanted, &mut hits);
    }
    hits.sort_by_key(|hit| hit.start);
    hits
}

/// Lines and characters so far.
#[derive(Clone, Copy, Default)]
struct Place {
    lines: u64,
    characters: u64,
}

impl Place {
    /// Where these bytes end that follow.
    fn behind(self, bytes: &[u8]) -> Self {
        let last = bytes.iter().rposition(|byte| *byte == b'\n');
        let (whole, rest) = bytes.split_at(last.map_or(0, |last| last + 1));
        let lines = count(whole, |byte| byte == b'\n');
        // Of the bytes of a character in UTF-8 all but the first begin with the bits 10.
        let characters = count(rest, |byte| byte & 0b1100_0000 != 0b1000_0000);
        let before = if lines == 0 { self.characters } else { 0 };
        Self { lines: self.lines + lines, characters: before + characters }
    }
}

/// How many bytes pass: by numbers of a byte each, of which the processor adds up many at once.
fn count(bytes: &[u8], passes: impl Fn(u8) -> bool) -> u64 {
    let chunks = bytes.chunks(usize::from(u8::MAX));
    chunks
        .map(|chunk| chunk.iter().fold(0, |sum: u8, byte| sum + u8::from(passes(*byte))))
        .fold(0, |sum, part| sum + u64::from(part))
}

/// Finds the tokens in what comes piece by piece, such as a file.
pub struct Stream {
    buffer: Vec<u8>,
    /// How much of the buffer is in use, and how much of that was searched.
    filled: usize,
    searched: usize,
    /// What came before the buffer.
    before: u64,
    place: Place,
}

impl Stream {
    /// One that nothing has come of.
    pub fn new() -> Self {
        let buffer = vec![0; BUFFER_LEN];
        Self { buffer, filled: 0, searched: 0, before: 0, place: Place::default() }
    }

    /// Where the next bytes go.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }

    /// Takes so many bytes of the space, and searches them once there are many.
    pub fn take(&mut self, count: usize, wanted: &Wanted, hits: &mut Vec<Hit>) {
        self.filled = self.buffer.len().min(self.filled + count);
        if self.filled == self.buffer.len() {
            self.search(wanted, hits);
            self.make_space();
        }
    }

    /// Searches what is left, and begins anew.
    pub fn end(&mut self, wanted: &Wanted, hits: &mut Vec<Hit>) {
        self.search(wanted, hits);
        (self.filled, self.searched, self.before) = (0, 0, 0);
        self.place = Place::default();
    }

    fn search(&mut self, wanted: &Wanted, hits: &mut Vec<Hit>) {
        let bytes = self.buffer.get(..self.filled).unwrap_or_default();
        let (mut reached, mut place) = (0, self.place);
        for mut hit in find(bytes, wanted) {
            if hit.end <= self.searched {
                continue; // found before
            }
            let start = usize::try_from(hit.start).unwrap_or(usize::MAX);
            place = place.behind(bytes.get(reached..start).unwrap_or_default());
            reached = start;
            hit.line = place.lines + 1;
            hit.column = place.characters / (1 + u64::from(hit.wide)) + 1;
            hit.start += self.before;
            hits.push(hit);
        }
    }

    fn make_space(&mut self) {
        let gone = self.filled - OVERLAP;
        self.place = self.place.behind(self.buffer.get(..gone).unwrap_or_default());
        self.before += u64::try_from(gone).unwrap_or_default();
        self.buffer.copy_within(gone..self.filled, 0);
        (self.filled, self.searched) = (OVERLAP, OVERLAP);
    }
}
