//! The two tables of ARCHITECTURE.md. Never knows a rule of its own.

/// A row of the first table.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// A module path: `http::server`.
    pub(crate) name: String,
    /// Module paths that it may import; `None` for everything.
    may_import: Option<Vec<String>>,
}

/// Both tables.
#[derive(Debug)]
pub(crate) struct Tables {
    rooms: Vec<Room>,
    /// (crate, the rooms that may use it)
    owned: Vec<(String, Vec<String>)>,
    /// (room, the only crates that it may use)
    limited: Vec<(String, Vec<String>)>,
}

impl Tables {
    /// Reads the tables headed `room | may import` and `crate | may be used by`.
    pub(crate) fn parse(document: &str) -> Self {
        let rooms = rows(document, "| room | may import |").map(|(name, value)| Room {
            name: code(name).concat(),
            may_import: (value.trim() != "everything").then(|| code(value)),
        });
        let rooms: Vec<Room> = rooms.collect();
        assert!(!rooms.is_empty(), "ARCHITECTURE.md has no table headed `| room | may import |`");
        let (limited, owned) = rows(document, "| crate | may be used by |")
            .partition::<Vec<_>, _>(|(name, _)| name.trim().starts_with("everything in"));
        let named = |(name, value): (&str, &str)| (code(name).concat(), code(value));
        Self { rooms, owned: owned.into_iter().map(named).collect(), limited: limited.into_iter().map(named).collect() }
    }

    /// The innermost room that a module is in.
    pub(crate) fn room_of(&self, module: &[String]) -> Option<&Room> {
        let path = module.join("::");
        self.rooms.iter().filter(|room| is_in(&path, &room.name)).max_by_key(|room| room.name.len())
    }

    /// May `from` import this path? A room may also use itself, the rooms inside it and the one around it.
    pub(crate) fn allows(&self, from: &Room, import: &[String]) -> bool {
        let path = import.join("::");
        let target = self.room_of(import).map_or(path.as_str(), |room| room.name.as_str());
        if is_in(target, &from.name) || is_in(&from.name, target) {
            return true;
        }
        let Some(allowed) = &from.may_import else { return true };
        // `ln` does not include `ln::embedded` where that is a room of its own; `coordinator::handle` is a part of one.
        allowed.iter().any(|allowed| allowed == target || (is_in(allowed, target) && is_in(&path, allowed)))
    }

    /// May a room use a crate?
    pub(crate) fn may_use(&self, room: &Room, used: &str) -> bool {
        let owners = self.owned.iter().find(|(name, _)| name == used).map(|(_, owners)| owners);
        let limit = self.limited.iter().find(|(name, _)| is_in(&room.name, name)).map(|(_, limit)| limit);
        owners.is_none_or(|owners| owners.iter().any(|owner| is_in(&room.name, owner)))
            && limit.is_none_or(|limit| limit.iter().any(|allowed| allowed == used))
    }

    /// The names under which code would use a manifest's dependencies, sorted.
    pub(crate) fn dependencies(&self, manifest: &str) -> Vec<String> {
        let manifest: toml::Table = manifest.parse().expect("Cargo.toml is TOML");
        let table = manifest["dependencies"].as_table().expect("Cargo.toml has dependencies");
        let mut names: Vec<String> = table.keys().map(|name| name.replace('-', "_")).collect();
        names.sort();
        names
    }
}

/// Is the module `path` the module `room`, or inside it?
fn is_in(path: &str, room: &str) -> bool {
    path.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The two cells of each row under a heading.
fn rows<'a>(document: &'a str, heading: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let lines = document.lines().skip_while(move |line| !line.starts_with(heading)).skip(2);
    lines.take_while(|line| line.starts_with('|')).map(|line| {
        let mut cells = line.trim_matches('|').splitn(2, '|');
        (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
    })
}

/// What stands between backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
