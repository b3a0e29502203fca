//! What single values of a bounty.toml may be. Each reader says what is wrong with a value in a few words.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::Noise;
use crate::bounty::orders;
use crate::bounty::sandbox::Tier;
use crate::protocol::amount::Msat;
use crate::protocol::bounty::pay::Direction;
use crate::protocol::bounty::score::{Decimals, Score};
use crate::protocol::ids::UnixMs;

/// Most target files.
const MOST_TARGETS: usize = 100;
/// Most arguments of a command, bytes in each, and bytes in all of them: a box takes these and what evaluation adds.
const MOST_ARGUMENTS: usize = 100;
const MOST_ARGUMENT_BYTES: usize = 4_096;
const MOST_COMMAND_BYTES: usize = 64 << 10;
/// Most classes.
const MOST_CLASSES: usize = 1_000;

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("a string is needed, not {}", article(value.type_str())))
}

fn article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {kind}")
}

fn strings(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let array = value.as_array().ok_or_else(|| format!("a list is needed, not {}", article(value.type_str())))?;
    array.iter().map(|item| string(item.get_ref()).map(str::to_owned)).collect()
}

/// One line of at most `most` characters, not blank.
pub(super) fn line(most: usize) -> impl FnOnce(&DeValue<'_>) -> Result<String, String> {
    move |value| {
        let text = string(value)?;
        if text.trim().is_empty() {
            return Err("it is blank".into());
        }
        if text.chars().any(char::is_control) {
            return Err("it has line breaks or control characters".into());
        }
        if text.chars().count() > most {
            return Err(format!("it has more than {most} characters"));
        }
        Ok(text.to_owned())
    }
}

/// Text of at most `most` characters.
pub(super) fn text(most: usize) -> impl FnOnce(&DeValue<'_>) -> Result<String, String> {
    move |value| {
        let text = string(value)?;
        if text.chars().count() > most {
            Err(format!("it has more than {most} characters"))
        } else {
            Ok(text.to_owned())
        }
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("true or false is needed, not {}", article(value.type_str())))
}

/// A relative path that stays inside its folder.
pub(super) fn path(value: &DeValue<'_>) -> Result<String, String> {
    let path = string(value)?;
    check_path(path)?;
    Ok(path.to_owned())
}

fn check_path(path: &str) -> Result<(), String> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c == '\\');
    if path.split('/').all(plain) && path.len() <= 255 {
        Ok(())
    } else {
        Err(format!("{path:?} is not a plain path inside the folder (no leading /, no \"..\", no \\)"))
    }
}

/// Files that a diff may change.
pub(super) fn targets(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let mut targets = strings(value)?;
    if targets.is_empty() || targets.len() > MOST_TARGETS {
        return Err(format!("1 to {MOST_TARGETS} files are needed"));
    }
    for target in &targets {
        check_path(target)?;
        if orders::are_given_by(target) {
            return Err(format!("{target:?} is a file that tools take orders from by themselves"));
        }
    }
    targets.sort();
    match targets.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{:?} is named twice", pair[0])),
        None => Ok(targets),
    }
}

/// A program and its arguments.
pub(super) fn command(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let words = strings(value)?;
    let usable = |word: &String| word.len() <= MOST_ARGUMENT_BYTES && !word.contains('\0');
    if words.first().is_none_or(|program| program.trim().is_empty()) {
        return Err("it names no program".into());
    }
    if words.len() > MOST_ARGUMENTS || !words.iter().all(usable) {
        return Err(format!("more than {MOST_ARGUMENTS} words, or one of more than {MOST_ARGUMENT_BYTES} bytes"));
    }
    let bytes: usize = words.iter().map(String::len).sum();
    if bytes > MOST_COMMAND_BYTES {
        return Err(format!("its words have {bytes} bytes together, and {MOST_COMMAND_BYTES} may be"));
    }
    Ok(words)
}

/// Labels, each one line.
pub(super) fn classes(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let classes = strings(value)?;
    if !(2..=MOST_CLASSES).contains(&classes.len()) {
        return Err(format!("2 to {MOST_CLASSES} classes are needed"));
    }
    let mut sorted = classes.clone();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("{:?} is named twice", pair[0]));
    }
    match classes.iter().find(|class| class.trim() != *class || class.is_empty() || class.contains('\n')) {
        Some(class) => Err(format!("{class:?} is not one line without blanks around it")),
        None => Ok(classes),
    }
}

/// An integer in a range.
pub(super) fn integer(range: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        let integer = value.as_integer();
        let integer = integer.ok_or_else(|| format!("an integer is needed, not {}", article(value.type_str())))?;
        let read = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        read.filter(|read| range.contains(read))
            .ok_or_else(|| format!("{integer} is not within {} ..= {}", range.start(), range.end()))
    }
}

/// Whole satoshi in a range.
pub(super) fn sat(range: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Result<Msat, String> {
    move |value| {
        let sat = integer(range)(value)?;
        Msat::from_sat(sat).ok_or_else(|| format!("{sat} sat are too many"))
    }
}

/// A number, exactly as it is written: no float ever stands between the sponsor's digits and the score.
pub(super) fn score(decimals: Decimals) -> impl Fn(&DeValue<'_>) -> Result<Score, String> {
    move |value| {
        let written = match value {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                return Err(format!("a number is needed, not {}", article(value.type_str())));
            }
        };
        Score::parse(written, decimals).map_err(|error| error.to_string())
    }
}

/// A difference of scores, not negative.
pub(super) fn units(decimals: Decimals) -> impl FnOnce(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        let score = score(decimals)(value)?;
        u64::try_from(score.units()).map_err(|_| "it is negative".into())
    }
}

pub(super) fn noise(decimals: Decimals) -> impl FnOnce(&DeValue<'_>) -> Result<Noise, String> {
    move |value| match value.as_str() {
        Some("rate") => Ok(Noise::Rate),
        Some(_) | None => units(decimals)(value)
            .map(Noise::Units)
            .map_err(|error| format!("{error} (\"rate\" stands for the noise of a part of right answers)")),
    }
}

pub(super) fn direction(value: &DeValue<'_>) -> Result<Direction, String> {
    match string(value)? {
        "higher" => Ok(Direction::Higher),
        "lower" => Ok(Direction::Lower),
        other => Err(format!("{other:?} is neither \"higher\" nor \"lower\"")),
    }
}

pub(super) fn tier(value: &DeValue<'_>) -> Result<Tier, String> {
    let name = string(value)?;
    Tier::ALL.into_iter().find(|tier| tier.name() == name).ok_or_else(|| {
        let known = Tier::ALL.map(|tier| format!("{:?}", tier.name())).join(", ");
        format!("{name:?} is none of {known}")
    })
}

/// A date and time with its offset from UTC.
pub(super) fn moment(value: &DeValue<'_>) -> Result<UnixMs, String> {
    let datetime = value.as_datetime();
    let datetime =
        datetime.ok_or_else(|| format!("a date is needed (without quotes), not {}", article(value.type_str())))?;
    let (Some(date), Some(time), Some(offset)) = (datetime.date, datetime.time, datetime.offset) else {
        return Err(format!("{datetime} lacks its date, its time or its offset from UTC (Z)"));
    };
    let offset_minutes = match offset {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_from_civil(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let minutes = (days * 24 + i64::from(time.hour)) * 60 + i64::from(time.minute) - offset_minutes;
    let seconds = minutes * 60 + i64::from(time.second);
    u64::try_from(seconds).map(|seconds| UnixMs(seconds * 1_000)).map_err(|_| format!("{datetime} is before 1970"))
}

/// Days from 1970-01-01 in the Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_1970() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 2, 29), 11_016);
        assert_eq!(days_from_civil(2000, 3, 1), 11_017);
        assert_eq!(days_from_civil(2026, 11, 22), 20_779);
        assert_eq!(days_from_civil(1969, 12, 31), -1);
    }
}
