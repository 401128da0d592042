//! As much DER as public keys need: `SubjectPublicKeyInfo` (RFC 5280, 8410, 5480) and `RSAPublicKey` (RFC 8017).

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// A `SubjectPublicKeyInfo` taken apart: the object identifiers of the algorithm and (for elliptic curves) of its
/// parameter, undecoded, and the bits of the key.
pub(super) struct PublicKeyInfo<'a> {
    pub(super) algorithm: &'a [u8],
    pub(super) parameter: Option<&'a [u8]>,
    pub(super) key: &'a [u8],
}

/// Takes a `SubjectPublicKeyInfo` apart; `None` when it is not one.
pub(super) fn public_key_info(der: &[u8]) -> Option<PublicKeyInfo<'_>> {
    let (info, rest) = element(der, SEQUENCE)?;
    let (identifier, bits) = element(info, SEQUENCE)?;
    let (algorithm, parameter) = element(identifier, OID)?;
    let (key, after) = element(bits, BIT_STRING)?;
    let (unused_bits, key) = key.split_first()?;
    (rest.is_empty() && after.is_empty() && *unused_bits == 0).then(|| PublicKeyInfo {
        algorithm,
        parameter: element(parameter, OID).map(|(oid, _)| oid),
        key,
    })
}

/// Modulus and exponent, big-endian without leading zeros; `None` when it is no `RSAPublicKey`.
pub(super) fn rsa_public_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, rest) = element(der, SEQUENCE)?;
    let (modulus, key) = element(key, INTEGER)?;
    let (exponent, key) = element(key, INTEGER)?;
    (rest.is_empty() && key.is_empty()).then(|| (unsigned(modulus), unsigned(exponent)))
}

/// The bytes of a number without leading zeros.
pub(super) fn unsigned(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The content of the element that `der` begins with, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    let (len, der) = match first {
        0..=0x7f => (usize::from(first), der),
        // Keys are shorter than 64 KiB.
        0x81 => (usize::from(*der.first()?), der.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*der.first()?, *der.get(1)?])), der.get(2..)?),
        _ => return None,
    };
    (found == tag).then(|| der.split_at_checked(len)).flatten()
}
