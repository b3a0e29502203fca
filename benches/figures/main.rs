//! The figures by which two commits are compared: `./x bench --json`, one JSON object a line.
//!
//! `cargo bench --bench figures -- [--json] [PART-OF-A-NAME]`. A group of figures is a file here with a function in `GROUPS`.
//! What is measured beside something else is measured in turns with it, so that a busy machine disturbs both.

mod bounty;
mod codec;
mod judge;
mod memory;
mod report;
mod sizes;
#[cfg(feature = "torch")]
mod torch;
#[cfg(feature = "torch")]
mod train;

use std::io::Write as _;

#[cfg(feature = "torch")]
use l402t::train::inner::Activations;
use report::Report;

const GROUPS: &[fn(&mut Report)] = &[
    bounty::measure,
    bounty::ladder::measure,
    codec::measure,
    judge::measure,
    #[cfg(feature = "torch")]
    train::measure,
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [memory::CHILD, work @ ..] = &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let peak = match work {
            [codec::ENCODE] => codec::encode_peak(),
            [codec::DECODE, file] => codec::decode_peak(file),
            #[cfg(feature = "torch")]
            [train::KEEP] => train::peak(Activations::Keep),
            #[cfg(feature = "torch")]
            [train::RECOMPUTE] => train::peak(Activations::Recompute),
            [size] => memory::peak_bytes(|| judge::score_once(size)),
            _ => None,
        };
        let said = peak.map_or(String::new(), |bytes| bytes.to_string());
        std::io::stdout().write_all(said.as_bytes()).expect("the parent reads it");
        return;
    }
    let mut report = Report::from_arguments(arguments.into_iter());
    for group in GROUPS {
        group(&mut report);
    }
}
