//! Is there room? Asked before anything long starts.

use std::path::Path;
use std::process::Command;

use crate::fail::Failure;

/// What something will take at most, and where.
pub(crate) struct Need<'a> {
    /// For people: `the build`.
    pub(crate) what: &'a str,
    /// The folder; it need not be there yet.
    pub(crate) folder: &'a Path,
    /// How much, in MB.
    pub(crate) size_mb: u64,
}

/// Free space of one file system.
#[derive(Debug, PartialEq, Eq)]
struct Free {
    mount_point: String,
    size_mb: u64,
}

/// Checks that all needs fit together, those on one file system added up.
pub(crate) fn check(needs: &[Need<'_>]) -> Result<(), Failure> {
    let mut wanted: Vec<(Free, u64, String)> = Vec::new();
    for need in needs {
        let free = free(need.folder)?;
        let line = format!("{} ({} MB in {})", need.what, need.size_mb, need.folder.display());
        match wanted.iter_mut().find(|(known, _, _)| known.mount_point == free.mount_point) {
            Some((_, total_mb, lines)) => {
                *total_mb += need.size_mb;
                lines.push_str(" and ");
                lines.push_str(&line);
            }
            None => wanted.push((free, need.size_mb, line)),
        }
    }
    for (free, total_mb, lines) in wanted {
        if free.size_mb < total_mb {
            return Err(Failure::usage(format!(
                "not enough disk space on {}: {} MB are free, {lines} need {total_mb} MB. Free some, or move them to a \
                 larger disk: CARGO_TARGET_DIR is the build's folder, XDG_CACHE_HOME that of libtorch",
                free.mount_point, free.size_mb
            )));
        }
    }
    Ok(())
}

fn free(folder: &Path) -> Result<Free, Failure> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let output = Command::new("df").arg("-Pk").arg(existing).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    parse(&text)
        .ok_or_else(|| Failure::usage(format!("`df -Pk {}` does not say how much space is free", existing.display())))
}

/// Reads the answer of `df -Pk` for one folder.
fn parse(text: &str) -> Option<Free> {
    let mut columns = text.lines().nth(1)?.split_whitespace().skip(3);
    let size_kb: u64 = columns.next()?.parse().ok()?;
    let mount_point = columns.skip(1).collect::<Vec<_>>().join(" ");
    Some(Free { mount_point, size_mb: size_kb / 1000 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_from_dfs_fourth_column() {
        let text =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda 1000000 400000 600000 40% /big disk\n";
        assert_eq!(parse(text), Some(Free { mount_point: "/big disk".into(), size_mb: 600 }));
        assert_eq!(parse("df: no such file\n"), None);
    }

    #[test]
    fn needs_on_one_file_system_are_added_up() {
        let folder = std::env::temp_dir().join("not-there/yet");
        let free_mb = free(&folder).expect("df answers for a folder that is not there yet").size_mb;
        let need = |size_mb| Need { what: "a test", folder: &folder, size_mb };
        assert_eq!(check(&[need(0)]), Ok(()));
        let failure = check(&[need(free_mb / 2 + 5000), need(free_mb / 2 + 5000)]).expect_err("twice half and more");
        assert_eq!(failure.code, 2);
        assert!(failure.message.contains("XDG_CACHE_HOME"), "{}", failure.message);
    }
}
