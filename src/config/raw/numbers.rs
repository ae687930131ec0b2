//! Numbers with and without units: whole numbers, durations, sizes.
//!
//! Called by the walks. Each is a value parser as [`super::item`] describes: it records what is wrong itself.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::item::Item;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The units of a duration in milliseconds, largest first.
const DURATIONS: [(&str, u64); 5] = [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1)];
/// The units of a size in bytes, largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// The longest duration that any key takes.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// The shortest useful timeout.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);

/// A whole number in `range`.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&Item<'_>) -> Option<T>
where
    T: TryFrom<i128> + PartialOrd + Display + Copy,
{
    move |item| {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        if !item.value.get_ref().is_integer() {
            return item.refuse_type("an integer", allowed);
        }
        match integer(item).and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => item.refuse(format!("`{}` is out of range", item.key), allowed),
        }
    }
}

/// The integer of an item, if it is one and fits.
fn integer(item: &Item<'_>) -> Option<i128> {
    match item.value.get_ref() {
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix()).ok(),
        _ => None,
    }
}

/// A duration in `range`: `250ms`, `10s`, `1h30m`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Item<'_>) -> Option<Duration> {
    move |item| {
        let allowed = format!(
            "a duration from {} to {}, such as \"250ms\", \"10s\", \"5m\", \"1h30m\", \"2d\"",
            show_duration(*range.start()),
            show_duration(*range.end())
        );
        if item.value.get_ref().is_integer() {
            return item.refuse(format!("`{}` needs a unit", item.key), allowed);
        }
        let Some(duration) = parse_duration(item.text(&allowed)?) else {
            return item.refuse(format!("`{}` is not a duration", item.key), allowed);
        };
        match range.contains(&duration) {
            true => Some(duration),
            false => item.refuse(format!("`{}` is out of range", item.key), allowed),
        }
    }
}

/// One or more numbers with units, each unit once, larger ones first.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = DURATIONS.iter();
    let mut total = 0u64;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*millis)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(Duration::from_millis(total))
}

/// A size in bytes in `range`: `64KiB`, `4 MiB`, or a bare integer.
pub(super) fn size<T>(range: RangeInclusive<T>) -> impl Fn(&Item<'_>) -> Option<T>
where
    T: TryFrom<u64> + TryInto<u64> + PartialOrd + Copy,
{
    move |item| {
        let [from, to] = [*range.start(), *range.end()].map(|end| end.try_into().map_or(String::new(), show_size));
        let allowed = format!("a size from {from} to {to}, such as 65536, \"64KiB\", \"4 MiB\", \"1GiB\"");
        let bytes = match item.value.get_ref().is_integer() {
            true => integer(item).and_then(|bytes| u64::try_from(bytes).ok()),
            false => match parse_size(item.text(&allowed)?) {
                Some(bytes) => Some(bytes),
                None => return item.refuse(format!("`{}` is not a size", item.key), allowed),
            },
        };
        match bytes.and_then(|bytes| T::try_from(bytes).ok()).filter(|bytes| range.contains(bytes)) {
            Some(bytes) => Some(bytes),
            None => item.refuse(format!("`{}` is out of range", item.key), allowed),
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let unit = unit.trim_start();
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// The digits at the start of `text` and the rest.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, &DURATIONS, "0s")
}

/// Bytes in the largest unit that leaves no rest.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "0B")
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    match units.iter().find(|(_, unit)| value >= *unit && value.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", value / unit),
        None => zero.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units() {
        let cases =
            [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h30m", 5_400_000), ("2d", 172_800_000), ("0s", 0)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "10 s", "10S", "-1s", "1.5s", "1s1s", "1m1h", "1s ", "99999999999999999999s", "1sé"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [("64KiB", 65_536), ("4 MiB", 4 << 20), ("1GiB", 1 << 30), ("17B", 17)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "64", "64K", "64KB", "KiB", "64kib", "1.5MiB", "-1B", "99999999999GiB", "1KiB1B"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_what_is_read(value in any::<u32>()) {
            let duration = Duration::from_millis(u64::from(value));
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(u64::from(value))), Some(u64::from(value)));
        }

        #[test]
        fn any_text_is_a_number_or_none(text in "\\PC{0,20}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
