//! Signed tokens: JSON web tokens with etcd's claims, and no more of JOSE than that.
//!
//! A token is trusted only if its header names the configured algorithm, its signature is good
//! and its `exp` is in the future; there is no "none" and no choice by the token. Time in seconds
//! since 1970 is an argument.
//!
//! ES512 comes from a crate of its own: ring has no P-521. Its arithmetic is portable code, slower
//! than that of the others.
//!
//! Absent: encryption, key ids, other claims.
//! Source: RFC 7515, RFC 7518, RFC 8037; claims and options as etcd's `--auth-token jwt`.

mod keys;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p521::ecdsa::signature::{Signer as _, Verifier as _};
use ring::{hmac, rand::SystemRandom, signature};
use serde::{Deserialize, Serialize};

use super::TokenError;
use crate::config::JwtOptions;

pub use keys::KeyError;

/// What a token says (etcd's claims).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Seconds since 1970 from which on it is nothing any more.
    exp: u64,
    /// Auth revision of the login.
    pub(super) revision: u64,
    /// Who logged in.
    pub(super) username: String,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    alg: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<&'a str>,
}

/// A signature algorithm of RFC 7518 or 8037.
#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn signature::RsaEncoding, &'static signature::RsaParameters),
    Ecdsa(
        &'static signature::EcdsaSigningAlgorithm,
        &'static signature::EcdsaVerificationAlgorithm,
    ),
    P521,
    Ed25519,
}

impl Algorithm {
    fn of(name: &str) -> Result<Self, KeyError> {
        use signature as s;
        Ok(match name {
            "HS256" => Self::Hmac(hmac::HMAC_SHA256),
            "HS384" => Self::Hmac(hmac::HMAC_SHA384),
            "HS512" => Self::Hmac(hmac::HMAC_SHA512),
            "RS256" => Self::Rsa(&s::RSA_PKCS1_SHA256, &s::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&s::RSA_PKCS1_SHA384, &s::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&s::RSA_PKCS1_SHA512, &s::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&s::RSA_PSS_SHA256, &s::RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&s::RSA_PSS_SHA384, &s::RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&s::RSA_PSS_SHA512, &s::RSA_PSS_2048_8192_SHA512),
            "ES256" => {
                Self::Ecdsa(&s::ECDSA_P256_SHA256_FIXED_SIGNING, &s::ECDSA_P256_SHA256_FIXED)
            }
            "ES384" => {
                Self::Ecdsa(&s::ECDSA_P384_SHA384_FIXED_SIGNING, &s::ECDSA_P384_SHA384_FIXED)
            }
            "ES512" => Self::P521,
            "EdDSA" => Self::Ed25519,
            other => return Err(KeyError::Method(other.to_owned())),
        })
    }
}

/// A key that signs.
pub(super) enum Signer {
    Hmac(hmac::Key),
    Rsa(signature::RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ecdsa(signature::EcdsaKeyPair),
    P521(Box<p521::ecdsa::SigningKey>),
    Ed25519(signature::Ed25519KeyPair),
}

/// A key that verifies.
pub(super) enum Verifier {
    Hmac(hmac::Key),
    Public(signature::UnparsedPublicKey<Vec<u8>>),
    P521(Box<p521::ecdsa::VerifyingKey>),
}

/// Makes and checks tokens.
pub(super) struct Jwt {
    method: String,
    ttl_s: u64,
    /// `None`: this member can only check.
    signer: Option<Signer>,
    verifier: Verifier,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Jwt {
    /// Reads the keys that the options name.
    ///
    /// # Errors
    /// [`KeyError`]: a file that cannot be read or used, keys that do not belong together.
    pub(super) fn load(options: &JwtOptions) -> Result<Self, KeyError> {
        let read = |path: &str| {
            let bytes = (!path.is_empty()).then(|| std::fs::read(path)).transpose();
            bytes.map_err(|source| KeyError::Read { path: path.to_owned(), source })
        };
        let (private, public) = (read(&options.priv_key)?, read(&options.pub_key)?);
        Self::new(options, private.as_deref(), public.as_deref())
    }

    fn new(
        options: &JwtOptions,
        private: Option<&[u8]>,
        public: Option<&[u8]>,
    ) -> Result<Self, KeyError> {
        let algorithm = Algorithm::of(&options.sign_method)?;
        let (signer, verifier) = keys::pair(algorithm, private, public)?;
        let method = options.sign_method.clone();
        let jwt = Self { method, ttl_s: options.ttl.as_secs(), signer, verifier };
        if jwt.signer.is_some() {
            let probe = jwt.sign("", 0, 0).map_err(|_| KeyError::Unusable)?;
            jwt.verify(&probe, 0).filter(|_| jwt.ttl_s > 0).ok_or(KeyError::Mismatch)?;
        }
        Ok(jwt)
    }

    /// A token for a user.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(super) fn sign(
        &self,
        username: &str,
        revision: u64,
        now_s: u64,
    ) -> Result<String, TokenError> {
        let signer = self.signer.as_ref().ok_or(TokenError::VerifyOnly)?;
        let exp = now_s.saturating_add(self.ttl_s);
        let claims = Claims { exp, revision, username: username.to_owned() };
        let header = Header { alg: &self.method, typ: Some("JWT") };
        let part = |json: serde_json::Result<Vec<u8>>| {
            json.map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|_| TokenError::Failed)
        };
        let mut token = part(serde_json::to_vec(&header))?;
        token.push('.');
        token.push_str(&part(serde_json::to_vec(&claims))?);
        let signature = signer.sign(token.as_bytes()).ok_or(TokenError::Failed)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of a token, if it is to be trusted now.
    pub(super) fn verify(&self, token: &str, now_s: u64) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header = decode(header)?;
        let header: Header<'_> = serde_json::from_slice(&header).ok()?;
        if header.alg != self.method {
            return None;
        }
        if !self.verifier.accepts(signed.as_bytes(), &decode(signature)?) {
            return None;
        }
        let claims: Claims = serde_json::from_slice(&decode(claims)?).ok()?;
        (claims.exp > now_s).then_some(claims)
    }
}

impl Signer {
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ecdsa(key) => Some(key.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::P521(key) => {
                let signature: p521::ecdsa::Signature = key.try_sign(message).ok()?;
                Some(signature.to_bytes().to_vec())
            }
            Self::Ed25519(key) => Some(key.sign(message).as_ref().to_vec()),
        }
    }
}

impl Verifier {
    fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify(message, signature).is_ok(),
            Self::P521(key) => p521::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

#[cfg(test)]
mod tests;
