//! The tools: what each is called, takes and does, and which command that is.

use std::path::PathBuf;

use rmcp::handler::server::tool::schema_for_input;
use rmcp::model::{ErrorData, JsonObject, Tool, ToolAnnotations};
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::place::Place;
use crate::cli::{
    BountyClaimArgs, BountyCommand, BountyIdArgs, BountyListArgs, BountyStatusArgs, BountySubmitArgs, BountyTryArgs,
};
use crate::cmd::Failure;
use crate::cmd::bounty::claim::folder_name;
use crate::protocol::ids::BountyId;

/// Which coordinator's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// The coordinator's URL. Default: the configured one.
    coordinator: Option<String>,
}

/// Which bounty.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Show {
    /// The bounty's id, 64 hex digits.
    #[schemars(with = "String")]
    bounty: BountyId,
    /// The coordinator's URL. Default: the configured one.
    coordinator: Option<String>,
}

/// Which bounty, and where to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    /// The bounty's id, 64 hex digits.
    #[schemars(with = "String")]
    bounty: BountyId,
    /// A folder that is not there yet. Default: bounty- and the id's first digits.
    into: Option<PathBuf>,
    /// The coordinator's URL. Default: the configured one.
    coordinator: Option<String>,
}

/// Which workspace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Try {
    /// The folder that bounty_claim made.
    folder: PathBuf,
    /// A changed copy of its workspace. Default: the folder's own.
    workspace: Option<PathBuf>,
}

/// Which workspace, and for which score.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Submit {
    /// The folder that bounty_claim made.
    folder: PathBuf,
    /// What the change scores at least on the held-out items, a decimal number. Decides what it pays; overclaiming pays nothing.
    claim: String,
    /// A changed copy of its workspace. Default: the folder's own.
    workspace: Option<PathBuf>,
    /// Pay another fee for a change and a claim that had their verdict. Default: false, which tells that verdict for nothing.
    again: Option<bool>,
}

/// Whose submissions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Status {
    /// Only this bounty's, 64 hex digits. Default: all.
    #[schemars(with = "Option<String>")]
    bounty: Option<BountyId>,
}

/// Nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Balance {}

/// A call with its arguments.
#[derive(Debug)]
pub(super) enum Call {
    List(List),
    Show(Show),
    Claim(Claim),
    Try(Try),
    Submit(Submit),
    Status(Status),
    Balance(Balance),
}

/// What a call needs for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Wallet and journal.
    DataFolder,
    /// A sponsor's limits of memory and processor.
    Boxes,
    /// Nothing.
    Nothing,
}

/// A tool as clients see it.
fn tool<A: JsonSchema + 'static>(name: &'static str, description: &'static str, hints: ToolAnnotations) -> Tool {
    let schema = schema_for_input::<A>().unwrap_or_else(|error| {
        tracing::error!(%error, name, "a tool without its arguments");
        std::sync::Arc::default()
    });
    Tool::new(name, description, schema).annotate(hints)
}

/// All of them.
pub(super) fn all() -> Vec<Tool> {
    let looks = || ToolAnnotations::new().read_only(true);
    let adds = || ToolAnnotations::new().read_only(false).destructive(false);
    vec![
        tool::<List>(
            "bounty_list",
            "List a coordinator's bounties: what each pays, costs, and has reached so far.",
            looks().open_world(true),
        ),
        tool::<Show>("bounty_show", "Show one bounty as it is now.", looks().open_world(true)),
        tool::<Claim>(
            "bounty_claim",
            "Download what a bounty gives its agents into a new folder, with instructions in AGENTS.md. Costs package_fee_msat, \
             once: claimed again it is free until the bounty is over. May ask the person at the client first.",
            ToolAnnotations::new().read_only(false).destructive(true).open_world(true),
        ),
        tool::<Try>(
            "bounty_try",
            "Score the changed workspace on the public items, in the same boxes that decide later. Free.",
            looks().open_world(false),
        ),
        tool::<Submit>(
            "bounty_submit",
            "Submit the change of a claimed bounty's workspace, and wait for the verdict and the money. Costs the bounty's fee, \
             whatever the verdict; may ask the person at the client first. Called again with the same change and claim it goes on, \
             and pays nothing twice.",
            ToolAnnotations::new().read_only(false).destructive(true).open_world(true),
        ),
        tool::<Status>(
            "bounty_status",
            "Show submissions, and carry on those that are under way.",
            adds().idempotent(true).open_world(true),
        ),
        tool::<Balance>(
            "wallet_balance",
            "Show what the wallet holds, what was earned and spent, and what may still be spent.",
            looks().open_world(false),
        ),
    ]
}

impl Call {
    /// A call as a client makes it.
    pub(super) fn parse(name: &str, arguments: JsonObject) -> Result<Self, ErrorData> {
        Ok(match name {
            "bounty_list" => Self::List(read(arguments)?),
            "bounty_show" => Self::Show(read(arguments)?),
            "bounty_claim" => Self::Claim(read(arguments)?),
            "bounty_try" => Self::Try(read(arguments)?),
            "bounty_submit" => Self::Submit(read(arguments)?),
            "bounty_status" => Self::Status(read(arguments)?),
            "wallet_balance" => Self::Balance(read(arguments)?),
            other => {
                return Err(ErrorData::invalid_params(format!("there is no tool {other:?}: see tools/list"), None));
            }
        })
    }

    /// What only one call at a time may have.
    pub(super) fn takes(&self) -> Takes {
        match self {
            Self::Claim(_) | Self::Submit(_) | Self::Status(_) => Takes::DataFolder,
            Self::Try(_) => Takes::Boxes,
            Self::List(_) | Self::Show(_) | Self::Balance(_) => Takes::Nothing,
        }
    }

    /// The command that it stands for; `None` for the balance, which no command of `l402t bounty` shows.
    pub(super) fn command(self, place: &Place) -> Result<Option<BountyCommand>, Failure> {
        let inside = |path: Option<PathBuf>| path.map(|path| place.inside(&path)).transpose();
        Ok(Some(match self {
            Self::List(List { coordinator }) => BountyCommand::List(BountyListArgs { coordinator }),
            Self::Show(Show { bounty, coordinator }) => BountyCommand::Show(BountyIdArgs { bounty, coordinator }),
            Self::Claim(Claim { bounty, into, coordinator }) => {
                let into = place.below(&into.unwrap_or_else(|| folder_name(bounty)))?;
                BountyCommand::Claim(BountyClaimArgs {
                    bounty,
                    into: Some(into),
                    max_price: None,
                    pay_again: false,
                    coordinator,
                })
            }
            Self::Try(Try { folder, workspace }) => {
                BountyCommand::Try(BountyTryArgs { folder: place.inside(&folder)?, workspace: inside(workspace)? })
            }
            Self::Submit(Submit { folder, claim, workspace, again }) => BountyCommand::Submit(BountySubmitArgs {
                folder: place.inside(&folder)?,
                claim,
                workspace: inside(workspace)?,
                coordinator: None,
                again: again.unwrap_or(false),
            }),
            Self::Status(Status { bounty }) => BountyCommand::Status(BountyStatusArgs { bounty }),
            Self::Balance(Balance {}) => return Ok(None),
        }))
    }
}

fn read<A: DeserializeOwned>(arguments: JsonObject) -> Result<A, ErrorData> {
    serde_json::from_value(serde_json::Value::Object(arguments))
        .map_err(|error| ErrorData::invalid_params(error.to_string(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_that_is_listed_can_be_called_and_says_what_it_takes() {
        for tool in all() {
            let required = tool.input_schema.get("required").cloned().unwrap_or_default();
            let properties =
                tool.input_schema.get("properties").and_then(|all| all.as_object()).cloned().unwrap_or_default();
            let given = properties
                .keys()
                .filter(|key| required.as_array().is_some_and(|all| all.iter().any(|one| one == *key)));
            let value = |key: &String| match key.as_str() {
                "bounty" => "ab".repeat(32),
                _ => "x".to_owned(),
            };
            let arguments: JsonObject = given.map(|key| (key.clone(), value(key).into())).collect();
            Call::parse(&tool.name, arguments.clone()).unwrap_or_else(|error| panic!("{}: {error}", tool.name));
            let mut unknown = arguments;
            unknown.insert("max_fee".into(), 1.into());
            assert!(Call::parse(&tool.name, unknown).is_err(), "{} takes what it does not know", tool.name);
            assert!(properties.values().all(|property| property["description"].is_string()), "{}", tool.name);
        }
        assert!(Call::parse("wallet_send", JsonObject::new()).is_err());
    }
}
