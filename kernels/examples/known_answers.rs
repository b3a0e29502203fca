//! Computes the known answers on every instruction set of this machine and compares them: exit code 1 if one differs.
//! `./x known-answers` runs it here, on emulated processors of other kinds, and as WebAssembly.

use std::io::Write as _;
use std::process::ExitCode;

use l402t_kernels::Isa;
use l402t_kernels::known_answers::{EXPECTED, answers, digest};

fn main() -> std::io::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut differing = 0;
    for isa in Isa::available() {
        let found = answers(isa);
        writeln!(out, "{:<8} {:<9} {:016x}", std::env::consts::ARCH, isa.to_string(), digest(&found))?;
        for (found, expected) in found.iter().zip(&EXPECTED).filter(|(found, expected)| found != expected) {
            writeln!(out, "  {}: {:#018x}, expected {:#018x}", found.name, found.hash, expected.hash)?;
            differing += 1;
        }
    }
    Ok(if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
