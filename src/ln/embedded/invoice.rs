//! Invoices with the CLTV delta that was asked for.
//!
//! ldk-node always writes 42 blocks, of which LDK keeps 39 for itself: too short to hold anything. The `c` field is
//! rewritten and the invoice signed again with the node's own key; LDK checks an incoming HTLC against its own, lower
//! bound, so it takes what this asks for.

use ldk_node::lightning_invoice::{Bolt11Invoice, MinFinalCltvExpiryDelta, RawTaggedField, TaggedField};
use secp256k1::{SECP256K1, SecretKey};

use crate::ln::LnError;

/// The same invoice asking for `blocks` on the last hop, signed with the node's key.
pub(super) fn with_final_cltv(
    invoice: Bolt11Invoice,
    blocks: u32,
    node_secret: &SecretKey,
) -> Result<Bolt11Invoice, LnError> {
    let payee = invoice.get_payee_pub_key();
    let (mut raw, _, _) = invoice.into_signed_raw().into_parts();
    raw.data
        .tagged_fields
        .retain(|field| !matches!(field, RawTaggedField::KnownSemantics(TaggedField::MinFinalCltvExpiryDelta(_))));
    let delta = TaggedField::MinFinalCltvExpiryDelta(MinFinalCltvExpiryDelta(u64::from(blocks)));
    raw.data.tagged_fields.push(delta.into());
    let signed = raw.sign::<_, ()>(|hash| Ok(SECP256K1.sign_ecdsa_recoverable(hash, node_secret)));
    let invoice = signed.ok().and_then(|signed| Bolt11Invoice::from_signed(signed).ok());
    // A key that is not the node's would make an invoice that nobody can pay.
    invoice
        .filter(|invoice| invoice.get_payee_pub_key() == payee)
        .ok_or_else(|| LnError::Unavailable("its invoice could not be signed again".into()))
}
