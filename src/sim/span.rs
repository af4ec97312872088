//! Times as people write them in a scenario: `5ms`, `1.5s`, and ranges of them: `100us..5ms`.
//!
//! Invariant: what is printed reads back as the same value.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units, the largest first, in nanoseconds.
const UNITS: [(&str, u64); 5] =
    [("min", 60_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1), ("s", 1_000_000_000)];

/// Why text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time such as 5ms, 1.5s or 100us..5ms")]
pub struct SpanError(String);

/// From this long to that long; the end is not included unless both are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// At least.
    pub from: Duration,
    /// Less than.
    pub to: Duration,
}

impl Span {
    /// Always the same.
    #[must_use]
    pub const fn always(time: Duration) -> Self {
        Self { from: time, to: time }
    }
}

impl From<Range<Duration>> for Span {
    fn from(range: Range<Duration>) -> Self {
        Self { from: range.start, to: range.end.max(range.start) }
    }
}

/// Reads one time.
pub fn parse(text: &str) -> Result<Duration, SpanError> {
    let error = || SpanError(text.to_owned());
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(error)?);
    let nanos = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(error)?.1;
    let (whole, part) = number.trim().split_once('.').unwrap_or((number.trim(), ""));
    let whole: u64 = whole.parse().map_err(|_| error())?;
    let digits = u32::try_from(part.len()).ok().filter(|digits| *digits <= 9).ok_or_else(error)?;
    let part: u64 = if part.is_empty() { 0 } else { part.parse().map_err(|_| error())? };
    let part = part.checked_mul(nanos).ok_or_else(error)? / 10_u64.pow(digits);
    let total = whole.checked_mul(nanos).and_then(|whole| whole.checked_add(part)).ok_or_else(error)?;
    Ok(Duration::from_nanos(total))
}

/// Writes one time in the largest unit in which it is whole.
#[must_use]
pub fn format(time: Duration) -> String {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let fits = |unit: u64| nanos >= unit && nanos.is_multiple_of(unit);
    let by_size = [("min", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];
    let unit = by_size.into_iter().find(|(_, unit)| fits(*unit));
    unit.map_or_else(
        || if nanos == 0 { "0s".to_owned() } else { format!("{nanos}ns") },
        |(name, unit)| format!("{}{name}", nanos / unit),
    )
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        match text.split_once("..") {
            None => Ok(Self::always(parse(text)?)),
            Some((from, to)) => {
                let (from, to) = (parse(from)?, parse(to)?);
                if from > to { Err(SpanError(text.to_owned())) } else { Ok(Self { from, to }) }
            }
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(self.from))?;
        if self.to > self.from { write!(f, "..{}", format(self.to)) } else { Ok(()) }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// For single times in a serde type: `#[serde(with = "span::one")]`.
pub(super) mod one {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::sim) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*time))
    }

    pub(in crate::sim) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_read_as_people_write_them() {
        let ms = Duration::from_millis;
        assert_eq!(parse("1.5s"), Ok(ms(1500)));
        assert_eq!(parse("5 min"), Ok(ms(300_000)));
        assert_eq!("100us..5ms".parse(), Ok(Span { from: ms(1) / 10, to: ms(5) }));
        assert_eq!("3ms".parse(), Ok(Span::always(ms(3))));
        for wrong in ["", "5", "ms", "5 parsecs", "-1s", "5ms..1ms", "1.2.3s", "99999999999999min", "1.5.s", "..1s"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(from in any::<u32>(), more in any::<u32>()) {
            let from = Duration::from_nanos(from.into());
            let span = Span { from, to: from + Duration::from_nanos(more.into()) };
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn garbage_is_refused_and_never_panics(text in "[0-9a-z. ]{0,24}") {
            let _ = text.parse::<Span>();
        }
    }
}
