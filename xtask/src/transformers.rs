//! `./x transformers`: the tests that read models which transformers wrote, and have it read what this program wrote.

use std::env;
use std::path::{Path, PathBuf};

use crate::build;
use crate::disk::{self, Need};
use crate::fail::Failure;
use crate::libtorch::cache;
use crate::wheel::Wheel;

const PACKAGES: Wheel = Wheel {
    name: "transformers-5.23.0-torch-2.13.0-1",
    list: "transformers.txt",
    programs: &[],
    finish: Some(include_str!("cpu_torch.py")),
    otherwise: "It needs Python 3.11 or 3.12 on x86-64 Linux, and a network; pip follows PIP_INDEX_URL. Then run this again",
};
/// The wheels (590 MB), and what they are unpacked to (1,400 MB, of which 900 stay).
const NEEDED_MB: u64 = 2_100;
/// Where the tests look for what was fetched.
const PACKAGES_VARIABLE: &str = "TRANSFORMERS_PACKAGES";

/// A model of the user's that is to be compared, too, and its test.
const MODEL_VARIABLE: &str = "TRANSFORMERS_MODEL";
const MODEL_TEST: &str = "a_model_of_the_user_s";

/// The folder of Python packages, PyTorch among them, if it has been fetched.
pub(crate) fn fetched() -> Option<PathBuf> {
    Some(cache().ok()?.join(PACKAGES.name)).filter(|folder| folder.exists())
}

/// Fetches transformers and PyTorch once, then runs the tests. Plain `./x test` lists them as ignored.
pub(crate) fn test(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    if fetched().is_none() {
        disk::check(&[Need { what: "transformers and PyTorch", folder: &cache()?, size_mb: NEEDED_MB }])?;
    }
    let packages = PACKAGES.provide()?;
    build::prepare(root)?;
    let mut cargo = build::cargo(root);
    cargo.args(["test", "--release", "--locked", "--test", "transformers", "--", "--ignored"]).args(arguments);
    if env::var_os(MODEL_VARIABLE).is_none() {
        cargo.args(["--skip", MODEL_TEST]);
    }
    build::must(cargo.env(PACKAGES_VARIABLE, packages), "tests with transformers failed")
}
