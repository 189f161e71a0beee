//! Flows of a whole stack, whose peer says exactly what it is told to.

use nexodus_netstack::{Event, FlowId};

use crate::sim::raw::Raw;
use crate::wire::{ACK, SYN, Seg};

/// A call without options.
pub fn syn(seq: u32) -> Seg {
    Seg { seq, flags: SYN, window: 1000, ..Seg::default() }
}

/// Gives a stack that listens a SYN from `port`: the new flow, which is accepted, and the answer; or there is none.
pub fn answer(raw: &mut Raw, port: u16, syn: &Seg) -> Option<(FlowId, Seg)> {
    raw.send(&syn.packet((1, port), (2, 80)));
    let mut incoming = None;
    while let Some(event) = raw.stack.poll_event() {
        if let Event::Incoming { flow, .. } = event {
            raw.stack.accept(raw.now, flow);
            incoming = Some(flow);
        }
    }
    let answers: Vec<_> = raw.replies().iter().map(|packet| Seg::read(packet)).collect();
    let answer = answers.into_iter().find(|answer| answer.flags == SYN | ACK);
    assert_eq!(incoming.is_some(), answer.is_some());
    incoming.zip(answer)
}
