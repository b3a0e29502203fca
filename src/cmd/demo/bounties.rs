//! `l402t demo --bounties`: a sponsor posts two of the example bounties, an agent improves both and is paid, five cheats are not;
//! then the bounties close, and an auditor evaluates everything again. Every one of them is this program with a data folder and
//! a Lightning node of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::folder::DemoFolder;
use super::members::Members;
use super::{call, wait_for_url};
use crate::bounty::diff;
use crate::bounty::tree::{File, Tree};
use crate::clock::Stopwatch;
use crate::cmd::Failure;
use crate::protocol::amount::Msat;
use crate::ui::{Align, Table, Ui};

const COORDINATOR: &str = "coordinator";
const SPONSOR: &str = "sponsor";
/// What the sponsor's channel lets it lock for each of the two.
const BUDGET_SAT: u64 = 40_000;

/// A bounty of the examples.
struct Example {
    name: &'static str,
    files: &'static [(&'static str, &'static [u8])],
    target: &'static str,
    baseline: &'static str,
}

macro_rules! files {
    ($example:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../../examples/bounties/", $example, "/", $path)))),*]
    };
}

const EXAMPLES: [Example; 2] = [
    Example {
        name: "logs",
        files: files!("logs": "bounty.toml", "workspace/codec.py", "scorer/score.py", "public/inputs", "held-out/inputs"),
        target: "codec.py",
        baseline: include_str!("../../../examples/bounties/logs/workspace/codec.py"),
    },
    Example {
        name: "digits",
        files: files!(
            "digits": "bounty.toml", "workspace/classify.py", "workspace/train/inputs", "workspace/train/labels",
            "scorer/score.py", "public/inputs", "public/labels", "held-out/inputs", "held-out/labels",
        ),
        target: "classify.py",
        baseline: include_str!("../../../examples/bounties/digits/workspace/classify.py"),
    },
];
const LOGS: usize = 0;
const DIGITS: usize = 1;

/// What is done to a target file.
enum Change {
    /// A diff that the example itself shows.
    Diff(&'static str),
    /// Another content.
    Content(&'static str),
}

const DICTIONARY: Change = Change::Diff(include_str!("../../../examples/bounties/logs/better.diff"));
const NEIGHBOURS: Change = Change::Diff(include_str!("../../../examples/bounties/digits/better.diff"));

/// What somebody submits.
struct Attempt {
    who: &'static str,
    /// For people.
    what: &'static str,
    example: usize,
    change: Change,
    claim: &'static str,
    /// What it has to come to.
    verdict: &'static str,
}

impl Attempt {
    /// The target file that is submitted.
    fn content(&self) -> Result<Vec<u8>, Failure> {
        let change = match &self.change {
            Change::Content(content) => return Ok(content.as_bytes().to_vec()),
            Change::Diff(change) => change,
        };
        let example = &EXAMPLES[self.example];
        let mut workspace = Tree::default();
        workspace.insert(example.target, File::plain(example.baseline));
        let targets = [example.target.to_owned()];
        let changed =
            diff::apply(&workspace, change.as_bytes(), &targets, change.len() as u64).map_err(Failure::bug)?;
        Ok(changed.get(example.target).map(|file| file.content.clone()).unwrap_or_default())
    }
}

/// In this order. The cheats know what a stranger could.
const ATTEMPTS: [Attempt; 7] = [
    Attempt {
        who: "ada",
        what: "compresses with a dictionary",
        example: LOGS,
        change: DICTIONARY,
        claim: "21000",
        verdict: "reached",
    },
    Attempt {
        who: "ada",
        what: "asks the seven nearest images",
        example: DIGITS,
        change: NEIGHBOURS,
        claim: "0.9300",
        verdict: "reached",
    },
    Attempt {
        who: "kit",
        what: "sends the same files again, with a bolder claim",
        example: LOGS,
        change: DICTIONARY,
        claim: "20600",
        verdict: "no_improvement",
    },
    Attempt {
        who: "max",
        what: "changes a comment and claims the target",
        example: LOGS,
        change: Change::Content(concat!(
            "# Faster.\n",
            include_str!("../../../examples/bounties/logs/workspace/codec.py")
        )),
        claim: "18000",
        verdict: "below_claim",
    },
    Attempt {
        who: "eve",
        what: "prints a score instead of answers",
        example: DIGITS,
        change: Change::Content("print('{\"accuracy\": 1.0}')\n"),
        claim: "0.9800",
        verdict: "malformed_output",
    },
    Attempt {
        who: "ron",
        what: "answers by the order of the items",
        example: DIGITS,
        change: Change::Content("import sys\nfor place, item in enumerate(sys.stdin):\n    print(place % 10)\n"),
        claim: "0.9800",
        verdict: "nondeterministic",
    },
    Attempt {
        who: "gus",
        what: "floods the output",
        example: DIGITS,
        change: Change::Content("import sys\nfor item in sys.stdin:\n    print('7' * 10_000_000)\n"),
        claim: "0.9800",
        verdict: "output_limit",
    },
];

/// What `--json` prints in the end.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    bounties: u32,
    submissions: u32,
    accepted: u32,
    rejected: BTreeMap<String, u32>,
    /// Rewards that agents have received.
    paid_msat: Msat,
    /// Fees that agents have paid.
    fees_msat: Msat,
    /// What they have paid for packages.
    packages_msat: Msat,
    /// What of the budgets came back to the sponsor: never taken, or taken and paid back.
    refunded_msat: Msat,
    /// Budgets = rewards + what came back, and the coordinator's books say the same as the agents' and the sponsor's.
    msat_conserved: bool,
    /// Did every bounty come out the same for an auditor?
    replay_identical: bool,
    /// Did everybody get the verdict of their own?
    as_expected: bool,
    seconds: u64,
}

impl Summary {
    pub(super) fn as_it_should_be(&self) -> bool {
        self.msat_conserved && self.replay_identical && self.as_expected
    }
}

/// Plays it all.
pub(super) async fn play(ui: &Ui, folder: &DemoFolder, members: &mut Members) -> Result<Summary, Failure> {
    let time = Stopwatch::start();
    let config = folder.write("coordinator.toml", b"[coordinator]\nlisten = \"127.0.0.1:0\"\n")?;
    let [config, data] = [config, folder.of(COORDINATOR)].map(|path| path.display().to_string());
    let arguments = ["coordinate", "--bounties", "--json", "--config", &config, "--data", &data].map(str::to_owned);
    let coordinator = members.start(COORDINATOR, folder.path(), &arguments)?;
    let url = wait_for_url(members, coordinator).await?;
    ui.say(format!("The coordinator serves {url}"));
    let mut demo = Demo { ui, folder, url, bounties: Vec::new(), rows: Vec::new() };
    for example in &EXAMPLES {
        demo.post(example).await?;
    }
    for attempt in &ATTEMPTS {
        demo.submit(attempt).await?;
    }
    let summary = demo.settle(&time).await?;
    demo.show(&summary);
    Ok(summary)
}

struct Row {
    who: &'static str,
    what: &'static str,
    bounty: &'static str,
    claim: &'static str,
    verdict: String,
    expected: &'static str,
    reward_msat: Msat,
    fee_msat: Msat,
}

struct Demo<'a> {
    ui: &'a Ui,
    folder: &'a DemoFolder,
    url: String,
    /// Ids, as [`EXAMPLES`].
    bounties: Vec<String>,
    rows: Vec<Row>,
}

impl Demo<'_> {
    async fn post(&mut self, example: &Example) -> Result<(), Failure> {
        let place = self.folder.path().join("bounties").join(example.name);
        for (path, content) in example.files {
            write(&place.join(path), content)?;
        }
        let toml = place.join("bounty.toml");
        let text = std::fs::read_to_string(&toml).map_err(|error| Failure::io("read", &toml, &error))?;
        let budget = |line: &str| match line.starts_with("budget_sat") {
            true => format!("budget_sat = {BUDGET_SAT}\n"),
            false => format!("{line}\n"),
        };
        write(&toml, text.lines().map(budget).collect::<String>().as_bytes())?;
        let place = place.display().to_string();
        let answer = self.bounty(SPONSOR, &["post", &place]).await?;
        let id = answer["result"]["bounty"].as_str().filter(|_| answer["ok"] == true);
        let id = id.ok_or_else(|| Failure::bug(format_args!("{} was not posted: {answer}", example.name)))?;
        self.ui.say(format!("{SPONSOR} has posted {} and locked {BUDGET_SAT} sat: bounty {}", example.name, &id[..12]));
        self.bounties.push(id.to_owned());
        Ok(())
    }

    async fn submit(&mut self, attempt: &Attempt) -> Result<(), Failure> {
        let example = &EXAMPLES[attempt.example];
        let place = self.folder.path().join("work").join(attempt.who).join(example.name);
        let work = place.display().to_string();
        let claimed = self.bounty(attempt.who, &["claim", &self.bounties[attempt.example], "--into", &work]).await?;
        let target = place.join("workspace").join(example.target);
        let start = std::fs::read_to_string(&target).map_err(|error| Failure::io("read", &target, &error))?;
        if claimed["ok"] != true || start != example.baseline {
            return Err(Failure::bug(format_args!("{} could not claim {}: {claimed}", attempt.who, example.name)));
        }
        write(&target, &attempt.content()?)?;
        let answer = self.bounty(attempt.who, &["submit", &work, "--claim", attempt.claim]).await?;
        let result = &answer["result"];
        let state = result["state"].as_str().unwrap_or("none");
        let verdict = result["reason"].as_str().unwrap_or(state).to_owned();
        // What is refused before anything is paid has no result.
        let amount = |key: &str| if result.is_null() { Ok(Msat::ZERO) } else { msat(result, key) };
        self.ui.say(format!("{} {}: {verdict}", attempt.who, attempt.what));
        self.rows.push(Row {
            who: attempt.who,
            what: attempt.what,
            bounty: example.name,
            claim: attempt.claim,
            expected: attempt.verdict,
            reward_msat: amount("reward_msat")?,
            fee_msat: amount("fee_msat")?,
            verdict,
        });
        Ok(())
    }

    /// Closes the bounties, replays them, and compares everybody's books.
    async fn settle(&self, time: &Stopwatch) -> Result<Summary, Failure> {
        let (mut taken, mut paid_back, mut identical) = (Msat::ZERO, Msat::ZERO, true);
        let (mut fees, mut settled, mut still_locked) = (Msat::ZERO, Msat::ZERO, Msat::ZERO);
        let (mut book_taken, mut book_back, mut sold) = (Msat::ZERO, Msat::ZERO, Msat::ZERO);
        for id in &self.bounties {
            let closed = self.bounty(SPONSOR, &["close", id]).await?;
            taken = plus(taken, msat(&closed["result"], "taken_msat")?)?;
            paid_back = plus(paid_back, msat(&closed["result"], "paid_back_msat")?)?;
            let replayed = self.run(SPONSOR, &["replay", "bounty", id, "--from", &self.url]).await?;
            if replayed["result"]["identical"] != true {
                self.ui.say(format!("bounty {id} does not replay: {replayed}"));
                identical = false;
            }
            let data = self.folder.of(COORDINATOR).join("bounties").join(id).display().to_string();
            let totals = &call(&["ledger", "--data", &data, "--json"]).await?.1["result"]["totals"];
            for (sum, key) in [
                (&mut fees, "fees_received_msat"),
                (&mut sold, "packages_sold_msat"),
                (&mut settled, "rewards_settled_msat"),
                (&mut book_taken, "escrow_taken_msat"),
                (&mut book_back, "escrow_paid_back_msat"),
                (&mut still_locked, "rewards_locked_msat"),
            ] {
                *sum = plus(*sum, msat(totals, key)?)?;
            }
        }
        let agents: std::collections::BTreeSet<&str> = self.rows.iter().map(|row| row.who).collect();
        let (mut received, mut spent, mut bought) = (Msat::ZERO, Msat::ZERO, Msat::ZERO);
        for who in agents {
            let data = self.folder.of(who).display().to_string();
            let totals = &call(&["ledger", "--data", &data, "--json"]).await?.1["result"]["totals"];
            received = plus(received, msat(totals, "received_msat")?)?;
            spent = plus(spent, msat(totals, "fees_msat")?)?;
            bought = plus(bought, msat(totals, "purchases_msat")?)?;
        }
        let rewards = self.rows.iter().try_fold(Msat::ZERO, |sum, row| plus(sum, row.reward_msat))?;
        let not_taken = budgets().checked_sub(taken).ok_or_else(|| Failure::bug("more was taken than was locked"))?;
        let accepted = self.rows.iter().filter(|row| row.verdict == "reached").count() as u32;
        let mut rejected = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.verdict != "reached") {
            *rejected.entry(row.verdict.clone()).or_insert(0) += 1;
        }
        let agree = [
            (received, rewards),
            (settled, rewards),
            (book_taken, taken),
            (book_back, paid_back),
            (fees, spent),
            (sold, bought),
        ];
        Ok(Summary {
            bounties: self.bounties.len() as u32,
            submissions: self.rows.len() as u32,
            accepted,
            rejected,
            paid_msat: rewards,
            fees_msat: fees,
            packages_msat: sold,
            refunded_msat: plus(not_taken, paid_back)?,
            msat_conserved: agree.iter().all(|(a, b)| a == b)
                && taken == plus(rewards, paid_back)?
                && still_locked == Msat::ZERO,
            replay_identical: identical,
            as_expected: self.rows.iter().all(|row| row.verdict == row.expected),
            seconds: time.elapsed_ms() / 1_000,
        })
    }

    fn show(&self, summary: &Summary) {
        let mut table = Table::new(&[
            ("who", Align::Left),
            ("bounty", Align::Left),
            ("what", Align::Left),
            ("claim", Align::Right),
            ("verdict", Align::Left),
            ("paid", Align::Right),
            ("fee", Align::Right),
        ]);
        let sat = |amount: Msat| format!("{} sat", amount.sat_floor());
        for row in &self.rows {
            let texts = [row.who, row.bounty, row.what, row.claim, &row.verdict].map(str::to_owned);
            table.row(texts.into_iter().chain([sat(row.reward_msat), sat(row.fee_msat)]));
        }
        table.lines().iter().for_each(|line| self.ui.line(line));
        let yes = |so: bool| if so { "yes" } else { "NO" };
        self.ui.line(format!(
            "{} paid of {}, {} came back to the sponsor; {} for packages; every msat accounted for: {}; replays identical: {}; {} s",
            sat(summary.paid_msat),
            sat(budgets()),
            sat(summary.refunded_msat),
            sat(summary.packages_msat),
            yes(summary.msat_conserved),
            yes(summary.replay_identical),
            summary.seconds
        ));
    }

    /// A bounty command of somebody's, at the demo's coordinator.
    async fn bounty(&self, who: &str, arguments: &[&str]) -> Result<Value, Failure> {
        let at = ["--coordinator", self.url.as_str()];
        let at: &[&str] = if arguments[0] == "submit" { &[] } else { &at };
        self.run(who, &[&["bounty"], arguments, at].concat()).await
    }

    async fn run(&self, who: &str, arguments: &[&str]) -> Result<Value, Failure> {
        let data = self.folder.of(who).display().to_string();
        Ok(call(&[arguments, &["--data", &data, "--json"]].concat()).await?.1)
    }
}

/// What all sponsors have locked together.
fn budgets() -> Msat {
    Msat::new(BUDGET_SAT * 1_000 * EXAMPLES.len() as u64)
}

/// An amount of a result. One that is missing is no zero.
fn msat(value: &Value, key: &str) -> Result<Msat, Failure> {
    let amount = value[key].as_u64().map(Msat::new);
    amount.ok_or_else(|| Failure::bug(format_args!("there is no {key} in {value}")))
}

fn plus(a: Msat, b: Msat) -> Result<Msat, Failure> {
    a.checked_add(b).ok_or_else(|| Failure::bug(format_args!("{a} and {b} are more than there is")))
}

fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let folder: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, content));
    written.map_err(|error| Failure::io("write", path, &error))
}
