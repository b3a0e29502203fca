//! Help, errors and exit codes. Set `L402T_UPDATE_SNAPSHOTS=1` to write the snapshots anew, and read the difference.

use std::path::PathBuf;

use crate::{home, l402t, result, run, stderr, stdout};

#[allow(clippy::disallowed_methods, reason = "a switch of the test run, not of the program")]
fn check_snapshot(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("L402T_UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, actual).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "differs from {}", path.display());
}

#[test]
fn the_help_of_every_command_is_as_it_was() {
    let home = home();
    for command in [
        "",
        "coordinate",
        "peer",
        "validate",
        "replay",
        "export",
        "ledger",
        "fetch",
        "wallet",
        "wallet backup",
        "wallet restore",
        "doctor",
        "openapi",
    ] {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = run(home.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(stderr(&output).is_empty(), "{command}");
        check_snapshot(
            &format!("help-{}", if command.is_empty() { "l402t".to_owned() } else { command.replace(' ', "-") }),
            &stdout(&output),
        );
    }
}

/// Arguments, exit code, error, fix.
const MISTAKES: &[(&[&str], i32, &str, &str)] = &[
    (&[], 2, "no command was given", "Start with: l402t demo"),
    (&["per"], 2, "unrecognized subcommand 'per'", "some similar subcommands exist: 'replay', 'export', 'peer'"),
    (
        &["replay", "3", "0000000000000000000000000000000000000000000000000000000000000001"],
        2,
        "round 3 is of a training run",
        "l402t replay ROUND, or l402t replay bounty ID",
    ),
    (
        &["replay", "bounty", "0000000000000000000000000000000000000000000000000000000000000001", "--threads", "1"],
        2,
        "a bounty is evaluated in boxes",
        "Leave them out",
    ),
    (&["replay", "bounty"], 2, "which bounty?", "l402t replay bounty ID; see l402t bounty list"),
    (&["replay"], 2, "the following required arguments were not provided: <ROUND>", "See l402t replay --help"),
    (
        &["peer", "--data", "p"],
        2,
        "no coordinator is named",
        "Give it with --coordinator URL, or as coordinator under [peer] in the configuration",
    ),
    (
        &["peer", "--data", "p", "--coordinator", "ftp://x"],
        2,
        "\"ftp://x\" is not a coordinator's URL: ",
        "Write it as http://host:port",
    ),
    (
        &["coordinate", "--data", "c", "--listen", "here"],
        2,
        "\"here\" is not an address and port",
        "Write it as 127.0.0.1:8402",
    ),
    (
        &["ledger", "--data", "nothing"],
        2,
        "nothing is not the data folder of a coordinator or a peer",
        "Name the folder with --data DIR",
    ),
    (
        &["peer", "--config", "none.toml"],
        2,
        "could not read the configuration file none.toml: No such file or directory (os error 2)",
        "See config.example.toml for every key",
    ),
    (
        &["peer", "--data", "p", "--coordinator", "http://127.0.0.1:1", "--log", "l402t=loud"],
        2,
        "\"l402t=loud\" is not a log filter: ",
        "Write it as in RUST_LOG, for example warn, info or l402t=debug",
    ),
];

#[test]
fn a_mistake_is_named_with_its_remedy() {
    for (arguments, code, message, fix) in MISTAKES {
        let home = home();
        let output = run(home.path(), arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {text}");
        let error = text.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or_default();
        assert!(error.starts_with(message), "{arguments:?}: {text}");
        assert_eq!(text.lines().find_map(|line| line.strip_prefix("fix: ")), Some(*fix), "{arguments:?}");
        assert!(stdout(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn with_json_a_mistake_is_one_object_on_stdout() {
    for (arguments, code, message, fix) in MISTAKES.iter().filter(|(arguments, ..)| !arguments.is_empty()) {
        let home = home();
        let output = run(home.path(), &[*arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}");
        let answer: serde_json::Value = serde_json::from_str(stdout(&output).trim()).expect("one object");
        assert_eq!((&answer["ok"], answer["next_actions"].is_array()), (&false.into(), true), "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.starts_with(message)), "{answer}");
        assert_eq!(answer["error"]["fix"].as_str(), Some(*fix));
        let word = answer["error"]["code"].as_str().expect("a code");
        assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
    }
}

#[test]
fn an_unknown_configuration_key_is_named_with_its_line() {
    let home = home();
    std::fs::write(home.path().join("c.toml"), "[peer]\nthreads = 1\nthraeds = 2\n").expect("written");
    let output = run(home.path(), &["peer", "--config", "c.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("c.toml: line 3: unknown field `thraeds`"), "{text}");
}

#[test]
fn an_unknown_variable_is_named() {
    let home = home();
    let output = l402t(home.path()).arg("peer").env("L402T_PEER_THRAEDS", "2").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("environment variable L402T_PEER_THRAEDS: unknown field `thraeds`"));
}

#[test]
fn a_damaged_identity_is_reported_and_kept() {
    let home = home();
    std::fs::create_dir(home.path().join("p")).expect("made");
    std::fs::write(home.path().join("p/identity.key"), b"short").expect("written");
    let output = run(home.path(), &["peer", "--data", "p", "--coordinator", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("identity.key is damaged: it has 5 bytes where a key has 32"),
        "{}",
        stderr(&output)
    );
    assert_eq!(std::fs::read(home.path().join("p/identity.key")).expect("kept"), b"short");
}

#[test]
fn a_coordinator_that_is_down_is_exit_code_3() {
    let home = home();
    let output = l402t(home.path())
        .args(["peer", "--data", "p", "--coordinator", "http://127.0.0.1:1"])
        .env("L402T_PEER_GIVE_UP_AFTER_S", "0")
        .output()
        .expect("it starts");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("error: the coordinator did not answer for 0 s while trying to read the run"), "{text}");
    assert!(text.contains("fix: Check the URL and the network"), "{text}");
}

#[test]
fn the_openapi_description_is_printed_as_it_is() {
    let home = home();
    let output = run(home.path(), &["openapi"]);
    assert_eq!(stdout(&output).trim_end(), include_str!("../../docs/openapi.json").trim_end());
}

#[test]
fn the_doctor_names_what_is_in_the_way_and_changes_nothing() {
    let home = home();
    let output = run(home.path(), &["doctor", "coordinate", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let report = result(&output);
    assert_eq!(report["ready"], true);
    let checks = report["checks"].as_array().expect("a list");
    let sandbox = checks.iter().find(|check| check["name"] == "sandbox").expect("it was tried");
    let said = sandbox["message"].as_str().expect("words");
    assert!(said.contains("from inside nobody could open core_pattern for writing, see a file outside"), "{said}");
    std::fs::write(home.path().join("lnd.toml"), "[lightning]\nnode = \"lnd\"\n").expect("written");
    let output = run(home.path(), &["doctor", "--config", "lnd.toml"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let said = stdout(&output);
    assert!(said.contains("FAIL  lightning") && said.contains("bakemacaroon"), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(home.path()).expect("readable").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lnd.toml"]);
}
