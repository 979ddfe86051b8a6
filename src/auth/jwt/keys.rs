//! Keys of signed tokens: PEM files in the forms that openssl writes.

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p521::ecdsa::{SigningKey, VerifyingKey};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
    },
};

use super::{Algorithm, Signer, Verifier};

/// Why the keys of signed tokens cannot be used. No text shows a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the token key {path}")]
    Read {
        /// Path as configured.
        path: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No such algorithm here.
    #[error(
        "sign-method {0:?} is not known; use RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
         ES384, ES512, EdDSA, HS256, HS384 or HS512"
    )]
    Method(String),
    /// The algorithm needs a key that is not configured.
    #[error("auth: jwt key is missing; set priv-key, and pub-key unless it follows from it")]
    Missing,
    /// The file holds no key of the algorithm's kind.
    #[error(
        "a token key is of no use for its sign-method: give a PEM file with an unencrypted key \
         of that kind, RSA with at least 2048 bits"
    )]
    Unusable,
    /// The public key does not verify what the private key signs.
    #[error("pub-key and priv-key are no pair, or ttl is zero")]
    Mismatch,
}

/// The keys of an algorithm from the bytes of the configured files.
pub(super) fn pair(
    algorithm: Algorithm,
    private: Option<&[u8]>,
    public: Option<&[u8]>,
) -> Result<(Option<Signer>, Verifier), KeyError> {
    if let Algorithm::Hmac(algorithm) = algorithm {
        // One shared secret: the bytes of the private file, whatever they are.
        let secret = private.filter(|secret| !secret.is_empty()).ok_or(KeyError::Missing)?;
        let key = hmac::Key::new(algorithm, secret);
        return Ok((Some(Signer::Hmac(key.clone())), Verifier::Hmac(key)));
    }
    let signer = private.map(|pem| signer(algorithm, pem)).transpose()?;
    let public = match (public, &signer) {
        (Some(pem), _) => public_key(pem).ok_or(KeyError::Unusable)?,
        (None, Some(Signer::P521(key))) => {
            let verifier = Verifier::P521(Box::new(*key.verifying_key()));
            return Ok((signer, verifier));
        }
        (None, Some(Signer::Rsa(key, _))) => key.public_key().as_ref().to_vec(),
        (None, Some(Signer::Ecdsa(key))) => key.public_key().as_ref().to_vec(),
        (None, Some(Signer::Ed25519(key))) => key.public_key().as_ref().to_vec(),
        (None, _) => return Err(KeyError::Missing),
    };
    let verification: &'static dyn VerificationAlgorithm = match algorithm {
        Algorithm::Rsa(_, parameters) => parameters,
        Algorithm::Ecdsa(_, algorithm) => algorithm,
        Algorithm::P521 => {
            let key = VerifyingKey::from_sec1_bytes(&public).map_err(|_| KeyError::Unusable)?;
            return Ok((signer, Verifier::P521(Box::new(key))));
        }
        Algorithm::Ed25519 | Algorithm::Hmac(_) => &ED25519,
    };
    Ok((signer, Verifier::Public(UnparsedPublicKey::new(verification, public))))
}

fn signer(algorithm: Algorithm, pem: &[u8]) -> Result<Signer, KeyError> {
    let (label, der) = pem_block(pem, "PRIVATE KEY").ok_or(KeyError::Unusable)?;
    let pkcs8 = label == "PRIVATE KEY";
    let signer = match algorithm {
        Algorithm::Rsa(encoding, _) => {
            let key = if pkcs8 { RsaKeyPair::from_pkcs8(&der) } else { RsaKeyPair::from_der(&der) };
            key.ok().map(|key| Signer::Rsa(key, encoding))
        }
        Algorithm::Ecdsa(signing, _) => {
            let random = SystemRandom::new();
            let key = if pkcs8 {
                EcdsaKeyPair::from_pkcs8(signing, &der, &random).ok()
            } else {
                let scalar_bytes =
                    if *signing == ECDSA_P256_SHA256_FIXED_SIGNING { 32 } else { 48 };
                sec1(&der, scalar_bytes).and_then(|(scalar, point)| {
                    EcdsaKeyPair::from_private_key_and_public_key(signing, scalar, point, &random)
                        .ok()
                })
            };
            key.map(Signer::Ecdsa)
        }
        Algorithm::P521 => p521_scalar(&der, pkcs8).and_then(|scalar| {
            SigningKey::from_slice(scalar).ok().map(|key| Signer::P521(Box::new(key)))
        }),
        Algorithm::Ed25519 => {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok().map(Signer::Ed25519)
        }
        Algorithm::Hmac(_) => None,
    };
    signer.ok_or(KeyError::Unusable)
}

/// The bare public key of a PEM file: what is inside a `PUBLIC KEY`, or an `RSA PUBLIC KEY`.
fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    let (label, der) = pem_block(pem, "PUBLIC KEY")?;
    if label == "RSA PUBLIC KEY" {
        return Some(der);
    }
    let mut spki = Der(&der).take(SEQUENCE)?;
    spki.take(SEQUENCE)?;
    spki.bits().map(<[u8]>::to_vec)
}

/// Private scalar of an `EC PRIVATE KEY` on P-521, bare or in PKCS #8; its public point may be absent.
fn p521_scalar(der: &[u8], pkcs8: bool) -> Option<&[u8]> {
    let mut key = Der(der).take(SEQUENCE)?;
    if pkcs8 {
        key.take(INTEGER)?;
        let mut algorithm = key.take(SEQUENCE)?;
        let names = (algorithm.take(IDENTIFIER)?.0, algorithm.take(IDENTIFIER)?.0);
        (names == (EC_PUBLIC_KEY, SECP521R1)).then_some(())?;
        key = key.take(OCTETS)?.take(SEQUENCE)?;
    }
    scalar(&mut key).filter(|scalar| scalar.len() == P521_BYTES)
}

/// Private scalar and public point of an `EC PRIVATE KEY`.
fn sec1(der: &[u8], scalar_bytes: usize) -> Option<(&[u8], &[u8])> {
    let mut key = Der(der).take(SEQUENCE)?;
    let scalar = scalar(&mut key)?;
    if key.0.first() == Some(&PARAMETERS) {
        key.take(PARAMETERS)?;
    }
    let point = key.take(POINT)?.bits()?;
    (scalar.len() == scalar_bytes).then_some((scalar, point))
}

/// The scalar that stands behind the version at the start of an `EC PRIVATE KEY`.
fn scalar<'a>(key: &mut Der<'a>) -> Option<&'a [u8]> {
    key.take(INTEGER)?;
    Some(key.take(OCTETS)?.0)
}

/// Label and contents of the first PEM block whose label ends with `kind`.
fn pem_block(pem: &[u8], kind: &str) -> Option<(String, Vec<u8>)> {
    let mut rest = std::str::from_utf8(pem).ok()?;
    loop {
        let (_, after) = rest.split_once("-----BEGIN ")?;
        let (label, after) = after.split_once("-----")?;
        let (body, after) = after.split_once("-----END ")?;
        if label.ends_with(kind) {
            let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            // Headers (an encrypted key) are no base64 and so refused here.
            return Some((label.to_owned(), STANDARD.decode(body).ok()?));
        }
        rest = after;
    }
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const PARAMETERS: u8 = 0xa0;
const POINT: u8 = 0xa1;

/// 1.2.840.10045.2.1: a key on an elliptic curve (RFC 5480).
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.3.132.0.35: the curve P-521.
const SECP521R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
/// Bytes of a private scalar on P-521.
const P521_BYTES: usize = 66;

/// Reads DER values off the front.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next value, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<Self> {
        let (&[found, length], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match length {
            short @ ..=0x7f => (usize::from(short), rest),
            0x81 => rest.split_first().map(|(&length, rest)| (usize::from(length), rest))?,
            0x82 => rest
                .split_first_chunk::<2>()
                .map(|(&length, rest)| (usize::from(u16::from_be_bytes(length)), rest))?,
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (found == tag).then_some(Der(contents))
    }

    /// The bytes of the next value, a string of whole bytes.
    fn bits(&mut self) -> Option<&'a [u8]> {
        let (unused, bytes) = self.take(BITS)?.0.split_first()?;
        (*unused == 0).then_some(bytes)
    }
}
