//! `./x cuda`: compiles kernels/cuda to PTX with a pinned compiler and compares that with the PTX in the tree, byte for
//! byte. `./x cuda write` puts it there.
//!
//! The PTX is committed so that a build needs neither the compiler nor a network, and so that what judges is what was
//! reviewed and tested. No GPU is needed here.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::build::must;
use crate::fail::Failure;
use crate::wheel::Wheel;

const COMPILER: Wheel = Wheel {
    name: "cuda-compiler-13.0.88",
    list: "cuda.txt",
    programs: &[
        "nvidia/cu13/bin/nvcc",
        "nvidia/cu13/bin/cudafe++",
        "nvidia/cu13/bin/ptxas",
        "nvidia/cu13/nvvm/bin/cicc",
    ],
    finish: None,
    otherwise: "It is made for x86-64 Linux. Is there a network? pip follows PIP_INDEX_URL. Then run this again",
};

/// Each a `.cu` in kernels/cuda and a `.ptx` in kernels/cuda/ptx.
const MODULES: [&str; 4] = ["gemm", "rows", "elementwise", "compress"];
/// What decides the bits, and the oldest GPU that the compiler knows (Turing, 2018).
const OPTIONS: [&str; 8] = [
    "-ptx",
    "-arch=compute_75",
    "-std=c++17",
    "-O3",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
];
/// What the compiler writes at the top, and what stands there instead: the kernels need nothing newer, and a driver refuses
/// PTX of a version that it doesn't know. The assembler checks it.
const VERSION: (&str, &str) = ("\n.version 9.0\n", "\n.version 7.0\n");
/// GPUs that the assembler tries the PTX for: Turing, Ampere, Ada, Hopper, Blackwell.
const GPUS: [&str; 7] = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];

/// Compiles, assembles and compares.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Failure> {
    let write = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["write"] => true,
        _ => return Err(Failure::usage("./x cuda takes nothing, or `write`")),
    };
    let compiler = COMPILER.provide()?;
    let programs = compiler.join("nvidia/cu13/bin");
    let sources = root.join("kernels/cuda");
    let made = root.join("target/cuda");
    let failed = |path: &Path, error: std::io::Error| Failure::usage(format!("can't use {}: {error}", path.display()));
    fs::create_dir_all(&made).map_err(|error| failed(&made, error))?;
    let mut different = Vec::new();
    for module in MODULES {
        let (fresh, kept) = (made.join(format!("{module}.ptx")), sources.join(format!("ptx/{module}.ptx")));
        let mut compile = Command::new(programs.join("nvcc"));
        compile.current_dir(&sources).args(OPTIONS).arg(format!("{module}.cu")).arg("-o").arg(&fresh);
        must(&mut compile, &format!("kernels/cuda/{module}.cu does not compile"))?;
        let ptx = fs::read_to_string(&fresh).map_err(|error| failed(&fresh, error))?;
        let ptx = ptx.replacen(VERSION.0, VERSION.1, 1);
        fs::write(&fresh, &ptx).map_err(|error| failed(&fresh, error))?;
        for gpu in GPUS {
            let mut assemble = Command::new(programs.join("ptxas"));
            assemble.arg(format!("-arch={gpu}")).arg(&fresh).arg("-o").arg(made.join("code"));
            must(&mut assemble, &format!("{module}.ptx is refused for {gpu}"))?;
        }
        if fs::read_to_string(&kept).is_ok_and(|old| old == ptx) {
            continue;
        }
        different.push(module);
        if write {
            fs::write(&kept, &ptx).map_err(|error| failed(&kept, error))?;
        }
    }
    match different.as_slice() {
        [] => eprintln!("x: the PTX in kernels/cuda/ptx is what its sources compile to"),
        some if write => eprintln!("x: written anew: {}. Now run the tests: they interpret it", some.join(", ")),
        some => {
            return Err(Failure::negative(format!(
                "the PTX of {} is not what its source compiles to: run `./x cuda write`, and look at the difference",
                some.join(", ")
            )));
        }
    }
    Ok(())
}
