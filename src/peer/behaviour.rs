//! What a peer contributes. All but honest work exists for the demo and the tests: real participants that try to be paid
//! for nothing.

use std::path::PathBuf;
use std::str::FromStr;

/// What a peer contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// What it trained.
    #[default]
    Honest,
    /// A well-formed update of random values.
    Garbage,
    /// A slightly altered copy of the update that the peer with this data folder has committed to.
    Copy(PathBuf),
}

impl FromStr for Behaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "honest" => Ok(Self::Honest),
            "garbage" => Ok(Self::Garbage),
            other => match other.strip_prefix("copy:") {
                Some(folder) if !folder.is_empty() => Ok(Self::Copy(PathBuf::from(folder))),
                Some(_) | None => Err("expected honest, garbage or copy:DIR".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviours_are_read_and_nonsense_is_refused() {
        assert_eq!("copy:/tmp/a".parse(), Ok(Behaviour::Copy("/tmp/a".into())));
        assert_eq!("honest".parse(), Ok(Behaviour::Honest));
        assert!("copy:".parse::<Behaviour>().is_err());
        assert!("lazy".parse::<Behaviour>().is_err());
    }
}
