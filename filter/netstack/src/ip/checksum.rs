//! The Internet checksum (RFC 1071).

/// A sum of bytes, each pair one number. It is kept in the machine's own order, which comes to the same when the bytes are
/// swapped at the end (section 2).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes that stand at an even offset. A last one without a second counts as if a zero followed.
    pub(crate) fn add(&mut self, data: &[u8]) {
        let mut words = data.chunks_exact(8);
        let (mut whole, mut upper) = (0_u64, 0_u64);
        for word in &mut words {
            let word = word.try_into().map_or(0, u64::from_ne_bytes);
            whole = whole.wrapping_add(word);
            upper = upper.wrapping_add(word >> 32);
        }
        // The sum of the lower halves is what is left of the whole, and fits, although the whole has wrapped. This is one
        // operation less for each word than to take the halves apart, and the compiler makes vectors of it.
        self.0 += whole.wrapping_sub(upper << 32) + upper;
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        let last = u64::from_ne_bytes(last);
        self.0 += (last & 0xffff_ffff) + (last >> 32);
    }

    /// Adds bytes that stand at `offset`.
    pub(crate) fn add_at(&mut self, offset: usize, data: &[u8]) {
        let mut sum = Self::default();
        sum.add(data);
        self.0 += u64::from(if offset.is_multiple_of(2) { sum.fold() } else { sum.fold().swap_bytes() });
    }

    /// The checksum: big-endian bytes of it make the sum of everything zero.
    pub(crate) fn finish(self) -> u16 {
        u16::from_be(!self.fold())
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap_or_default()
    }
}

/// A sum of numbers in the order of the network.
impl From<u32> for Sum {
    fn from(numbers: u32) -> Self {
        Self(u64::from(u32::from_ne_bytes(numbers.to_be_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 4.1, as it stands there.
    fn slowly(data: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or_default()
    }

    #[test]
    fn it_is_the_checksum_of_the_rfc() {
        let mut state = 1;
        let noise: Vec<u8> =
            (0..3000).map(|_| crate::seed::next_random(&mut state).to_le_bytes()[0]).collect();
        for data in [noise, vec![0xff; 3000], vec![0; 3000]] {
            for len in (0..200).chain([1368, 2999, 3000]) {
                let data = &data[..len];
                let mut sum = Sum::default();
                sum.add(data);
                assert_eq!(sum.finish(), slowly(data), "{len} bytes");
                for cut in [1, 2, 63, 64, 65, 1001] {
                    let (first, second) = data.split_at(cut.min(len));
                    let mut sum = Sum::default();
                    sum.add_at(0, first);
                    sum.add_at(first.len(), second);
                    assert_eq!(sum.finish(), slowly(data), "{len} bytes, cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn numbers_count_as_their_bytes() {
        let mut sum = Sum::from(0x1234_5678);
        sum.add(&[1, 2, 3]);
        assert_eq!(sum.finish(), slowly(&[0x12, 0x34, 0x56, 0x78, 1, 2, 3]));
    }
}
