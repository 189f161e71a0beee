//! The window: what of the buffer the peer may fill, and what it was told of that.

use super::{PAGE, Receiver, Seq, count};

impl Receiver {
    /// How much the window has left.
    pub(in crate::tcp::conn) fn window_left(&self) -> u32 {
        self.edge.beyond(self.nxt)
    }

    /// Whether a segment touches the window (RFC 9293, section 3.10.7.4). A segment without bytes may stand at the very end:
    /// that is where a sender is that has filled it.
    pub(in crate::tcp::conn) fn accepts(&self, start: Seq, end: Seq) -> bool {
        if start == end {
            !start.is_before(self.nxt) && !start.is_after(self.edge)
        } else {
            end.is_after(self.nxt) && start.is_before(self.edge)
        }
    }

    /// The window to put into a header; it counts as announced.
    pub(in crate::tcp::conn) fn announce(&mut self) -> u16 {
        let edge = self.new_edge().unwrap_or(self.edge);
        let window = u16::try_from(edge.beyond(self.nxt) >> self.shift).unwrap_or(u16::MAX);
        self.edge = self.edge.latest(self.nxt + (u32::from(window) << self.shift));
        window
    }

    /// The window of a SYN, which is never scaled (RFC 7323, section 2.2).
    pub(in crate::tcp::conn) fn announce_in_syn(&self) -> u16 {
        u16::try_from(self.limit).unwrap_or(u16::MAX)
    }

    /// What of the buffer may be filled now.
    fn bound(&self) -> u32 {
        if self.pressed { self.limit.min(count(PAGE)) } else { self.limit }
    }

    /// Whether the sender should be told of a window that has opened.
    pub(in crate::tcp::conn) fn window_is_news(&self) -> bool {
        // Twice of what is left, like Linux: the acknowledgements of a running transfer tell the rest.
        let least = (2 * self.mss).min(self.bound() / 2);
        self.new_edge().is_some_and(|edge| {
            let room = edge.beyond(self.nxt);
            room >= least && room / 2 >= self.window_left()
        })
    }

    /// An end that is worth announcing (RFC 9293, section 3.8.6.2.2: no small steps), and that a header can tell of.
    fn new_edge(&self) -> Option<Seq> {
        let limit = self.bound();
        let edge = self.nxt + limit.saturating_sub(self.available()).min(u32::from(u16::MAX) << self.shift);
        (edge.beyond(self.edge) >= self.mss.min(limit / 2).max(1)).then_some(edge)
    }
}
