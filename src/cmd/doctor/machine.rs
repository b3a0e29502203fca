//! Configuration, data folder, libtorch and judge.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::Check;
use crate::cli::DoctorRole;
use crate::cmd::judge_pool::checked_engine;
use crate::cmd::{Context, Failure};
use crate::config::Device;

/// Everything about this machine that needs no network.
pub(super) async fn check(role: DoctorRole, context: &Context) -> Result<Vec<Check>, Failure> {
    let mut checks = vec![configuration(context), data_folder(role, context)];
    match role {
        DoctorRole::Peer => checks.push(training(context)),
        DoctorRole::Coordinate => checks.push(run_settings(context)),
    }
    let judging = context.config.coordinator.device;
    checks.push(context.blocking(move || Ok(judge(judging))).await?);
    Ok(checks)
}

/// A wrong one has ended the program by now.
fn configuration(context: &Context) -> Check {
    match context.config_file() {
        Some(path) => Check::ok("configuration", path.display().to_string()),
        None => Check::ok("configuration", "defaults (no file)"),
    }
}

fn data_folder(role: DoctorRole, context: &Context) -> Check {
    const NAME: &str = "data folder";
    let path = match context.data_path(role.data_folder()) {
        Ok(path) => path,
        Err(failure) => return Check::failure(NAME, failure),
    };
    // Made by the command itself: here it is enough that it can be.
    let nearest = path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    match tempfile_in(nearest) {
        Ok(()) if nearest == path => Check::ok(NAME, path.display().to_string()),
        Ok(()) => Check::ok(NAME, format!("{} will be made", path.display())),
        Err(error) => {
            let message = format!("{} can't be written: {error}", nearest.display());
            Check::fail(
                NAME,
                message,
                "Give this user access to it, free some space, or choose another with --data DIR",
            )
        }
    }
}

/// Writes a file there and removes it.
fn tempfile_in(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".l402t-doctor-{}", std::process::id()));
    let written = fs::write(&path, [0; 4096]);
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn run_settings(context: &Context) -> Check {
    const NAME: &str = "run";
    let run = &context.config.run;
    let fix = "Name them under [run] in the configuration; examples/ has a small model and a corpus";
    let (Some(model), Some(corpus)) = (&run.model, &run.corpus) else {
        return Check::warn(NAME, "no model and corpus are configured, which it takes to start a run", fix);
    };
    match [model, corpus].into_iter().find_map(|path| trouble_with(path)) {
        Some(trouble) => Check::fail(NAME, trouble, fix),
        None => Check::ok(NAME, format!("{:?}: model {}, corpus {}", run.name, model.display(), corpus.display())),
    }
}

/// Why a file or folder can't be read; `None` if it can.
fn trouble_with(path: &Path) -> Option<String> {
    let opened = fs::metadata(path).and_then(|data| match data.is_dir() {
        true => fs::read_dir(path).map(drop),
        // To open a pipe would be to wait for who writes to it.
        false if data.is_file() => File::open(path).map(drop),
        false => Err(io::Error::other("it is neither a file nor a folder")),
    });
    match opened {
        Ok(()) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("there is no file or folder {}", path.display()))
        }
        Err(error) => Some(format!("{} can't be read: {error}", path.display())),
    }
}

#[cfg(feature = "torch")]
fn training(context: &Context) -> Check {
    use crate::train::inner::{TrainDevice, can_train_on};
    const NAME: &str = "training";
    let (device, words) = match context.config.peer.device {
        Device::Cpu => (TrainDevice::Cpu, "the processor"),
        Device::Cuda => (TrainDevice::Cuda(0), "the first CUDA device"),
    };
    match can_train_on(device) {
        Ok(()) => Check::ok(NAME, format!("libtorch on {words}")),
        Err(error) => Check::fail(NAME, error.to_string(), "Or set [peer] device = \"cpu\""),
    }
}

#[cfg(not(feature = "torch"))]
fn training(context: &Context) -> Check {
    let device = match context.config.peer.device {
        Device::Cpu => "",
        Device::Cuda => " on CUDA",
    };
    let message = format!("this l402t was built without libtorch (feature torch), so it can't train{device}");
    Check::fail("training", message, "Build it with default features")
}

fn judge(device: Device) -> Check {
    match checked_engine(None, device) {
        Ok(engine) => Check::ok("judge", format!("self test passed ({})", engine.describe())),
        Err(failure) => Check::failure("judge", failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_can_be_read_like_a_file_and_what_is_missing_is_told_from_what_can_t_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let [file, missing, circle] = ["config.json", "missing", "circle"].map(|name| folder.path().join(name));
        fs::write(&file, b"{}").expect("written");
        std::os::unix::fs::symlink(&circle, &circle).expect("made");
        let said = |path: &Path, words: &str| trouble_with(path).is_some_and(|trouble| trouble.contains(words));
        assert_eq!(trouble_with(folder.path()), None);
        assert_eq!(trouble_with(&file), None);
        assert!(said(&missing, "there is no file or folder"));
        assert!(said(&file.join("inside"), "can't be read"));
        assert!(said(&circle, "can't be read"));
        assert!(said(Path::new("/dev/null"), "neither a file nor a folder"));
    }
}
