//! RFC 3339 time stamps in UTC with microseconds, in the form that the log has too. Called when a line is formatted.

use std::time::{SystemTime, UNIX_EPOCH};

/// Appends `2026-11-22T23:07:03.000001Z`. A clock before 1970 is written as 1970.
pub fn push(line: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    push_padded(line, year, 4);
    line.push(b'-');
    push_padded(line, month, 2);
    line.push(b'-');
    push_padded(line, day, 2);
    line.push(b'T');
    push_padded(line, second / 3600, 2);
    line.push(b':');
    push_padded(line, second / 60 % 60, 2);
    line.push(b':');
    push_padded(line, second % 60, 2);
    line.push(b'.');
    push_padded(line, since.subsec_micros().into(), 6);
    line.push(b'Z');
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar. Counts in eras of 400 years whose years
/// begin in March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Appends a number in decimal.
pub fn push_number(line: &mut Vec<u8>, number: u64) {
    push_padded(line, number, 1);
}

/// Appends a number in decimal with leading zeros up to `width`.
fn push_padded(line: &mut Vec<u8>, mut number: u64, width: usize) {
    let start = line.len();
    loop {
        let digit = u8::try_from(number % 10).unwrap_or_default();
        line.push(b'0' + digit);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    while line.len() < start + width {
        line.push(b'0');
    }
    if let Some(digits) = line.get_mut(start..) {
        digits.reverse();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stamp(micros: u64) -> String {
        let mut line = Vec::new();
        push(&mut line, UNIX_EPOCH + Duration::from_micros(micros));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn known_moments_are_written_right() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(stamp(951_782_399_999_999), "2000-02-28T23:59:59.999999Z");
        assert_eq!(stamp(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(stamp(951_868_800_000_000), "2000-03-01T00:00:00.000000Z");
        assert_eq!(stamp(1_795_388_823_000_001), "2026-11-22T23:07:03.000001Z");
        assert_eq!(stamp(4_107_542_400_000_000), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn every_day_for_six_centuries_follows_the_one_before() {
        let mut before = civil(0);
        for day in 1..220_000 {
            let now = civil(day);
            let same_month = now == (before.0, before.1, before.2 + 1);
            let next_month = now == (before.0, before.1 + 1, 1) && before.2 >= 28;
            let next_year = now == (before.0 + 1, 1, 1) && (before.1, before.2) == (12, 31);
            assert!(same_month || next_month || next_year, "{before:?} then {now:?}");
            before = now;
        }
        assert_eq!(before.0, 2572);
    }

    #[test]
    fn numbers_have_no_bound() {
        for (number, text) in [(0, "0"), (7, "7"), (10, "10"), (u64::MAX, "18446744073709551615")] {
            let mut line = Vec::new();
            push_number(&mut line, number);
            assert_eq!(line, text.as_bytes());
        }
    }
}
