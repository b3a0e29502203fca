//! An agent that speaks the Model Context Protocol, as its client's lines on stdin: in a version with a handshake, and in the one
//! without.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{FEE_MSAT, MSAT_AN_ITEM, PACKAGE_MSAT, Scene, answers, number};

/// What a route may take of so small a fee, in msat.
const ROUTING_MSAT: u64 = 5_000;
/// With the handshake, and without.
const OLD: &str = "2025-06-18";
const NEW: &str = "2026-07-28";

/// A client, and the server that it started.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    version: &'static str,
    capabilities: Value,
    calls: u64,
}

impl Client {
    /// `capabilities` are the client's.
    fn start(scene: &Scene, version: &'static str, capabilities: Value) -> Self {
        let mut command = scene.program();
        command.args(["mcp", "--data", "a", "--config", "mcp.toml"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("piped")));
        let mut client = Self { child, stdin, stdout, version, capabilities, calls: 0 };
        if version == OLD {
            let params = json!({
                "protocolVersion": OLD,
                "capabilities": client.capabilities,
                "clientInfo": { "name": "test", "version": "1" },
            });
            let initialized = client.request("initialize", params);
            assert_eq!(initialized["result"]["protocolVersion"], OLD, "{initialized}");
            client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        }
        client
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.stdin.as_mut().expect("open"), "{message}").expect("written");
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(self.stdout.read_line(&mut line).expect("read"), 0, "the server has ended");
        serde_json::from_str(&line).expect("a JSON line")
    }

    fn begin(&mut self, method: &str, mut params: Value) {
        self.calls += 1;
        if self.version == NEW {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": NEW,
                "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": self.capabilities,
            });
        }
        self.send(&json!({ "jsonrpc": "2.0", "id": self.calls, "method": method, "params": params }));
    }

    fn request(&mut self, method: &str, params: Value) -> Value {
        self.begin(method, params);
        let answer = self.next();
        assert_eq!(answer["id"], self.calls, "{answer}");
        answer
    }

    /// What a tool answers: {ok, result, error, next_actions}.
    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.request("tools/call", json!({ "name": tool, "arguments": arguments }));
        said(&answer)
    }

    /// Submits, and answers the server's question.
    fn submit(&mut self, claim: &str, action: &str, yes: bool) -> Value {
        self.pay("bounty_submit", json!({ "folder": "claimed", "claim": claim }), "Pay 10 sat", (action, yes))
    }

    /// Calls what costs something, and answers the server's question.
    fn pay(&mut self, tool: &str, arguments: Value, price: &str, (action, yes): (&str, bool)) -> Value {
        self.begin("tools/call", json!({ "name": tool, "arguments": arguments }));
        let question = self.next();
        assert_eq!(question["method"], "elicitation/create", "{question}");
        let message = question["params"]["message"].as_str().expect("text");
        assert!(message.contains(price) && message.contains("Double numbers"), "{message}");
        let result = json!({ "action": action, "content": { "pay": yes } });
        self.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": result }));
        said(&self.next())
    }

    /// The client hangs up; the server ends by itself.
    fn hang_up(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(answer: &Value) -> Value {
    let result = &answer["result"];
    let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(result["structuredContent"], serde_json::from_str::<Value>(text).expect("JSON"), "{answer}");
    assert_eq!(result["isError"], result["structuredContent"]["ok"] == false, "{answer}");
    result["structuredContent"].clone()
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

fn can_ask() -> Value {
    json!({ "elicitation": {} })
}

/// Lets `a` spend a package and two fees a day.
fn configure(scene: &Scene) {
    let most_sat = (PACKAGE_MSAT + 2 * FEE_MSAT + ROUTING_MSAT) / 1_000;
    let url = &scene.url;
    let text = format!(
        "[peer]\ncoordinator = \"{url}\"\n[bounty]\nmax_daily_fees_sat = {most_sat}\n[mcp]\nfolder = \"mine\"\n"
    );
    std::fs::write(scene.path().join("mcp.toml"), text).expect("written");
    std::fs::create_dir(scene.path().join("mine")).expect("made");
}

fn change(scene: &Scene, change: &str) {
    std::fs::write(scene.path().join("mine/claimed/workspace/double.py"), change).expect("written");
}

#[test]
fn a_client_earns_what_its_person_agreed_to_pay_for_and_no_more_than_a_day_allows() {
    let (scene, service) = Scene::open();
    configure(&scene);
    let bounty = scene.posted();

    // A client that has no person to ask may do everything else.
    let mut client = Client::start(&scene, OLD, json!({}));
    let tools = client.request("tools/list", json!({}));
    assert_eq!(tools["result"]["tools"].as_array().map(Vec::len), Some(7), "{tools}");
    let listed = client.call("bounty_list", json!({}));
    assert_eq!(listed["result"]["bounties"][0]["bounty"], bounty.as_str(), "{listed}");
    assert_eq!(code(&client.call("bounty_claim", json!({ "bounty": bounty, "into": "/tmp/elsewhere" }))), "outside");
    let claim = |into: &str| json!({ "bounty": bounty, "into": into });
    assert_eq!(code(&client.call("bounty_claim", claim("claimed"))), "confirmation_unavailable");
    client.hang_up();
    let mut client = Client::start(&scene, OLD, can_ask());
    let no = client.pay("bounty_claim", claim("claimed"), "Pay 1 sat", ("decline", false));
    assert_eq!((code(&no), scene.sold_msat(&bounty)), ("declined", 0), "{no}");
    let claimed = client.pay("bounty_claim", claim("claimed"), "Pay 1 sat", ("accept", true));
    assert_eq!(
        (&claimed["ok"], number(&claimed["result"]["package"], "paid_msat")),
        (&json!(true), PACKAGE_MSAT),
        "{claimed}"
    );
    client.hang_up();
    // What is paid for costs nothing more, and nobody has to be asked.
    let mut client = Client::start(&scene, OLD, json!({}));
    let again = client.call("bounty_claim", claim("again"));
    assert_eq!(again["result"]["package"]["token"], "reused", "{again}");
    assert_eq!(code(&client.call("bounty_claim", claim("claimed"))), "folder_exists");
    change(&scene, &answers(8, 0));
    let tried = client.call("bounty_try", json!({ "folder": "claimed" }));
    assert_eq!((&tried["result"]["improves"], &tried["result"]["score"]), (&json!(true), &json!("8")), "{tried}");

    let refused = client.call("bounty_submit", json!({ "folder": "claimed", "claim": "8" }));
    assert_eq!(code(&refused), "confirmation_unavailable", "{refused}");
    client.hang_up();

    // What is a link, or lies behind one, is nobody's to submit.
    let mut client = Client::start(&scene, OLD, can_ask());
    let folder = scene.path().join("mine/claimed");
    std::fs::rename(folder.join("workspace"), scene.path().join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink(scene.path().join("elsewhere"), folder.join("workspace")).expect("made");
    assert_eq!(code(&client.call("bounty_try", json!({ "folder": "claimed" }))), "workspace");
    std::fs::remove_file(folder.join("workspace")).expect("removed");
    std::fs::rename(scene.path().join("elsewhere"), folder.join("workspace")).expect("moved");

    // Nobody's yes, or none that means it: nothing is paid.
    assert_eq!(code(&client.submit("8", "decline", true)), "declined");
    assert_eq!(code(&client.submit("8", "accept", false)), "declined");
    let unpaid = client.call("wallet_balance", json!({}));
    assert_eq!(number(&unpaid["result"], "spent_24h_msat"), PACKAGE_MSAT, "{unpaid}");
    let submitted = client.submit("8", "accept", true);
    assert_eq!(number(&submitted["result"], "reward_msat"), 4 * MSAT_AN_ITEM, "{submitted}");
    let balance = client.call("wallet_balance", json!({}))["result"].clone();
    let (spent, left) = (number(&balance, "spent_24h_msat"), number(&balance, "left_24h_msat"));
    assert_eq!((spent, left), (PACKAGE_MSAT + FEE_MSAT, FEE_MSAT + ROUTING_MSAT), "{balance}");
    assert_eq!(number(&balance["totals"], "received_msat"), 4 * MSAT_AN_ITEM, "{balance}");
    assert!(number(&balance["wallet"], "in_channels_sat") > 0, "{balance}");
    client.hang_up();

    // Without a handshake the question is the answer, and an answer to another question is none.
    change(&scene, &answers(12, 0));
    let mut client = Client::start(&scene, NEW, can_ask());
    let arguments = |claim: &str| json!({ "folder": "claimed", "claim": claim });
    let params = |claim: &str| json!({ "name": "bounty_submit", "arguments": arguments(claim) });
    let yes = json!({ "pay": { "action": "accept", "content": { "pay": true } } });
    let first = client.request("tools/call", params("11"))["result"].clone();
    assert_eq!(first["resultType"], "input_required", "{first}");
    assert_eq!(first["inputRequests"]["pay"]["method"], "elicitation/create", "{first}");
    let mut other = params("12");
    other["inputResponses"] = yes.clone();
    other["requestState"] = first["requestState"].clone();
    let asked_again = client.request("tools/call", other)["result"].clone();
    assert_eq!(
        asked_again["resultType"], "input_required",
        "a yes to claiming 11 is none to claiming 12: {asked_again}"
    );
    let mut agreed = params("12");
    let spent = number(&client.call("wallet_balance", json!({}))["result"], "spent_24h_msat");
    assert_eq!(spent, PACKAGE_MSAT + FEE_MSAT, "a question costs nothing");
    agreed["inputResponses"] = yes;
    agreed["requestState"] = asked_again["requestState"].clone();
    let submitted = said(&client.request("tools/call", agreed.clone()));
    assert_eq!(number(&submitted["result"], "reward_msat"), 4 * MSAT_AN_ITEM, "{submitted}");
    assert_eq!(
        said(&client.request("tools/call", agreed.clone()))["result"]["earlier"],
        true,
        "told again, and paid once"
    );
    agreed["arguments"]["again"] = json!(true);
    let refused = said(&client.request("tools/call", agreed));
    assert_eq!(refused["ok"], false, "one yes is for one fee: {refused}");
    client.hang_up();

    // A third fee would be more than a day allows.
    change(&scene, &answers(16, 0));
    let mut client = Client::start(&scene, OLD, json!({}));
    let refused = client.call("bounty_submit", arguments("16"));
    assert_eq!(code(&refused), "spending_cap", "nobody is asked in vain: {refused}");
    client.hang_up();
    assert_eq!(scene.agents_book("a"), (2 * FEE_MSAT, 8 * MSAT_AN_ITEM));
    scene.close(&bounty);
    assert_eq!(scene.coordinators_book(&bounty), (2 * FEE_MSAT, 8 * MSAT_AN_ITEM));
    service.kill();
}

#[test]
fn a_submission_of_a_server_that_was_killed_or_left_goes_on_and_is_paid_for_once() {
    let (scene, service) = Scene::open();
    configure(&scene);
    let bounty = scene.posted();
    let arguments = ["bounty", "claim", &bounty, "--coordinator", &scene.url, "--data", "a", "--into", "mine/claimed"];
    assert_eq!(scene.output(&arguments).0, Some(0));
    change(&scene, &answers(10, 2));

    // Killed with the fee paid; then the client hangs up, which ends the server in order; then somebody waits for the verdict.
    let submit = json!({ "name": "bounty_submit", "arguments": { "folder": "claimed", "claim": "10" } });
    let mut client = Client::start(&scene, OLD, can_ask());
    client.begin("tools/call", submit.clone());
    let question = client.next();
    let result = json!({ "action": "accept", "content": { "pay": true } });
    client.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": result }));
    while scene.output(&["ledger", "--data", "a"]).1["result"]["totals"]["fees_msat"].as_u64().unwrap_or(0) == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(client);
    let mut client = Client::start(&scene, OLD, json!({}));
    client.begin("tools/call", submit);
    std::thread::sleep(Duration::from_millis(500));
    drop(client.stdin.take());
    client.child.wait().expect("it ends");
    let mut client = Client::start(&scene, OLD, can_ask());
    let status = client.call("bounty_status", json!({}));
    assert_eq!(status["result"]["submissions"][0]["state"], "reached", "{status}");
    client.hang_up();
    assert_eq!(scene.agents_book("a"), (FEE_MSAT, 6 * MSAT_AN_ITEM));
    service.kill();
}
