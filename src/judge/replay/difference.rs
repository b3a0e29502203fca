//! The first thing in which a transcript and its replay differ.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// A field of a transcript that isn't what the replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its path: `contributions[2].verdict.gain`.
    pub field: String,
    /// What is wrong: both values, or the rule that is broken.
    pub problem: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// A check that stops at the first difference.
pub(super) type Check<T> = Result<T, Difference>;

impl Difference {
    /// A field that breaks a rule.
    pub(super) fn invalid(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    fn values(field: &str, said: &Value, found: &Value) -> Self {
        Self::invalid(field, format!("transcript says {}, replay says {}", shown(said), shown(found)))
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(160).collect(),
        other => other.to_string().chars().take(160).collect(),
    }
}

/// Values whose JSON is a single number or string.
pub(super) fn expect<T: Serialize + PartialEq>(field: &str, said: T, found: T) -> Check<()> {
    compare(field, &said, &found)
}

/// Structures: names the first field that differs, in the order in which they are written.
pub(super) fn compare<T: Serialize + PartialEq>(field: &str, said: &T, found: &T) -> Check<()> {
    if said == found {
        return Ok(());
    }
    // Statements hold nothing that can't be JSON; `Null` would still compare unequal above.
    let [said, found] = [said, found].map(|value| serde_json::to_value(value).unwrap_or_default());
    Err(first_difference(field, &said, &found).unwrap_or_else(|| Difference::values(field, &said, &found)))
}

fn first_difference(field: &str, said: &Value, found: &Value) -> Option<Difference> {
    match (said, found) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().zip(b.values()).find_map(|((key, a), b)| first_difference(&format!("{field}.{key}"), a, b))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(place, (a, b))| first_difference(&format!("{field}[{place}]"), a, b))
        }
        _ => (said != found).then(|| Difference::values(field, said, found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_innermost_differing_field_is_named_with_both_values() {
        let said = json!({"a": [1, {"b": null, "c": 2}], "d": 3});
        let found = json!({"a": [1, {"b": null, "c": 5}], "d": 4});
        let difference = compare("x", &said, &found).expect_err("they differ");
        assert_eq!(difference.to_string(), "x.a[1].c: transcript says 2, replay says 5");
        let shorter = compare("x", &json!([1]), &json!([1, 2])).expect_err("they differ");
        assert_eq!(shorter.to_string(), "x: transcript says [1], replay says [1,2]");
        assert_eq!(compare("x", &said, &said), Ok(()));
    }
}
