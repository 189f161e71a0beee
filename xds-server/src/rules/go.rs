//! What Go's `strconv.Atoi`, `strconv.Quote`, `net.SplitHostPort` and `net.JoinHostPort` do, as far as rules need it.
//! Upstream's grammar is defined by them; their documentation is at <https://pkg.go.dev/strconv> and
//! <https://pkg.go.dev/net>.

use std::fmt::{self, Write as _};

/// A failed [`atoi`]; displays as Go's `*NumError`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AtoiError<'a> {
    text: &'a str,
    reason: &'static str,
}

impl fmt::Display for AtoiError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "strconv.Atoi: parsing {}: {}", Quoted(self.text), self.reason)
    }
}

/// Decimal text with an optional sign, as a 64-bit `int`. Leading zeros are fine; underscores, spaces, and prefixes
/// such as `0x` are not.
pub(super) fn atoi(text: &str) -> Result<i64, AtoiError<'_>> {
    let error = |reason| AtoiError { text, reason };
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(error("invalid syntax"));
    }
    // Go reads an unsigned 64-bit number from left to right and stops at the first thing wrong: an overflow before a
    // letter is "out of range", a letter before an overflow is "invalid syntax".
    let mut magnitude: u64 = 0;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return Err(error("invalid syntax"));
        }
        magnitude = magnitude
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(byte - b'0')))
            .ok_or_else(|| error("value out of range"))?;
    }
    let value = if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() };
    value.ok_or_else(|| error("value out of range"))
}

/// Splits `host:port`, `[host]:port` and `[host%zone]:port`; the host comes without its brackets. Neither part is
/// looked at any closer, both may be empty. The error is Go's reason without the `address X: ` before it.
pub(super) fn split_host_port(text: &str) -> Result<(&str, &str), &'static str> {
    const MISSING_PORT: &str = "missing port in address";
    const TOO_MANY_COLONS: &str = "too many colons in address";

    let (before, port) = text.rsplit_once(':').ok_or(MISSING_PORT)?;
    let host = if let Some(bracketed) = text.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or("missing ']' in address")?;
        match after.strip_prefix(':') {
            // The bracket must end just before the last colon.
            Some(rest) if !rest.contains(':') => {}
            Some(_) => return Err(TOO_MANY_COLONS),
            None => return Err(MISSING_PORT),
        }
        if host.contains('[') || port.contains('[') {
            return Err("unexpected '[' in address");
        }
        if port.contains(']') {
            return Err("unexpected ']' in address");
        }
        return Ok((host, port));
    } else {
        before
    };
    if host.contains(':') {
        return Err(TOO_MANY_COLONS);
    }
    if text.contains('[') {
        return Err("unexpected '[' in address");
    }
    if text.contains(']') {
        return Err("unexpected ']' in address");
    }
    Ok((host, port))
}

/// `host:port`, with brackets when the host contains a colon.
pub(super) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Displays as `strconv.Quote` writes it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\x07' => f.write_str("\\a")?,
                '\x08' => f.write_str("\\b")?,
                '\x0c' => f.write_str("\\f")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\x0b' => f.write_str("\\v")?,
                c if is_printable(c) => f.write_char(c)?,
                c if c.is_ascii() => write!(f, "\\x{:02x}", u32::from(c))?,
                c if u32::from(c) < 0x1_0000 => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "\\U{:08x}", u32::from(c))?,
            }
        }
        f.write_char('"')
    }
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols, and of all spaces only U+0020.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    // Rust's debug escapes follow the same categories. A mark is left alone only after another character.
    let mut buffer = [0; 8];
    buffer[0] = b'a';
    let length = 1 + c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..length]).is_ok_and(|text| text.escape_debug().eq(text.chars()))
}
