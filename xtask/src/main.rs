//! Set-up and chores behind `./x`. Uses the standard library alone, so that it builds before anything is fetched;
//! it must never need libtorch itself.

mod build;
mod cuda;
mod deny;
mod disk;
mod fail;
mod foreign;
mod go;
mod known_answers;
mod libtorch;
mod protoc;
mod regtest;
mod transformers;
mod wheel;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fail::Failure;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("x: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let root = root();
    let (command, rest) = arguments.split_first().ok_or_else(|| usage("no command given"))?;
    match command.as_str() {
        "demo" => build::demo(&root, rest),
        "test" => build::test(&root, rest),
        "simulate" => build::simulate(&root, rest),
        "bench" => build::bench(&root, rest),
        "foreign" => foreign::test(&root, rest),
        "cuda" => cuda::run(&root, rest),
        "known-answers" => known_answers::run(&root),
        "transformers" => transformers::test(&root, rest),
        "lint" => build::lint(&root),
        "regtest" => regtest::run(&root, rest),
        "setup" => {
            build::prepare(&root)?;
            eprintln!("x: ready. Next: ./x demo, or ./x test");
            Ok(())
        }
        other => Err(usage(&format!("there is no command {other:?}"))),
    }
}

/// The clone's folder.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

fn usage(why: &str) -> Failure {
    Failure::usage(format!("{why}\n\n{}", include_str!("../usage.txt")))
}
