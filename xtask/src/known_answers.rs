//! `./x known-answers`: the kernels' known answers on this machine, on emulated processors of other kinds, and as
//! WebAssembly. One differing bit anywhere fails.

use std::path::Path;
use std::process::Command;

use crate::build::{cargo, must, succeeds};
use crate::fail::Failure;

/// A machine that isn't this one. `x` installs the programs that are named here.
struct Foreign {
    target: &'static str,
    /// Cargo's settings for the target: what links, and what runs the result.
    settings: &'static [&'static str],
}

const FOREIGN: [Foreign; 3] = [
    Foreign { target: "aarch64-unknown-linux-musl", settings: &["linker='rust-lld'", "runner='qemu-aarch64'"] },
    Foreign {
        target: "riscv64gc-unknown-linux-gnu",
        settings: &[
            "linker='riscv64-linux-gnu-gcc'",
            "rustflags=['-Ctarget-feature=+crt-static']",
            "runner='qemu-riscv64'",
        ],
    },
    Foreign { target: "wasm32-wasip1", settings: &["runner=['node', '--no-warnings', 'xtask/wasi.mjs']"] },
];

/// Runs the known answers everywhere, and prints a line for each path.
pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    must(&mut known_answers(root), "a known answer differs on this machine: its line is above")?;
    let targets = FOREIGN.each_ref().map(|foreign| foreign.target);
    if !succeeds(Command::new("rustup").args(["target", "add"]).args(targets).current_dir(root)) {
        return Err(Failure::remote(format!(
            "rustup could not add {}; its message is above. Is there a network? Without rustup, install them your \
             system's way. Then run this again",
            targets.join(", ")
        )));
    }
    for foreign in &FOREIGN {
        let mut run = known_answers(root);
        run.args(["--target", foreign.target]);
        for setting in foreign.settings {
            run.arg("--config").arg(format!("target.{}.{setting}", foreign.target));
        }
        must(&mut run, &format!("a known answer differs on {}, or it did not run: see above", foreign.target))?;
    }
    Ok(())
}

fn known_answers(root: &Path) -> Command {
    let mut run = cargo(root);
    run.args(["run", "--quiet", "--release", "--locked", "--package", "l402t-kernels", "--example", "known_answers"]);
    run
}
