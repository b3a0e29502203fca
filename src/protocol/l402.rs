//! L402 tokens (macaroon V2 + preimage) and the headers that carry them.
