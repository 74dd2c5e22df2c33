//! Times for people: how long ago, and since when.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// `--since`: so long ago, or a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Ago(SignedDuration),
    At(Timestamp),
}

impl Since {
    /// The moment, seen from `now`.
    pub(crate) fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(Timestamp::MIN),
            Self::At(moment) => moment,
        }
    }

    fn parse(text: &str, zone: &TimeZone) -> Result<Self, String> {
        let wrong = || {
            "say how long ago (90s, 30m, 12h, 7d, 2w), a date (2026-11-20) or a time (RFC 3339)"
                .to_owned()
        };
        if let Some(duration) = ago(text) {
            return Ok(Self::Ago(duration));
        }
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Self::At(moment));
        }
        // Without an offset it is the user's own clock that is meant.
        let civil = match text.parse::<Date>() {
            Ok(date) if text.len() <= "2026-11-20".len() => date.at(0, 0, 0, 0),
            _ => text.parse::<DateTime>().map_err(|_| wrong())?,
        };
        zone.to_timestamp(civil).map(Self::At).map_err(|_| wrong())
    }
}

/// A length of time, such as `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) std::time::Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = ago(text).or_else(|| (text == "0").then_some(SignedDuration::ZERO));
        let unsigned = parsed.and_then(|span| std::time::Duration::try_from(span).ok());
        unsigned
            .map(Self)
            .ok_or_else(|| "say 0, 90s, 30m, 24h, 7d or 2w".to_owned())
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        let (count, unit) = match seconds {
            0..60 => (seconds, "s"),
            60..3600 => (seconds / 60, "m"),
            3600..172_800 => (seconds / 3600, "h"),
            _ => (seconds / 86_400, "d"),
        };
        write!(f, "{count}{unit}")
    }
}

impl FromStr for Since {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, &TimeZone::system())
    }
}

fn ago(text: &str) -> Option<SignedDuration> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        'w' => 7 * 24 * 60 * 60,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(SignedDuration::from_secs(
        digits.parse::<i64>().ok()?.checked_mul(unit)?,
    ))
}

/// How long ago a stored time was, in its largest unit.
pub(crate) fn age(then: &str, now: Timestamp) -> String {
    let Ok(then) = then.parse::<Timestamp>() else {
        return "?".to_owned();
    };
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A stored time, to the second.
pub(crate) fn day_and_time(stored: &str) -> String {
    match stored.parse::<Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => super::printable(stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(text: &str) -> Result<Timestamp, String> {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        Since::parse(text, &zone)
            .map(|since| since.from("2026-11-20T12:00:00Z".parse().expect("a time")))
    }

    #[test]
    fn since_takes_durations_dates_and_times() {
        for (text, moment) in [
            ("90s", "2026-11-20T11:58:30Z"),
            ("30m", "2026-11-20T11:30:00Z"),
            ("12h", "2026-11-20T00:00:00Z"),
            ("7d", "2026-11-13T12:00:00Z"),
            ("2w", "2026-11-06T12:00:00Z"),
            ("2026-11-20", "2026-11-19T22:00:00Z"),
            ("2026-11-20T10:00", "2026-11-20T08:00:00Z"),
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"),
            ("2026-11-20T10:00:00+01:00", "2026-11-20T09:00:00Z"),
        ] {
            assert_eq!(since(text), Ok(moment.parse().expect("a time")), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_forms_that_are() {
        for text in [
            "",
            "7",
            "d",
            "-7d",
            "7 d",
            "7y",
            "yesterday",
            "2026-13-01",
            "99999999999999999999d",
            "ä",
        ] {
            assert!(since(text).is_err_and(|e| e.contains("7d")), "{text}");
        }
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let now = "2026-11-20T12:00:00Z".parse().expect("a time");
        for (then, text) in [
            ("2026-11-20T11:59:18Z", "42s"),
            ("2026-11-20T11:58:00Z", "2m"),
            ("2026-11-19T13:00:00Z", "23h"),
            ("2026-11-10T12:00:00Z", "10d"),
            ("2026-11-20T13:00:00Z", "0s"),
            ("soon", "?"),
        ] {
            assert_eq!(age(then, now), text);
        }
    }
}
