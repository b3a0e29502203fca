//! A wallet in one file: its seed, its channel state and its records, as they were at one moment.
//!
//! `magic ‖ u32 length ‖ header (JSON) ‖ seed ‖ database (SQLite) ‖ 32 bytes of BLAKE3 over all before`, little-endian,
//! readable by its owner only. The file and the restored folder come into being whole or not at all. A wallet is never
//! written over another, and a copy never passes for the newest state without proof.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bitcoin::Network;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::seed::{self, SeedFile};
use super::store::{FILE_NAME, Store};
use super::{EmbeddedError, LastBackup, facts, start};
use crate::protocol::ids::UnixMs;

/// The last byte is the version.
const MAGIC: [u8; 8] = *b"l402tWB\x01";
const HASH_BYTES: u64 = 32;
const MAX_HEADER_BYTES: u32 = 4_096;
const CHUNK_BYTES: usize = 1 << 16;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupInfo {
    /// The node's public key, 66 hex digits.
    pub node_id: String,
    /// `regtest`, `signet`, `testnet`, `bitcoin`.
    pub network: String,
    /// The number of its channel state.
    pub channel_state: u64,
    /// When it was made.
    pub made_at: UnixMs,
    /// What became of the wallet that it was made from.
    pub kind: BackupKind,
    seed_bytes: u64,
    database_bytes: u64,
}

/// What becomes of the wallet that a backup is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// It goes on: with its next payment the backup's channel state is old.
    Copy,
    /// It never starts again: the backup is the wallet now.
    Move,
}

/// Writes a backup of the wallet in `dir` to `to`, which may be an older backup of the same wallet. The node may be
/// running, unless the wallet is moved. `network` is only used for a wallet that doesn't know its own.
///
/// # Errors
/// No wallet, a node that runs (when it is moved), another file in the way, or the disk.
pub fn back_up(
    dir: &Path,
    to: &Path,
    kind: BackupKind,
    network: Network,
    now: UnixMs,
) -> Result<BackupInfo, EmbeddedError> {
    let held = seed::read(dir)?.filter(|_| dir.join(FILE_NAME).exists());
    let held = held.ok_or_else(|| EmbeddedError::NoWallet(dir.to_path_buf()))?;
    let node_id = seed::node_id(&seed::seed(&held, &seed::path(dir))?, network)?;
    let store = Store::open(dir)?;
    let unusable = |error| facts::unusable(&store, &error);
    let _lock = match kind {
        BackupKind::Copy => None,
        BackupKind::Move => {
            let lock = start::lock(dir)?;
            // First: a crash now leaves a wallet that can only be moved, never one that runs twice.
            store.set_fact(facts::MOVED, "1").map_err(unusable)?;
            Some(lock)
        }
    };
    let network = store.fact(facts::NETWORK).map_err(unusable)?.unwrap_or_else(|| network.to_string());
    let image = Scratch::new(beside(to, "database"))?;
    store.copy_into(&image.path).map_err(unusable)?;
    let (channel_state, database_bytes) = (generation_of(&image.path)?, length(&image.path)?);
    let seed_bytes = held.expose_secret().len() as u64;
    let info = BackupInfo { node_id, network, channel_state, made_at: now, kind, seed_bytes, database_bytes };
    check_target(to, &info)?;
    let whole = Scratch::new(beside(to, "new"))?;
    write_file(&whole.path, &info, &held, &image.path).map_err(disk("write", &whole.path))?;
    std::fs::rename(&whole.path, to).map_err(disk("write", to))?;
    sync_folder(to)?;
    let noted = serde_json::to_string(&LastBackup { made_at: now, channel_state });
    if noted.is_ok_and(|text| store.set_fact(facts::BACKUP, &text).is_err()) {
        tracing::warn!("the backup is there, but its date could not be noted in the wallet");
    }
    Ok(info)
}

/// Reads a backup from beginning to end and says what it is of.
///
/// # Errors
/// A file that can't be read or is not whole.
pub fn look_at(path: &Path) -> Result<BackupInfo, EmbeddedError> {
    Ok(Opened::check(path)?.info)
}

/// Makes the wallet of a backup in `dir`, which must be empty or missing. Whether it may start is decided when it does.
///
/// # Errors
/// A wallet in the folder, a damaged file, another network, or the disk.
pub fn restore(file: &Path, dir: &Path, network: Network) -> Result<BackupInfo, EmbeddedError> {
    check_empty(dir)?;
    let mut backup = Opened::check(file)?;
    if backup.info.network != network.to_string() {
        let (wallet, configured) = (backup.info.network.clone(), network.to_string());
        return Err(EmbeddedError::WrongNetwork { wallet, configured });
    }
    let held = backup.seed()?;
    let damaged = |reason: &str| EmbeddedError::BackupDamaged { path: file.to_path_buf(), reason: reason.into() };
    if seed::node_id(&seed::seed(&held, file)?, network)? != backup.info.node_id {
        return Err(damaged("its seed is another node's"));
    }
    let made = NewFolder::begin(dir)?;
    backup.copy_database(&made.path.join(FILE_NAME))?;
    seed::write(&made.path, &held)?;
    let store = Store::open(&made.path)?;
    let unusable = |error| facts::unusable(&store, &error);
    if !store.is_sound().map_err(unusable)? {
        return Err(damaged("its database is not sound"));
    }
    store.forget_fact(facts::MOVED).map_err(unusable)?;
    match backup.info.kind {
        BackupKind::Copy => store.set_fact(facts::RESTORED, "1").map_err(unusable)?,
        BackupKind::Move => {}
    }
    drop(store);
    made.finish(dir)?;
    Ok(backup.info)
}

/// Makes a wallet from its 24 words in `dir`, which must be empty or missing. It has the coins on chain, and no channels.
/// Returns its node id.
///
/// # Errors
/// Words that are not a wallet's, a wallet in the folder, or the disk.
pub fn restore_from_words(words: &SecretString, dir: &Path, network: Network) -> Result<String, EmbeddedError> {
    check_empty(dir)?;
    let held = seed::from_words(words)?;
    let made = NewFolder::begin(dir)?;
    seed::write(&made.path, &held)?;
    let store = Store::open(&made.path)?;
    facts::check_network(&store, network)?;
    store.set_fact(facts::RESCAN, "1").map_err(|error| facts::unusable(&store, &error))?;
    drop(store);
    made.finish(dir)?;
    seed::node_id(&seed::seed(&held, dir)?, network)
}

/// The 24 words of the wallet in `dir`; `None` for one from before there were words.
///
/// # Errors
/// No wallet, or a damaged seed file.
pub fn words(dir: &Path) -> Result<Option<SecretString>, EmbeddedError> {
    let held = seed::read(dir)?.ok_or_else(|| EmbeddedError::NoWallet(dir.to_path_buf()))?;
    // Also checks its length.
    seed::seed(&held, &seed::path(dir))?;
    seed::words(&held)
}

fn disk(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EmbeddedError + use<> {
    let path = path.to_path_buf();
    move |source| EmbeddedError::Disk { action, path, source }
}

fn length(path: &Path) -> Result<u64, EmbeddedError> {
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(disk("read", path))
}

/// A hidden name in the same folder, so that it can be renamed.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}"))
}

fn sync_folder(path: &Path) -> Result<(), EmbeddedError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("save", folder))
}

fn generation_of(database: &Path) -> Result<u64, EmbeddedError> {
    let failed = |error: rusqlite::Error| EmbeddedError::Store { path: database.into(), reason: error.to_string() };
    let connection = rusqlite::Connection::open(database).map_err(failed)?;
    super::store::generation(&connection).map_err(failed)
}

/// Only an older backup of the same wallet is replaced.
fn check_target(to: &Path, new: &BackupInfo) -> Result<(), EmbeddedError> {
    if !to.try_exists().map_err(disk("read", to))? {
        return Ok(());
    }
    let in_the_way = |reason: String| EmbeddedError::BackupInTheWay { path: to.to_path_buf(), reason };
    let old = look_at(to).map_err(|_| in_the_way("it is not a wallet backup".into()))?;
    if old.node_id != new.node_id {
        return Err(in_the_way(format!("it is a backup of another wallet, {}", old.node_id)));
    }
    if old.channel_state > new.channel_state || old.kind == BackupKind::Move && new.kind == BackupKind::Copy {
        return Err(in_the_way("it holds a newer state of this wallet".into()));
    }
    Ok(())
}

fn write_file(path: &Path, info: &BackupInfo, held: &SeedFile, database: &Path) -> std::io::Result<()> {
    let header = serde_json::to_vec(info)?;
    let mut file = OpenOptions::new().write(true).open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        file.write_all(bytes)
    };
    put(&MAGIC)?;
    // A header has a few hundred bytes.
    put(&(header.len() as u32).to_le_bytes())?;
    put(&header)?;
    put(held.expose_secret())?;
    let mut database = File::open(database)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match database.read(&mut chunk)? {
            0 => break,
            read => put(&chunk[..read])?,
        }
    }
    file.write_all(hasher.finalize().as_bytes())?;
    file.sync_all()
}

/// A backup whose every byte has been checked.
struct Opened {
    file: File,
    path: PathBuf,
    info: BackupInfo,
    seed_at: u64,
}

impl Opened {
    fn check(path: &Path) -> Result<Self, EmbeddedError> {
        let damaged = |reason: &str| EmbeddedError::BackupDamaged { path: path.to_path_buf(), reason: reason.into() };
        let mut file = File::open(path).map_err(disk("read", path))?;
        let total = file.metadata().map_err(disk("read", path))?.len();
        let mut fixed = [0; MAGIC.len() + 4];
        file.read_exact(&mut fixed).map_err(|_| damaged("it is too short"))?;
        let (magic, length) = fixed.split_at(MAGIC.len());
        if magic[..MAGIC.len() - 1] != MAGIC[..MAGIC.len() - 1] {
            return Err(damaged("it does not begin like one"));
        }
        if magic != MAGIC {
            return Err(damaged("another version of l402t wrote it"));
        }
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        if length > MAX_HEADER_BYTES {
            return Err(damaged("its header is too long"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(|_| damaged("it is too short"))?;
        let info: BackupInfo = serde_json::from_slice(&header).map_err(|_| damaged("its header can't be read"))?;
        let seed_at = fixed.len() as u64 + u64::from(length);
        let parts = [seed_at, info.seed_bytes, info.database_bytes, HASH_BYTES];
        if parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(*part)) != Some(total) {
            return Err(damaged("its length is not what its header says"));
        }
        let mut opened = Self { file, path: path.to_path_buf(), info, seed_at };
        if !opened.hash_is_right(total - HASH_BYTES).map_err(disk("read", path))? {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(opened)
    }

    fn hash_is_right(&mut self, hashed: u64) -> std::io::Result<bool> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut (&self.file).take(hashed), &mut hasher)?;
        let mut stored = [0; HASH_BYTES as usize];
        self.file.read_exact(&mut stored)?;
        Ok(hasher.finalize() == stored)
    }

    fn seed(&mut self) -> Result<SeedFile, EmbeddedError> {
        // Its length is that of a part of the file, so it is there; any that is no seed's is refused later.
        let mut held = Vec::new();
        let read = self.file.seek(SeekFrom::Start(self.seed_at)).and_then(|_| {
            let mut part = (&self.file).take(self.info.seed_bytes.min(u64::from(MAX_HEADER_BYTES)));
            part.read_to_end(&mut held)
        });
        read.map_err(disk("read", &self.path))?;
        Ok(SeedFile::from(held))
    }

    fn copy_database(&mut self, to: &Path) -> Result<(), EmbeddedError> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(disk("create", to))?;
        self.file
            .seek(SeekFrom::Start(self.seed_at + self.info.seed_bytes))
            .and_then(|_| std::io::copy(&mut (&self.file).take(self.info.database_bytes), &mut file))
            .and_then(|_| file.sync_all())
            .map_err(disk("write", to))
    }
}

/// An empty file for its owner only, gone again when this is dropped; what a killed process left there is replaced.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(path: PathBuf) -> Result<Self, EmbeddedError> {
        remove(&path)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(disk("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Renamed, where all went well.
        std::fs::remove_file(&self.path).ok();
    }
}

fn remove(path: &Path) -> Result<(), EmbeddedError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A folder may hold the lock of a node that was never made, and nothing else.
fn check_empty(dir: &Path) -> Result<(), EmbeddedError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(disk("read", dir))?.file_name();
                if name != start::LOCK_FILE {
                    return Err(EmbeddedError::NotEmpty(dir.to_path_buf()));
                }
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(disk("read", dir)(error)),
    }
}

/// A wallet's folder in the making, beside where it will be.
struct NewFolder {
    path: PathBuf,
    _lock: File,
}

impl NewFolder {
    /// What a killed process left there is removed.
    fn begin(dir: &Path) -> Result<Self, EmbeddedError> {
        let path = beside(dir, "restoring");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(disk("create", &path))?;
        let lock = start::lock(&path)?;
        for entry in std::fs::read_dir(&path).map_err(disk("read", &path))? {
            let entry = entry.map_err(disk("read", &path))?;
            if entry.file_name() != start::LOCK_FILE {
                remove(&entry.path())?;
            }
        }
        Ok(Self { path, _lock: lock })
    }

    /// In its place, on disk.
    fn finish(self, dir: &Path) -> Result<(), EmbeddedError> {
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(disk("save", &self.path))?;
        remove(&dir.join(start::LOCK_FILE))?;
        // Fails where there is a wallet by now.
        std::fs::rename(&self.path, dir).map_err(disk("make", dir))?;
        sync_folder(dir)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NETWORK: Network = Network::Regtest;

    /// A wallet that never ran, with something in its database.
    fn wallet(dir: &Path) -> Store {
        std::fs::create_dir_all(dir).expect("made");
        seed::load_or_create(dir, &dir.join(FILE_NAME)).expect("a seed");
        let store = Store::open(dir).expect("opens");
        facts::check_network(&store, NETWORK).expect("new");
        store.set_fact(facts::LISTEN, "127.0.0.1:1").expect("written");
        store
    }

    fn back_up_to(dir: &Path, file: &Path) -> Result<BackupInfo, EmbeddedError> {
        back_up(dir, file, BackupKind::Copy, NETWORK, UnixMs(5))
    }

    #[test]
    fn a_backup_brings_seed_and_database_back_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().expect("a folder");
        let (dir, again, file) = (root.path().join("a"), root.path().join("b"), root.path().join("backup"));
        let store = wallet(&dir);
        let info = back_up_to(&dir, &file).expect("made beside an open database");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(look_at(&file).expect("sound"), info);
        assert_eq!(restore(&file, &again, NETWORK).expect("restored"), info);
        let seeds = [&dir, &again].map(|dir| std::fs::read(seed::path(dir)).expect("there"));
        assert_eq!(seeds[0], seeds[1]);
        let restored = Store::open(&again).expect("opens");
        assert_eq!(restored.fact(facts::LISTEN).expect("readable").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(restored.fact(facts::RESTORED).expect("readable").as_deref(), Some("1"));
        assert_eq!(store.fact(facts::RESTORED).expect("readable"), None);
        let names = std::fs::read_dir(root.path()).expect("readable").count();
        assert_eq!(names, 3, "two wallets, the backup, and nothing else");
    }

    #[test]
    fn a_backup_with_any_byte_changed_or_missing_is_refused_and_leaves_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let (dir, again, file) = (root.path().join("a"), root.path().join("b"), root.path().join("backup"));
        wallet(&dir);
        back_up_to(&dir, &file).expect("made");
        let whole = std::fs::read(&file).expect("there");
        let places = (0..300).chain((300..whole.len()).step_by(997)).chain(whole.len() - 40..whole.len());
        let changed = places.map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cut = [0, 7, 12, 100, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec());
        let longer = [whole.clone(), vec![0]].concat();
        for (number, bytes) in changed.chain(cut).chain([longer]).enumerate() {
            std::fs::write(&file, bytes).expect("written");
            let refused = restore(&file, &again, NETWORK).expect_err("damaged");
            assert!(matches!(refused, EmbeddedError::BackupDamaged { .. }), "{number}: {refused}");
            assert!(!again.exists());
        }
    }

    #[test]
    fn a_backup_replaces_an_older_one_of_its_wallet_and_nothing_else() {
        let root = tempfile::tempdir().expect("a folder");
        let (dir, other, file) = (root.path().join("a"), root.path().join("b"), root.path().join("backup"));
        let store = wallet(&dir);
        wallet(&other);
        back_up_to(&dir, &file).expect("made");
        store.write_all("UPDATE generation SET value = 9").expect("written");
        assert_eq!(back_up_to(&dir, &file).expect("replaced").channel_state, 9);
        for in_the_way in [
            back_up_to(&other, &file),
            {
                store.write_all("UPDATE generation SET value = 8").expect("written");
                back_up_to(&dir, &file)
            },
            {
                std::fs::write(root.path().join("diary"), "dear diary").expect("written");
                back_up_to(&dir, &root.path().join("diary"))
            },
        ] {
            assert!(matches!(in_the_way, Err(EmbeddedError::BackupInTheWay { .. })), "{in_the_way:?}");
        }
        assert_eq!(look_at(&file).expect("as it was").channel_state, 9);
        let nowhere = back_up_to(&root.path().join("nothing"), &file);
        assert!(matches!(nowhere, Err(EmbeddedError::NoWallet(_))), "{nowhere:?}");
        assert!(!root.path().join("nothing").exists());
    }

    #[test]
    fn a_wallet_is_restored_on_its_network_and_over_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let (dir, again, file) = (root.path().join("a"), root.path().join("b"), root.path().join("backup"));
        wallet(&dir);
        back_up_to(&dir, &file).expect("made");
        let elsewhere = restore(&file, &again, Network::Bitcoin);
        assert!(matches!(elsewhere, Err(EmbeddedError::WrongNetwork { .. })), "{elsewhere:?}");
        // What a killed restore leaves, and the lock of a node that was never made.
        std::fs::create_dir_all(root.path().join(".b.restoring")).expect("made");
        std::fs::write(root.path().join(".b.restoring/seed"), "half").expect("written");
        std::fs::create_dir_all(&again).expect("made");
        std::fs::write(again.join(start::LOCK_FILE), "").expect("written");
        restore(&file, &again, NETWORK).expect("restored");
        assert!(!root.path().join(".b.restoring").exists());
        let twice = restore(&file, &again, NETWORK);
        assert!(matches!(twice, Err(EmbeddedError::NotEmpty(_))), "{twice:?}");
    }

    #[test]
    fn a_moved_wallet_is_sealed_before_its_backup_exists() {
        let root = tempfile::tempdir().expect("a folder");
        let (dir, again) = (root.path().join("a"), root.path().join("b"));
        let store = wallet(&dir);
        let nowhere = root.path().join("missing/backup");
        back_up(&dir, &nowhere, BackupKind::Move, NETWORK, UnixMs(5)).expect_err("no such folder");
        assert!(store.fact(facts::MOVED).expect("readable").is_some());
        let file = root.path().join("backup");
        back_up(&dir, &file, BackupKind::Move, NETWORK, UnixMs(5)).expect("the second time");
        restore(&file, &again, NETWORK).expect("restored");
        let restored = Store::open(&again).expect("opens");
        for fact in [facts::MOVED, facts::RESTORED] {
            assert_eq!(restored.fact(fact).expect("readable"), None);
        }
    }
}
