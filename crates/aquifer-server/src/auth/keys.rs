//! Public keys: from PEM, from raw base64 as libSQL's server takes them, from a JWKS; and the check of a signature.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde::Deserialize;

use super::der;

// Object identifiers, undecoded: RFC 8410, 8017, 5480.
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

const PRIVATE: &str = "it holds a private key: give this server the public key only";

/// A signature algorithm of JWTs that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    EdDsa,
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
}

impl Algorithm {
    /// By its name in a JWT's header or in a JWK; `None` for all others.
    pub(super) fn of_jwt(name: &str) -> Option<Algorithm> {
        Some(match name {
            // RFC 9864 names the curve; most issuers write the older name.
            "EdDSA" | "Ed25519" => Algorithm::EdDsa,
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            _ => return None,
        })
    }
}

/// A public key that tokens may be signed by.
#[derive(Debug)]
pub(super) struct VerifyingKey {
    material: Material,
    /// Of a JWK: the id by which tokens name it.
    id: Option<String>,
    /// Of a JWK: the only algorithm that it is for.
    only: Option<Algorithm>,
}

#[derive(Debug)]
enum Material {
    Ed25519(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
}

impl VerifyingKey {
    /// Whether tokens of this algorithm that name this key id are meant to be checked by this key.
    pub(super) fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let named = match (&self.id, id) {
            (Some(own), Some(id)) => own == id,
            // Keys from PEM files have no id, and issuers that have one key may leave it out.
            _ => true,
        };
        named && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether the signature is this key's, by this algorithm. Never for an algorithm that is not of its kind.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let ec = |curve, point: &[u8]| UnparsedPublicKey::new(curve, point).verify(message, signature);
        match (&self.material, algorithm) {
            (Material::Ed25519(key), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature)
            }
            (Material::Rsa { modulus, exponent }, _) => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature)
            }
            (Material::P256(point), Algorithm::Es256) => ec(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), Algorithm::Es384) => ec(&signature::ECDSA_P384_SHA384_FIXED, point),
            _ => return false,
        }
        .is_ok()
    }
}

/// The keys in the content of a file: PEM, base64 lines or JWKS, whichever it is. At least one.
pub(super) fn parse(content: &[u8]) -> Result<Vec<VerifyingKey>, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not text".to_owned())?.trim();
    let keys = if text.starts_with('{') {
        jwks(text)?
    } else if text.contains("-----BEGIN") {
        pem(text)?
    } else {
        base64_lines(text)?
    };
    if keys.is_empty() {
        return Err("it holds no public key that tokens can be signed by (Ed25519, RSA, P-256, P-384)".into());
    }
    Ok(keys)
}

fn pem(text: &str) -> Result<Vec<VerifyingKey>, String> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes())
        .map(|section| match section.map_err(|error| format!("its PEM is damaged: {error:?}"))? {
            (SectionKind::PublicKey, der) => spki(&der).map(VerifyingKey::plain),
            (SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _) => {
                Err(PRIVATE.to_owned())
            }
            (other, _) => Err(format!(
                "it holds a PEM section of another kind ({other:?}): keys are in sections 'PUBLIC KEY', as \
                 `openssl pkey -pubout` writes them"
            )),
        })
        .collect()
}

fn spki(der: &[u8]) -> Result<Material, String> {
    let info = der::public_key_info(der).ok_or("a 'PUBLIC KEY' section does not hold a public key")?;
    match (info.algorithm, info.parameter) {
        (OID_ED25519, _) => ed25519(info.key),
        (OID_RSA, _) => {
            let (modulus, exponent) =
                der::rsa_public_key(info.key).ok_or("an RSA key has no modulus and exponent")?;
            rsa(modulus, exponent)
        }
        (OID_EC, Some(OID_P256)) => point(info.key, 32).map(Material::P256),
        (OID_EC, Some(OID_P384)) => point(info.key, 48).map(Material::P384),
        _ => Err("it holds a key of another kind than Ed25519, RSA, P-256, P-384".into()),
    }
}

fn base64_lines(text: &str) -> Result<Vec<VerifyingKey>, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let key = STANDARD
                .decode(line)
                .or_else(|_| URL_SAFE_NO_PAD.decode(line.trim_end_matches('=')))
                .map_err(|_| "it is neither PEM nor a JWKS nor base64".to_owned())?;
            ed25519(&key).map(VerifyingKey::plain)
        })
        .collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JwkFile {
    Set { keys: Vec<Jwk> },
    One(Box<Jwk>),
}

/// RFC 7517, 7518, 8037.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

fn jwks(text: &str) -> Result<Vec<VerifyingKey>, String> {
    let file: JwkFile =
        serde_json::from_str(text).map_err(|_| "it begins like a JWKS, but is none".to_owned())?;
    let keys = match file {
        JwkFile::Set { keys } => keys,
        JwkFile::One(key) => vec![*key],
    };
    keys.into_iter().filter_map(|key| jwk(key).transpose()).collect()
}

/// `None` for a key that is for something else: sets mix keys of many kinds, and RFC 7517 (section 5) says to ignore
/// those that one does not understand.
fn jwk(key: Jwk) -> Result<Option<VerifyingKey>, String> {
    let only = match key.alg.as_deref().map(Algorithm::of_jwt) {
        Some(None) => return Ok(None),
        only => only.flatten(),
    };
    if key.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Ok(None);
    }
    let part = |part: &Option<String>| {
        let part = part.as_deref().ok_or("a key of the JWKS lacks a part")?;
        URL_SAFE_NO_PAD
            .decode(part.trim_end_matches('='))
            .map_err(|_| "a key of the JWKS is not base64url".to_owned())
    };
    let coordinates = |bytes| point(&[&[4], &part(&key.x)?[..], &part(&key.y)?[..]].concat(), bytes);
    let material = match (key.kty.as_str(), key.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => ed25519(&part(&key.x)?)?,
        ("EC", Some("P-256")) => Material::P256(coordinates(32)?),
        ("EC", Some("P-384")) => Material::P384(coordinates(48)?),
        ("RSA", _) => rsa(&part(&key.n)?, &part(&key.e)?)?,
        _ => return Ok(None),
    };
    if key.d.is_some() {
        return Err(PRIVATE.to_owned());
    }
    Ok(Some(VerifyingKey { material, id: key.kid, only }))
}

impl VerifyingKey {
    fn plain(material: Material) -> VerifyingKey {
        VerifyingKey { material, id: None, only: None }
    }
}

fn ed25519(key: &[u8]) -> Result<Material, String> {
    match key.len() {
        32 => Ok(Material::Ed25519(key.to_vec())),
        len => Err(format!("an Ed25519 public key has 32 bytes, this one {len}")),
    }
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Material, String> {
    let (modulus, exponent) = (der::unsigned(modulus), der::unsigned(exponent));
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("an RSA key has {bits} bits: 2048 to 8192 are accepted"));
    }
    Ok(Material::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
}

/// An uncompressed point of a curve whose coordinates have this many bytes.
fn point(key: &[u8], coordinate: usize) -> Result<Vec<u8>, String> {
    if key.len() != 2 * coordinate + 1 || key.first() != Some(&4) {
        return Err("an elliptic-curve key is no uncompressed point of its curve".into());
    }
    Ok(key.to_vec())
}
