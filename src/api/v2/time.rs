//! Times as Go prints them.

const NS_OF_S: i64 = 1_000_000_000;
const S_OF_DAY: i64 = 86_400;

/// RFC 3339 in UTC, with as many digits of the nanoseconds as are not zero.
pub(super) fn rfc3339(ns: i64) -> String {
    let (seconds, nanos) = (ns.div_euclid(NS_OF_S), ns.rem_euclid(NS_OF_S));
    let (days, of_day) = (seconds.div_euclid(S_OF_DAY), seconds.rem_euclid(S_OF_DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{}Z", fraction(nanos))
}

/// ".05" for 50 million nanoseconds; nothing for 0.
fn fraction(nanos: i64) -> String {
    if nanos == 0 {
        return String::new();
    }
    let digits = format!("{nanos:09}");
    format!(".{}", digits.trim_end_matches('0'))
}

/// Year, month and day of a day counted from 1970-01-01, by counting from March on.
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// A time span: "1h2m3.5s", "2m0s", "350ms".
pub(super) fn span(ns: i64) -> String {
    let ns = ns.max(0);
    if ns == 0 {
        return "0s".to_owned();
    }
    if ns < NS_OF_S {
        let (unit, scale, digits) = match ns {
            0..1_000 => ("ns", 1, 0),
            1_000..1_000_000 => ("\u{b5}s", 1_000, 3),
            _ => ("ms", 1_000_000, 6),
        };
        let rest = format!("{:0digits$}", ns % scale);
        let rest = if digits == 0 { "" } else { rest.trim_end_matches('0') };
        let dot = if rest.is_empty() { "" } else { "." };
        return format!("{}{dot}{rest}{unit}", ns / scale);
    }
    let seconds = ns / NS_OF_S;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = format!("{}{}s", seconds % 60, fraction(ns % NS_OF_S));
    match (hours, minutes) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_by_go() {
        for (ns, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_000_000_000_050_000_000, "2001-09-09T01:46:40.05Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_517_382_213_948_135, "2026-11-24T10:49:42.213948135Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            assert_eq!(rfc3339(ns), want);
        }
        for (ns, want) in [
            (0, "0s"),
            (5, "5ns"),
            (1_500, "1.5\u{b5}s"),
            (350_000_000, "350ms"),
            (49_591_801_233, "49.591801233s"),
            (120_000_000_000, "2m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
        ] {
            assert_eq!(span(ns), want);
        }
    }
}
