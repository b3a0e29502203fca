//! A module in a process of its own: what is sent there, and how far what comes back is believed.

use super::{ModuleFailure, Outcome, Task};
use crate::bounty::sandbox::{BoxError, BoxOutcome, CellSpec, Ending, Limits, Sandbox, Usage};

/// What this program is called with in that process.
pub const ARGUMENT: &str = "wasm-cell";

/// That process's code where it could not begin, or lacked what it may have: no module's doing.
pub(super) const NOT_HERE: u8 = 71;
/// A JSON string's longest form of a byte, and what is around all of them.
const ESCAPED: u64 = 6;
const AROUND_BYTES: u64 = 64 << 10;
/// What a task takes there beside its module's memory: read, taken apart, answered.
const COPIES: u64 = 8;
/// What the program takes before it begins: its own data, and that of the libraries that it is linked with.
const OWN_BYTES: u64 = 512 << 20;
/// The longest that loading those may take, on processors and on the wall.
const OWN_MS: u64 = 10_000;

/// What came of a module, and what that used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// What came of it.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
}

/// Runs a module in a process that can do nothing else. Blocks until it has ended.
///
/// Of `limits`, time counts beside the task's own: fuel ends a module at the same place everywhere, time is for what fuel
/// doesn't see.
pub fn measure(sandbox: &Sandbox, task: &Task, limits: &Limits) -> Result<Measured, BoxError> {
    if cfg!(not(feature = "wasm")) {
        return Err(BoxError::Spec { what: "a module: this build has no feature wasm".to_owned() });
    }
    let input = serde_json::to_vec(task).map_err(|error| BoxError::Spec { what: error.to_string() })?;
    let answers = task.limits.output_bytes.saturating_mul(ESCAPED);
    let items = (task.items.len() as u64).saturating_mul(4);
    let output_bytes = answers.saturating_add(items).saturating_add(AROUND_BYTES);
    let copies = (input.len() as u64).saturating_mul(COPIES).saturating_add(output_bytes.saturating_mul(2));
    let spec = CellSpec {
        argument: ARGUMENT,
        input: &input,
        cpu_ms: limits.cpu_ms.saturating_add(OWN_MS),
        wall_ms: limits.wall_ms.saturating_add(OWN_MS),
        memory_bytes: task.limits.memory_bytes.saturating_add(copies).saturating_add(OWN_BYTES),
        output_bytes,
    };
    let ended = sandbox.compute(&spec)?;
    let usage = ended.usage;
    Ok(Measured { outcome: believed(task, ended)?, usage })
}

/// What the process says, as far as it can be true; how it ended, otherwise.
fn believed(task: &Task, BoxOutcome { ending, stdout, .. }: BoxOutcome) -> Result<Outcome, BoxError> {
    let failed = |failure, detail: &str| Ok(Outcome::Failed { failure, detail: detail.to_owned() });
    match ending {
        Ending::Exited { code: 0 } => {}
        Ending::Exited { code: NOT_HERE } => {
            let message =
                "its process could not give up its system calls, read its task, say its answer, or have the memory \
                           that it may have"
                    .to_owned();
            return Err(BoxError::Lost { status: format!("exit code {NOT_HERE}"), message });
        }
        Ending::Exited { .. } | Ending::Signalled { .. } | Ending::MemoryLimit | Ending::NotExecuted => {
            return failed(ModuleFailure::Crashed, "the module brought down what ran it");
        }
        Ending::TimeLimit => return failed(ModuleFailure::Fuel, "the module took too long"),
        Ending::OutputLimit => return failed(ModuleFailure::Output, "the module wrote too much"),
    }
    match serde_json::from_slice(&stdout) {
        Ok(Outcome::Answered { answers, fuel }) => {
            let one_line = answers.iter().all(|answer| !answer.contains('\n'));
            if answers.len() == task.items.len() && one_line && fuel <= task.limits.fuel {
                Ok(Outcome::Answered { answers, fuel })
            } else {
                failed(ModuleFailure::Crashed, "the module had what ran it say what can't be")
            }
        }
        Ok(Outcome::Failed { failure, detail }) => Ok(Outcome::Failed { failure, detail }),
        Err(_) => failed(ModuleFailure::Crashed, "the module had what ran it say nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounty::sandbox::Tier;
    use crate::bounty::wasm::ModuleLimits;

    fn heard(ending: Ending, stdout: &str) -> Result<Outcome, BoxError> {
        let limits = ModuleLimits { fuel: 100, memory_bytes: 1, output_bytes: 1 };
        let task = Task { module: vec![0], items: vec!["a".into(), "b".into()], limits };
        let (stdout, stderr) = (stdout.into(), Vec::new());
        believed(&task, BoxOutcome { ending, stdout, stderr, usage: Usage::default(), tier: Tier::Rlimits })
    }

    fn failure(ending: Ending, stdout: &str) -> ModuleFailure {
        match heard(ending, stdout) {
            Ok(Outcome::Failed { failure, .. }) => failure,
            other => panic!("{other:?}"),
        }
    }

    const WELL: Ending = Ending::Exited { code: 0 };

    #[test]
    fn a_process_is_believed_what_can_be_true() {
        let said = r#"{"answered":{"answers":["x","y"],"fuel":100}}"#;
        assert_eq!(
            heard(WELL, said).expect("its end"),
            Outcome::Answered { answers: vec!["x".into(), "y".into()], fuel: 100 }
        );
        assert_eq!(failure(WELL, r#"{"failed":{"failure":"memory","detail":"d"}}"#), ModuleFailure::Memory);
        for lie in [
            r#"{"answered":{"answers":["x","y"],"fuel":101}}"#,
            r#"{"answered":{"answers":["x"],"fuel":1}}"#,
            r#"{"answered":{"answers":["x","y\nz"],"fuel":1}}"#,
            r#"{"answered":{"answers":["x","y"],"fuel":-1}}"#,
            r#"{"failed":{"failure":"scorer_failed","detail":""}}"#,
            "",
        ] {
            assert_eq!(failure(WELL, lie), ModuleFailure::Crashed, "{lie}");
        }
    }

    #[test]
    fn how_a_process_ends_is_its_modules_doing_unless_it_says_that_it_could_not_begin() {
        for (ending, expected) in [
            (Ending::Exited { code: 101 }, ModuleFailure::Crashed),
            (Ending::Signalled { signal: 11 }, ModuleFailure::Crashed),
            (Ending::TimeLimit, ModuleFailure::Fuel),
            (Ending::OutputLimit, ModuleFailure::Output),
        ] {
            assert_eq!(failure(ending, r#"{"answered":{"answers":["x","y"],"fuel":1}}"#), expected);
        }
        assert!(matches!(heard(Ending::Exited { code: NOT_HERE }, ""), Err(BoxError::Lost { .. })));
    }
}
