//! Durations as Gateway API writes them (GEP-2257).

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::patterns::DURATION;

const RULE: &str = "must be a duration such as 10s, 1h30m or 500ms: one to four numbers of at most five digits, \
                       each with a unit of h, m, s or ms";

/// A span of time such as `10s`, `1h30m` or `500ms` (GEP-2257). `0s` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(std::time::Duration);

/// A string that is not a GEP-2257 duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} {RULE}")]
pub struct DurationError(String);

impl Duration {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// As a duration of the standard library.
    #[must_use]
    pub const fn to_std(self) -> std::time::Duration {
        self.0
    }

    /// The limit that this duration sets: `None` for `0s`, which means "no limit" throughout the API.
    #[must_use]
    pub fn limit(self) -> Option<std::time::Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || DurationError(text.chars().take(64).collect());
        let mut total = std::time::Duration::ZERO;
        let mut rest = text;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let unit_length = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(unit_length);
            parts += 1;
            if !(1..=5).contains(&digits) || parts > 4 {
                return Err(fault());
            }
            let number: u64 = number.parse().map_err(|_| fault())?;
            total += match unit {
                "h" => std::time::Duration::from_secs(number * 3600),
                "m" => std::time::Duration::from_secs(number * 60),
                "s" => std::time::Duration::from_secs(number),
                "ms" => std::time::Duration::from_millis(number),
                _ => return Err(fault()),
            };
            rest = tail;
        }
        if parts == 0 {
            return Err(fault());
        }
        Ok(Self(total))
    }
}

impl TryFrom<String> for Duration {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let mut rest = milliseconds;
        for (unit, size) in units {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        if milliseconds == 0 {
            f.write_str("0s")?;
        }
        Ok(())
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{ "rule": format!("self.matches('{DURATION}')"), "message": RULE }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_gateway_api_writes_them() {
        let cases = [("0s", 0), ("10s", 10_000), ("1h30m", 5_400_000), ("500ms", 500), ("1h1m1s1ms", 3_661_001)];
        for (text, milliseconds) in cases {
            assert_eq!(text.parse::<Duration>().unwrap().to_std().as_millis(), milliseconds, "{text}");
        }
    }

    #[test]
    fn other_spellings_of_time_are_refused() {
        for text in ["", "10", "-1s", "1.5s", "s", "1d", "100000s", "1h1m1s1ms1s", "1 s", "10S", "1h ", "1µs"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_prints_as_it_may_be_written() {
        for text in ["0s", "10s", "1h30m", "500ms", "1m1s500ms"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
    }
}
