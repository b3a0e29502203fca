//! Files that tools take orders from by themselves, known by their names: whoever works in a stranger's folder would obey a stranger.

/// Documents in capitals that give no orders.
const HARMLESS: [&str; 5] = ["README", "LICENSE", "CHANGELOG", "NOTICE", "COPYING"];

/// Would a tool obey a file at this place of a package? git, editors and shells look for names with a dot in front, agents for
/// those or for Markdown in capitals (AGENTS.md).
pub fn are_given_by(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_document = match name.rsplit_once('.') {
        Some((stem, ending)) if ending.eq_ignore_ascii_case("md") => {
            let shouts = !stem.is_empty() && stem.chars().all(|c| !c.is_lowercase());
            // A file system may take either case for the other.
            let addresses = stem.to_ascii_uppercase().starts_with("AGENT");
            (shouts || addresses) && !HARMLESS.iter().any(|harmless| stem.starts_with(harmless))
        }
        Some(_) | None => false,
    };
    is_document || path.split('/').any(|part| part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_known_by_their_names_wherever_they_are() {
        for path in [".envrc", "workspace/.git/config", "workspace/.vscode/tasks.json", "scorer/.rules"] {
            assert!(are_given_by(path), "{path}");
        }
        for path in ["AGENTS.md", "workspace/AGENTS.md", "workspace/deep/agents.md", "public/CONVENTIONS.MD"] {
            assert!(are_given_by(path), "{path}");
        }
        for path in
            ["workspace/codec.py", "README.md", "workspace/README.de.md", "LICENSE.md", "notes.md", "a.b/c", "MD"]
        {
            assert!(!are_given_by(path), "{path}");
        }
    }
}
