//! What the transaction server says to payers, to facilitation and, signed, to vendors; and what a
//! vendor says to facilitation. Every body is strict JSON: an unknown key is refused.
//!
//! | from | to | body |
//! | --- | --- | --- |
//! | vendor | facilitation | [`order::Order`] gets [`order::Accepted`] (A6) |
//! | facilitation | transaction server | [`order::Placement`] gets [`order::Issued`] (A9) |
//! | payer | transaction server | [`payment::Payment`], or [`form::Posted`], gets [`payment::Outcome`] (A11) |
//! | transaction server | vendor | [`result::SignedResult`] (A14) |

pub mod after;
pub mod card;
pub mod form;
pub mod hmac_secret;
pub mod order;
pub mod page_signature;
pub mod payment;
pub mod result;
pub mod words;

mod reveal {
    //! The places where a secret has to be written out, to the one peer that it is for.

    use cloakway_crypto::Secret;
    use serde::Serializer;

    pub(crate) fn secret<S: Serializer>(secret: &Secret<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }
}
