//! Durations as people write them: in flags, and in the options of a rule.

use std::time::Duration;

/// The longest that is taken.
pub(crate) const MAX: Duration = Duration::from_secs(3600);

/// The shortest idle time that is taken: the module's limit.
const MIN_IDLE: Duration = Duration::from_millis(100);

const FORM: &str = "write it like 10s, 500ms or 2m";

/// A number with `ms`, `s`, `m` or nothing (seconds) after it; at most [`MAX`].
///
/// # Errors
/// The reason, as it stands behind the name of a flag or an option.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        _ => return Err(FORM.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| FORM.to_owned())?;
    let duration = Duration::from_millis(number.saturating_mul(milliseconds));
    if duration > MAX { Err("at most an hour".to_owned()) } else { Ok(duration) }
}

/// An idle time: [`parse`], but not less than a tenth of a second.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_idle(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration < MIN_IDLE { Err("at least 100ms".to_owned()) } else { Ok(duration) }
}

/// The shortest text that [`parse`] reads as this duration, in seconds or milliseconds.
pub(crate) fn text(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("60m"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "s", "-1s", "1.5s", "61m", "99999999999999999999s", "18446744073709551615m"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_idle_time_is_not_too_short() {
        assert_eq!(parse_idle("100ms"), Ok(MIN_IDLE));
        assert_eq!(parse_idle("99ms"), Err("at least 100ms".to_owned()));
    }

    #[test]
    fn a_text_reads_back() {
        for (duration, expected) in [("2m", "120s"), ("1500ms", "1500ms"), ("3000ms", "3s"), ("0", "0s")] {
            let parsed = parse(duration);
            assert_eq!(parsed.clone().map(text), Ok(expected.to_owned()));
            assert_eq!(parse(expected), parsed);
        }
    }
}
