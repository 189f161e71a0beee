//! Data that can be made and checked at any position without being kept.

use std::io::{self, Read, Write};

/// The stream is made of words, each from its own position.
const WORD: usize = 8;

/// A seeded stream of pseudo-random bytes. A lost, doubled, moved or changed byte shows at its position.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    position: u64,
}

impl Pattern {
    /// The stream of this seed, from its beginning.
    pub fn new(seed: u64) -> Pattern {
        Pattern { seed: mix(seed), position: 0 }
    }

    /// How many bytes were made or checked.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes the stream's next bytes into `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let (head, rest) = buffer.split_at_mut(self.to_next_word().min(buffer.len()));
        self.fill_within_word(head);
        let mut words = rest.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&mix(self.seed ^ (self.position / WORD as u64)).to_le_bytes());
            self.position += WORD as u64;
        }
        self.fill_within_word(words.into_remainder());
    }

    fn to_next_word(&self) -> usize {
        (WORD - (self.position % WORD as u64) as usize) % WORD
    }

    fn fill_within_word(&mut self, buffer: &mut [u8]) {
        let word = mix(self.seed ^ (self.position / WORD as u64)).to_le_bytes();
        let start = (self.position % WORD as u64) as usize;
        buffer.copy_from_slice(&word[start..start + buffer.len()]);
        self.position += buffer.len() as u64;
    }

    /// Checks that `received` is what comes next.
    ///
    /// # Errors
    /// Names the position of the first difference.
    pub fn check(&mut self, received: &[u8]) -> io::Result<()> {
        let mut expected = [0; 4096];
        for part in received.chunks(expected.len()) {
            let start = self.position;
            let expected = &mut expected[..part.len()];
            self.fill(expected);
            if part != expected {
                let at = part.iter().zip(&*expected).take_while(|(one, two)| one == two).count();
                return Err(io::Error::other(format!("wrong data at byte {}", start + at as u64)));
            }
        }
        Ok(())
    }
}

/// SplitMix64's finalizer: every bit of the input reaches every bit of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Sends `length` bytes of the stream with this seed.
///
/// # Errors
/// Those of the connection.
pub fn send(mut to: impl Write, seed: u64, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 256 * 1024];
    while pattern.position() < length {
        let count =
            usize::try_from(length - pattern.position()).map_or(buffer.len(), |left| left.min(buffer.len()));
        pattern.fill(&mut buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
    Ok(())
}

/// Receives until the end of the stream, checks every byte against the stream with this seed, and says how many came.
///
/// # Errors
/// Those of the connection, and wrong data.
pub fn receive(mut from: impl Read, seed: u64) -> io::Result<u64> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(pattern.position()),
            Ok(count) => pattern.check(&buffer[..count])?,
            // A process that was stopped goes on.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_accepted_in_any_pieces() {
        let mut data = Vec::new();
        send(&mut data, 7, 100_003).expect("a vector takes everything");
        assert_eq!(receive(&data[..], 7).expect("the same data"), 100_003);
        let mut pattern = Pattern::new(7);
        data.chunks(7).for_each(|part| pattern.check(part).expect("the same data"));
    }

    #[test]
    fn a_lost_byte_is_found_where_it_was() {
        let mut data = Vec::new();
        send(&mut data, 7, 10_000).expect("a vector takes everything");
        data.remove(5_000);
        let error = receive(&data[..], 7).expect_err("a byte is missing");
        assert_eq!(error.to_string(), "wrong data at byte 5000");
    }
}
