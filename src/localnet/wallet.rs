//! What a node's owner asks of LND here: addresses, balances, channels. Payments are not made through this.

use fedimint_tonic_lnd::lnrpc;
use serde::Serialize;

use super::LocalnetError;
use super::lnd::LndFiles;

/// A connection to an LND with its admin macaroon.
#[derive(Clone)]
pub struct LndWallet {
    client: fedimint_tonic_lnd::Client,
    address: String,
}

impl std::fmt::Debug for LndWallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LndWallet").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One of an LND's channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LndChannel {
    /// The other node, 66 hex digits.
    pub node_id: String,
    /// Can it be used now?
    pub active: bool,
    /// In sat.
    pub capacity_sat: u64,
    /// What this side has, in sat.
    pub local_sat: u64,
    /// What the other side has, in sat.
    pub remote_sat: u64,
    /// HTLCs under way.
    pub pending_htlcs: usize,
}

impl LndWallet {
    /// Connects lazily: an error means that the certificate or macaroon can't be read.
    pub(super) async fn connect(files: &LndFiles) -> Result<Self, LocalnetError> {
        // The client crate takes the process's provider; only the first call sets it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = files.rpc.to_string();
        let url = format!("https://{address}");
        match fedimint_tonic_lnd::connect(url, &files.tls_cert, &files.admin_macaroon).await {
            Ok(client) => Ok(Self { client, address }),
            Err(error) => Err(LocalnetError::Lnd { address, what: "be connected to", reason: error.to_string() }),
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(fedimint_tonic_lnd::Error) -> LocalnetError + use<> {
        let address = self.address.clone();
        move |status| LocalnetError::Lnd { address, what, reason: status.message().to_owned() }
    }

    async fn info(&mut self) -> Result<lnrpc::GetInfoResponse, LocalnetError> {
        let failed = self.failed("say its state");
        let answer = self.client.lightning().get_info(lnrpc::GetInfoRequest {}).await;
        answer.map(|answer| answer.into_inner()).map_err(failed)
    }

    /// Has it followed the chain to its tip?
    pub(super) async fn is_synced(&mut self) -> Result<bool, LocalnetError> {
        self.info().await.map(|info| info.synced_to_chain)
    }

    /// Its public key, 66 hex digits.
    ///
    /// # Errors
    /// When LND doesn't answer.
    pub async fn node_id(&mut self) -> Result<String, LocalnetError> {
        self.info().await.map(|info| info.identity_pubkey)
    }

    /// The height of the best block it knows.
    ///
    /// # Errors
    /// When LND doesn't answer.
    pub async fn height(&mut self) -> Result<u32, LocalnetError> {
        self.info().await.map(|info| info.block_height)
    }

    /// A new on-chain address.
    ///
    /// # Errors
    /// When LND doesn't answer.
    pub async fn new_address(&mut self) -> Result<String, LocalnetError> {
        let failed = self.failed("make an address");
        let request =
            lnrpc::NewAddressRequest { r#type: lnrpc::AddressType::WitnessPubkeyHash.into(), ..Default::default() };
        let answer = self.client.lightning().new_address(request).await;
        answer.map(|answer| answer.into_inner().address).map_err(failed)
    }

    /// Confirmed coins, in sat.
    ///
    /// # Errors
    /// When LND doesn't answer.
    pub async fn balance_sat(&mut self) -> Result<u64, LocalnetError> {
        let failed = self.failed("say its balance");
        let answer = self.client.lightning().wallet_balance(lnrpc::WalletBalanceRequest::default()).await;
        let balance = answer.map_err(failed)?.into_inner().confirmed_balance;
        Ok(u64::try_from(balance).unwrap_or(0))
    }

    /// Connects to another node; one that is connected already is no error.
    ///
    /// # Errors
    /// When the other node can't be reached.
    pub async fn connect_to(&mut self, node_id: &str, address: &str) -> Result<(), LocalnetError> {
        let failed = self.failed("connect to another node");
        let addr = lnrpc::LightningAddress { pubkey: node_id.to_owned(), host: address.to_owned() };
        let request = lnrpc::ConnectPeerRequest { addr: Some(addr), perm: true, timeout: 10 };
        match self.client.lightning().connect_peer(request).await {
            Err(status) if !status.message().contains("already connected") => Err(failed(status)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Opens a channel of `capacity_sat` and gives the other side `push_sat` of it. It takes a block to be usable.
    ///
    /// # Errors
    /// When LND refuses: the other node is not connected, or there are too few coins.
    pub async fn open_channel(&mut self, node_id: &str, capacity_sat: u64, push_sat: u64) -> Result<(), LocalnetError> {
        let failed = self.failed("open a channel");
        let refused = |reason: String| LocalnetError::Lnd { address: String::new(), what: "open a channel", reason };
        let request = lnrpc::OpenChannelRequest {
            node_pubkey: hex::decode(node_id).map_err(|error| refused(error.to_string()))?,
            local_funding_amount: i64::try_from(capacity_sat).map_err(|error| refused(error.to_string()))?,
            push_sat: i64::try_from(push_sat).map_err(|error| refused(error.to_string()))?,
            // Embedded nodes refuse channels that are to be announced: they have no alias.
            private: true,
            ..Default::default()
        };
        self.client.lightning().open_channel_sync(request).await.map(drop).map_err(failed)
    }

    /// What it can send over its channels, to the msat: their reserves don't count. Its channels' own figures are in whole
    /// sat.
    ///
    /// # Errors
    /// When LND doesn't answer.
    pub async fn spendable_msat(&mut self) -> Result<u64, LocalnetError> {
        let failed = self.failed("say its channels' balance");
        let answer = self.client.lightning().channel_balance(lnrpc::ChannelBalanceRequest {}).await;
        let local_msat = answer.map_err(failed)?.into_inner().local_balance.map_or(0, |balance| balance.msat);
        let failed = self.failed("list its channels");
        let answer = self.client.lightning().list_channels(lnrpc::ListChannelsRequest::default()).await;
        let channels = answer.map_err(failed)?.into_inner().channels;
        let reserves = channels.into_iter().filter_map(|channel| channel.local_constraints);
        let reserves_sat: u64 = reserves.map(|constraints| constraints.chan_reserve_sat).sum();
        Ok(local_msat.saturating_sub(reserves_sat.saturating_mul(1_000)))
    }

    /// Its open channels.
    ///
    /// # Errors
    /// When LND doesn't answer.
    pub async fn channels(&mut self) -> Result<Vec<LndChannel>, LocalnetError> {
        let failed = self.failed("list its channels");
        let answer = self.client.lightning().list_channels(lnrpc::ListChannelsRequest::default()).await;
        let sat = |sat: i64| u64::try_from(sat).unwrap_or(0);
        let channels = answer.map_err(failed)?.into_inner().channels.into_iter().map(|channel| LndChannel {
            node_id: channel.remote_pubkey,
            active: channel.active,
            capacity_sat: sat(channel.capacity),
            local_sat: sat(channel.local_balance),
            remote_sat: sat(channel.remote_balance),
            pending_htlcs: channel.pending_htlcs.len(),
        });
        Ok(channels.collect())
    }
}
