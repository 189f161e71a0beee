//! What has arrived twice and was not told yet (RFC 2883).

use super::options::Block;

/// More than this between two acknowledgements is forgotten: a report is a service to the sender.
const MOST: usize = 4;

/// A sender takes a recovery back when *every* retransmission of it is reported as a duplicate. Segments arrive in
/// batches that are acknowledged together, so the reports wait here for an acknowledgement each; those that touch are told
/// as one, and a sender counts its segments by their bytes (RFC 2883, section 4: "one contiguous sequence").
#[derive(Default)]
pub(super) struct Duplicates {
    /// Only while there are some: most connections never have any.
    blocks: Option<Box<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    blocks: [Block; MOST],
    len: usize,
}

impl Duplicates {
    pub(super) fn push(&mut self, block: Block) {
        let known = self.blocks.get_or_insert_default();
        if let Some(last) = known.blocks[..known.len].last_mut() {
            if last.1 == block.0 {
                last.1 = block.1;
                return;
            }
            if block.1 == last.0 {
                last.0 = block.0;
                return;
            }
        }
        if let Some(free) = known.blocks.get_mut(known.len) {
            *free = block;
            known.len += 1;
        }
    }

    /// The oldest.
    pub(super) fn pop(&mut self) -> Option<Block> {
        let known = self.blocks.as_mut()?;
        let first = known.blocks[0];
        known.blocks.copy_within(1.., 0);
        known.len -= 1;
        if known.len == 0 {
            self.blocks = None;
        }
        Some(first)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.blocks.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::seq::Seq;
    use super::*;

    #[test]
    fn they_are_told_in_order_and_joined_where_they_touch() {
        let mut duplicates = Duplicates::default();
        for (start, end) in [(10, 20), (20, 30), (5, 10), (50, 60), (70, 80), (90, 95), (110, 120), (97, 99)]
        {
            duplicates.push((Seq(start), Seq(end)));
        }
        let told: Vec<_> =
            std::iter::from_fn(|| duplicates.pop()).map(|(start, end)| (start.0, end.0)).collect();
        assert_eq!(told, [(5, 30), (50, 60), (70, 80), (90, 95)]);
        assert!(duplicates.is_empty());
    }
}
