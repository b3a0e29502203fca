//! Which figures are wanted, and how they are printed.

use std::io::Write as _;

/// What was measured, and the same of what it is compared with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) value: f64,
    /// In the value's unit, from the same run; `None` where there is nothing to compare with.
    pub(crate) reference: Option<f64>,
}

impl Measured {
    /// A figure that stands alone.
    pub(crate) fn alone(value: f64) -> Self {
        Self { value, reference: None }
    }
}

/// Prints figures as they are measured.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    /// Parts of names; none: everything.
    wanted: Vec<String>,
}

impl Report {
    /// From the command line. Options that cargo adds are passed over.
    pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Self {
        let mut report = Self { json: false, wanted: Vec::new() };
        for argument in arguments {
            match argument.strip_prefix("--") {
                Some("json") => report.json = true,
                Some(_) => {}
                None => report.wanted.push(argument),
            }
        }
        report
    }

    /// Measures and prints the figure `name` (group.figure) if it is wanted. `measure` gives `None` where this machine
    /// can't measure it.
    pub(crate) fn figure(&mut self, name: &str, unit: &str, measure: impl FnOnce() -> Option<Measured>) {
        if !self.wants(name) {
            return;
        }
        let Some(Measured { value, reference }) = measure() else { return };
        let ratio = reference.map(|reference| value / reference);
        let line = match self.json {
            true => {
                serde_json::json!({ "name": name, "value": value, "unit": unit, "reference": reference, "ratio": ratio })
                    .to_string()
            }
            false => {
                let beside = reference.zip(ratio).map(|(reference, ratio)| format!("  reference {reference:.4}, ratio {ratio:.3}"));
                format!("{name:<36} {value:>12.4} {unit:<10}{}", beside.unwrap_or_default())
            }
        };
        writeln!(std::io::stdout(), "{line}").expect("stdout is open");
    }

    /// Prints a figure that was measured together with others, if it is wanted.
    pub(crate) fn value(&mut self, name: &str, unit: &str, value: f64) {
        self.figure(name, unit, || Some(Measured::alone(value)));
    }

    /// Is one of them asked for?
    pub(crate) fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }

    /// Is any part of the name asked for?
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Runs each of `rivals` once to warm up, then `rounds` times in turns, and returns the fewest seconds of each.
pub(crate) fn fastest_in_turns<const N: usize>(rounds: usize, mut rivals: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut fastest = [f64::INFINITY; N];
    for round in 0..=rounds {
        for (rival, fastest) in rivals.iter_mut().zip(&mut fastest) {
            let watch = l402t::clock::Stopwatch::start();
            rival();
            if round > 0 {
                *fastest = fastest.min(watch.elapsed().as_secs_f64());
            }
        }
    }
    fastest
}
