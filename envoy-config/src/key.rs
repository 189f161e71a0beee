//! Curve25519 and preshared keys. Secret ones are wiped on drop, and neither `Debug` nor an error shows them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x25519_dalek::x25519;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Problem;

const KEY_BYTES: usize = 32;
const KEY_CHARACTERS: usize = 44;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct RandomError(#[from] getrandom::Error);

/// A Curve25519 private key, always clamped (RFC 7748, section 5).
///
/// Deliberately without `Display` and `Serialize`: [`PrivateKey::to_base64`] is the one way out.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_BYTES]);

impl PrivateKey {
    /// Makes a new key from the operating system's random source.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self::from_bytes(*bytes))
    }

    /// Takes the key's 32 bytes and clamps them.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let mut key = Self(bytes);
        key.clamp();
        key
    }

    /// The key's 32 bytes. The copies a caller makes are the caller's to wipe.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The public key that belongs to this private key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519(self.0, x25519_dalek::X25519_BASEPOINT_BYTES))
    }

    /// The key as 44 characters of base64, for the file it is kept in.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        encode(&self.0)
    }

    fn clamp(&mut self) {
        self.0[0] &= 0b1111_1000;
        self.0[KEY_BYTES - 1] &= 0b0111_1111;
        self.0[KEY_BYTES - 1] |= 0b0100_0000;
    }
}

impl FromStr for PrivateKey {
    type Err = Problem;

    /// Parses 44 characters of base64. A key of zeros is refused: WireGuard's tools write it for "no key".
    fn from_str(text: &str) -> Result<Self, Problem> {
        let bytes = decode(text)?;
        if is_zero(&bytes) { Err(Problem::KeyZero) } else { Ok(Self::from_bytes(*bytes)) }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }
}

impl Eq for PrivateKey {}

/// A symmetric key that both ends of a tunnel mix into the handshake.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; KEY_BYTES]);

impl PresharedKey {
    /// Takes the key's 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key's 32 bytes. The copies a caller makes are the caller's to wipe.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Whether this is the key of zeros, which in WireGuard means "no preshared key".
    #[must_use]
    pub fn is_zero(&self) -> bool {
        is_zero(&self.0)
    }
}

impl FromStr for PresharedKey {
    type Err = Problem;

    /// Parses 44 characters of base64.
    fn from_str(text: &str) -> Result<Self, Problem> {
        Ok(Self(*decode(text)?))
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(hidden)")
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }
}

impl Eq for PresharedKey {}

/// A Curve25519 public key: the name of a peer. Displays as base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Takes the key's 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key's 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = Problem;

    /// Parses 44 characters of base64.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let bytes = decode(text)?;
        if is_zero(&bytes) { Err(Problem::KeyZero) } else { Ok(Self(*bytes)) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::value::from_text(deserializer)
    }
}

/// Whether `text` is, or nearly is, a key: then a person put a key where something else belongs, and no message may
/// repeat it.
///
/// A slash at the start and no `=` at the end is taken for a path.
pub(crate) fn looks_like_key(text: &str) -> bool {
    let text = text.trim();
    let body = text.trim_end_matches('=');
    let is_path = text.starts_with('/') && body.len() == text.len();
    (KEY_CHARACTERS - 3..=KEY_CHARACTERS).contains(&body.len())
        && body.bytes().all(is_base64_character)
        && !is_path
}

pub(crate) fn is_base64_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, Problem> {
    let characters = text.chars().count();
    if characters != KEY_CHARACTERS {
        return Err(Problem::KeyLength { characters });
    }
    // base64 asks for room for the padding too; 44 characters with one `=` are 32 bytes.
    let mut decoded = Zeroizing::new([0; KEY_BYTES + 1]);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    match STANDARD.decode_slice(text, decoded.as_mut_slice()) {
        Ok(KEY_BYTES) => key.copy_from_slice(&decoded[..KEY_BYTES]),
        _ => return Err(Problem::KeyEncoding),
    }
    Ok(key)
}

fn encode(bytes: &[u8; KEY_BYTES]) -> Zeroizing<String> {
    // The string never grows, so no copy of a secret is left behind on the heap.
    let mut text = Zeroizing::new(String::with_capacity(KEY_CHARACTERS));
    STANDARD.encode_string(bytes, &mut text);
    text
}

/// Compares without an early exit, so that the time taken says nothing about where two secrets differ.
fn same(left: &[u8; KEY_BYTES], right: &[u8; KEY_BYTES]) -> bool {
    left.iter().zip(right).fold(0, |difference, (l, r)| difference | (l ^ r)) == 0
}

fn is_zero(bytes: &[u8; KEY_BYTES]) -> bool {
    same(bytes, &[0; KEY_BYTES])
}
