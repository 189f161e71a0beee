//! Sequence numbers: 32 bits that wrap (RFC 9293, section 3.4).

use std::ops::{Add, Sub};

/// A sequence number. Order is a matter of which of two is less than half the space ahead, so there is no `Ord`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seq(pub(super) u32);

impl Seq {
    pub(super) fn is_before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
    }

    pub(super) fn is_after(self, other: Self) -> bool {
        other.is_before(self)
    }

    pub(super) fn latest(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }

    pub(super) fn earliest(self, other: Self) -> Self {
        if self.is_after(other) { other } else { self }
    }

    pub(super) fn back(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// How far this is beyond `other`; zero when it is not.
    pub(super) fn beyond(self, other: Self) -> u32 {
        if self.is_after(other) { self - other } else { 0 }
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

/// The distance from an earlier number.
impl Sub for Seq {
    type Output = u32;

    fn sub(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// A length as the sequence space counts it. Nothing in a connection is longer: buffers end at 1 GiB.
pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let (low, high) = (Seq(5), Seq(u32::MAX - 5));
        assert!(high.is_before(low) && low.is_after(high) && !low.is_before(low) && !low.is_after(low));
        assert_eq!((low - high, high + 11, low.back(11)), (11, low, high));
        assert_eq!((low.beyond(high), high.beyond(low)), (11, 0));
        assert_eq!((low.latest(high), low.earliest(high)), (low, high));
    }
}
