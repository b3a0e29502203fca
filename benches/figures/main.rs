//! The figures by which two commits are compared: `./x bench --json`, one JSON object a line.
//!
//! `cargo bench --bench figures -- [--json] [PART-OF-A-NAME]`. A group of figures is a file here with a function in `GROUPS`.
//! What is measured beside something else is measured in turns with it, so that a busy machine disturbs both.

mod judge;
mod memory;
mod report;
#[cfg(feature = "torch")]
mod torch;
#[cfg(feature = "torch")]
mod train;

use report::Report;

const GROUPS: &[fn(&mut Report)] = &[
    judge::measure,
    #[cfg(feature = "torch")]
    train::measure,
];

fn main() {
    let mut report = Report::from_arguments(std::env::args().skip(1));
    for group in GROUPS {
        group(&mut report);
    }
}
