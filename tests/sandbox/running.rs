//! Honest programs: what goes in and what comes out.

use l402t::bounty::sandbox::{Ending, Tier};

use super::{run, sandbox, shell, text};

#[test]
fn a_command_reads_stdin_and_answers_on_stdout() {
    let outcome = run(&shell("tr a-z A-Z; echo aside >&2; exit 3").stdin("hello"));
    assert_eq!(outcome.ending, Ending::Exited { code: 3 }, "{outcome:?}");
    assert_eq!((text(&outcome).as_str(), outcome.stderr.as_slice()), ("HELLO", "aside\n".as_bytes()));
    assert_eq!(outcome.tier, sandbox().tier());
    if outcome.tier != Tier::Rlimits {
        assert!(outcome.usage.peak_memory_bytes.expect("counted") > 4_096);
    }
}
