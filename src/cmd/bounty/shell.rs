//! Paths in the commands that an answer names as next: whoever runs one in a shell gets that path, whatever is in it.

use std::path::Path;

/// A path as a word of a shell's command line.
pub(super) fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_next_action_is_one_word() {
        let words = ["./logs", "my logs", "it's", "$(x)", ""].map(|path| word(Path::new(path)));
        assert_eq!(words, ["./logs", "'my logs'", r"'it'\''s'", "'$(x)'", "''"]);
    }
}
