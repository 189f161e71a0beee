//! Keys: the encoding, the arithmetic, and what they show of themselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use envoy_config::{PresharedKey, PrivateKey, Problem, PublicKey};

/// RFC 7748, section 6.1: Bob.
const PRIVATE: &str = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=";
const CLAMPED: &str = "WKsIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Gs=";
const PUBLIC: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn the_public_key_is_the_one_of_rfc_7748() {
    let private: PrivateKey = PRIVATE.parse().unwrap();
    assert_eq!(private.public_key().to_string(), PUBLIC);
    assert_eq!(private.public_key(), PUBLIC.parse().unwrap());
}

#[test]
fn a_private_key_is_clamped() {
    let private: PrivateKey = PRIVATE.parse().unwrap();
    assert_eq!(*private.to_base64(), CLAMPED);
    let generated = PrivateKey::generate().unwrap();
    assert_eq!(generated.as_bytes()[0] & 0b0000_0111, 0);
    assert_eq!(generated.as_bytes()[31] & 0b1100_0000, 0b0100_0000);
    assert_ne!(generated, PrivateKey::generate().unwrap());
}

#[test]
fn a_key_is_44_characters_of_base64_and_exactly_32_bytes() {
    let cases = [
        ("", Problem::KeyLength { characters: 0 }),
        (&PUBLIC[..43], Problem::KeyLength { characters: 43 }),
        (" 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=", Problem::KeyLength { characters: 45 }),
        // 33 and 31 bytes.
        ("3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08A", Problem::KeyEncoding),
        ("3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IKw==", Problem::KeyEncoding),
        // Bits after the 32nd byte, the URL alphabet, and a letter of two bytes.
        ("3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK09=", Problem::KeyEncoding),
        ("3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08=", Problem::KeyEncoding),
        ("ä3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK0=", Problem::KeyEncoding),
        (ZERO, Problem::KeyZero),
    ];
    for (text, problem) in cases {
        assert_eq!(text.parse::<PublicKey>().unwrap_err(), problem, "{text}");
        assert_eq!(text.parse::<PrivateKey>().unwrap_err(), problem, "{text}");
    }
    assert!(ZERO.parse::<PresharedKey>().unwrap().is_zero(), "zeros mean no preshared key");
}

#[test]
fn debug_hides_secrets_and_shows_public_keys() {
    assert_eq!(format!("{:?}", PRIVATE.parse::<PrivateKey>().unwrap()), "PrivateKey(hidden)");
    assert_eq!(format!("{:?}", PRIVATE.parse::<PresharedKey>().unwrap()), "PresharedKey(hidden)");
    assert_eq!(format!("{:?}", PUBLIC.parse::<PublicKey>().unwrap()), format!("PublicKey({PUBLIC})"));
}
